"""How migrations run: one at a time in the whole database, and never waiting long for a lock that readers hold.

A migration that cannot get its locks gives up and is tried at the next start: a queue of waiting queries behind it
would be an outage. Changes expand first and contract a release later, since old controllers run beside new ones.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, text

from controller.store.schema import metadata

# Any number that no one else uses: "berth" in ASCII.
_LOCK = 0x6265727468
_SETTINGS = "SET lock_timeout = '10s'; SET statement_timeout = '5min'; SET idle_in_transaction_session_timeout = '5min'"


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    url = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("say which database: alembic -x url=postgresql+psycopg://user:password@host/name …")
    engine = create_engine(url)
    with engine.connect() as connection:
        # Held by the session, so that it outlives the transaction of each migration. Another process that migrates
        # right now is waited for, longer than it can take.
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text(_SETTINGS))
        connection.commit()
        try:
            _migrate(connection)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()
    engine.dispose()


_run()
