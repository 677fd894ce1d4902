"""The database as the controller finds it at its start: waited for, migrated or checked, and given its first key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import structlog

from berth.composition import Composition
from berth.errors import Unavailable
from berth.settings import SettingsError
from controller import migrate
from controller.settings import ControllerSettings
from controller.store.transaction import Transactions
from controller.usecases import keys

log = structlog.get_logger(__name__)

_PATIENCE_S = 30.0
_RETRY_S = 0.25


async def open_database(process: Composition, settings: ControllerSettings) -> Transactions:
    """The database, ready to be used until the process ends. Raises `SettingsError`."""
    await _await_database(settings, process.stop)
    transactions = Transactions(
        settings.database_url,
        process.registry,
        pool_size=settings.database_connections,
        patience_s=settings.database_patience_s,
    )
    process.at_end(transactions.close)
    await _accept_bootstrap(transactions, settings.bootstrap_key_file)
    return transactions


async def _await_database(settings: ControllerSettings, stop: asyncio.Event) -> None:
    """Migrate, or check that someone has; wait a while for a database that is only starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_S
    while not stop.is_set():
        try:
            await asyncio.to_thread(_migrate, settings)
        except psycopg.OperationalError as error:
            if loop.time() > deadline:
                # Without the reason: libpq's messages may quote the URL.
                raise SettingsError("BERTH_DATABASE_URL: the database cannot be reached") from None
            log.info("waiting for the database", sqlstate=error.sqlstate)
            await asyncio.sleep(_RETRY_S)
        else:
            return


def _migrate(settings: ControllerSettings) -> None:
    if settings.migrate:
        migrate.ensure_current(settings.database_url)
    else:
        migrate.check_current(settings.database_url)


async def _accept_bootstrap(transactions: Transactions, path: Path | None) -> None:
    if path is None:
        return
    try:
        secret = (await asyncio.to_thread(path.read_text, "ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"BERTH_BOOTSTRAP_KEY_FILE: cannot read {path}: {error}") from None
    if len(secret) < 32:
        raise SettingsError(f"BERTH_BOOTSTRAP_KEY_FILE: the key in {path} is shorter than 32 characters")
    try:
        await transactions.run(lambda tx: keys.accept_bootstrap(tx, secret), fleet=True)
    except Unavailable as error:
        raise SettingsError(f"the database failed during start: {error.detail}") from None
