"""Tells a test when something was committed to its database, so that it looks again then, and not all the time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from controller.store.address import libpq_url
from controller.store.schema import metadata

_CHANNEL = "berth_test"
_TELL = """
CREATE OR REPLACE FUNCTION berth_test_tell() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_notify('berth_test', TG_TABLE_NAME); RETURN NULL; END $$
"""

Committed = Callable[..., Awaitable[None]]
"""Waits until one of the tables that are named (any, if none is) was written to since the last time."""


def tell_of_commits(url: str) -> None:
    """Have the database at `url` notify of every statement that writes to one of Berth's tables."""
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute(_TELL)
        for table in metadata.tables:
            connection.execute(
                sql.SQL(
                    "CREATE OR REPLACE TRIGGER berth_test AFTER INSERT OR UPDATE OR DELETE ON {} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION berth_test_tell()"
                ).format(sql.Identifier(table))
            )


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Committed]:
    """From now on. Nothing that is committed after is missed."""
    async with await psycopg.AsyncConnection.connect(libpq_url(url), autocommit=True) as connection:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(_CHANNEL)))

        async def committed(*tables: str) -> None:
            async for notification in connection.notifies():
                if not tables or notification.payload in tables:
                    return

        yield committed
