"""Brings the schema up to date. Alembic is imported only when there is something to do: it costs 0.3 s and 15 MB.

`python -m controller.migrate` does that and ends: a deployment that upgrades in steps runs it before its controllers.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import structlog
from psycopg import errors

from berth.process import run
from berth.settings import SettingsError, environment
from controller.settings import DatabaseSettings
from controller.store.address import libpq_url, sqlalchemy_url
from controller.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)

_FOLDER = Path(__file__).parent.parent / "migrations"


def current_revision(url: str) -> str | None:
    """The database's revision, None if it has no schema. Raises `psycopg.OperationalError` if it cannot be reached."""
    with psycopg.connect(libpq_url(url), autocommit=True, connect_timeout=10) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except errors.UndefinedTable:
            return None
    return None if row is None else str(row[0])


def ensure_current(url: str) -> None:
    """Migrate the database at `url` unless it is current. Safe to call from many processes at once.

    Raises `SettingsError` if a newer Berth has migrated the database: this one does not know its schema.
    """
    revision = current_revision(url)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise SettingsError(f"the database is at revision {revision}, this controller knows {HEAD}: upgrade it")
    from alembic import command

    log.info("migrating the database", revision=revision, to=HEAD)
    command.upgrade(configuration(url), "head")


def check_current(url: str) -> None:
    """Raises `SettingsError` unless the database at `url` is at this controller's revision."""
    revision = current_revision(url)
    if revision != HEAD:
        raise SettingsError(f"the database is at revision {revision}, this controller needs {HEAD}: migrate it")


def configuration(url: str) -> Config:
    """Alembic's configuration for `url`, without any file: `migrations/` is found beside the package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("sqlalchemy.url", sqlalchemy_url(url).replace("%", "%%"))
    return config


async def serve(settings: DatabaseSettings, stop: asyncio.Event) -> None:
    """Migrate, then ask to stop. Raises `SettingsError` if the database cannot be reached or is too new."""
    try:
        await asyncio.to_thread(ensure_current, settings.database_url)
    except psycopg.OperationalError:
        # Without the reason: libpq's messages may quote the URL.
        raise SettingsError("BERTH_DATABASE_URL: the database cannot be reached") from None
    log.info("the database is current", revision=HEAD)
    stop.set()


def main() -> None:
    sys.exit(run("controller.migrate", DatabaseSettings, serve, environment(), sys.argv[1:]))


if __name__ == "__main__":
    main()
