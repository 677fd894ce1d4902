"""The one place where transactions begin and end.

Every change runs SERIALIZABLE, and the whole use case is run again when PostgreSQL says 40001 or 40P01: the net below
everything. Changes of desired state (placement above all) are hot: with 60 writers, the net alone would cost six
attempts per commit. They therefore take turns. Their first statement is LOCK TABLE, which PostgreSQL runs before the
transaction takes its snapshot. So whoever waited sees what the one before committed, and does not conflict with it. (An
advisory lock by SELECT would take the snapshot first and then wait: a sure conflict.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from berth.errors import Unavailable
from controller.core.commands import Command
from controller.core.events import Happening
from controller.store.address import sqlalchemy_url
from controller.store.schema import cells, events

log = structlog.get_logger(__name__)

T = TypeVar("T")

CHANNEL_DESIRED = "berth_desired"
CHANNEL_EVENTS = "berth_events"

_SERIALIZATION = ("40001", "40P01")
_DUPLICATE_REQUEST = "pk_idempotency"
_LOCK_TIMEOUT = "55P03"
_OVERFLOW = 4
_ATTEMPTS = 20
_UPLOADS_AT_ONCE = 3
# Longer than an embedded server takes to come back after a kill.
PATIENCE_S = 5.0
_EVENTS_LOCK = 0x62657674
_OPTIONS = (
    "-c statement_timeout=30s -c lock_timeout=15s -c idle_in_transaction_session_timeout=10s "
    "-c timezone=UTC -c application_name=berth-controller"
)


@dataclass(slots=True)
class Tx:
    """An open transaction. Events and the wish for a new generation are collected, and written last.

    `fleet` says that it holds the lock under which desired state changes; `change_desired` demands it.
    """

    connection: AsyncConnection
    fleet: bool = False
    changed: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        return await self.connection.execute(statement, parameters)

    def change_desired(self) -> None:
        """What the cells should hold, or how names resolve, changes with this commit: every cell's generation grows."""
        if not self.fleet:
            raise AssertionError("desired state changes only under the fleet's lock")
        self.changed = True

    def tell(self, by: Command, what: Happening) -> None:
        """Record an event; it exists if and only if the transaction commits."""
        tenant, path = what.of
        event = {"kind": what.KIND, "actor": by.actor, "tenant": tenant, "subject": path, "data": what.data(by)}
        self.events.append(event)


class Transactions:
    """The pool and the retry. `run` is for changes, `read` for consistent reads that can never conflict."""

    def __init__(
        self, url: str, registry: CollectorRegistry, *, pool_size: int = 8, patience_s: float = PATIENCE_S
    ) -> None:
        self._patience_s = patience_s
        self._engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=_OVERFLOW,
            pool_timeout=10,
            pool_recycle=1800,
            connect_args={"options": _OPTIONS, "connect_timeout": 5, "prepare_threshold": 3},
        )
        self._retries = Counter(
            "berth_transaction_retries", "Transactions run again, by cause", ["cause"], registry=registry
        )
        self._seconds = Histogram(
            "berth_transaction_seconds", "Time of a use case's transaction with its retries", registry=registry
        )
        self.retries = 0
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def run(self, use_case: Callable[[Tx], Awaitable[T]], *, fleet: bool = False, uploads: bool = False) -> T:
        """Run `use_case` in a SERIALIZABLE transaction, again while PostgreSQL asks for it, and commit.

        `fleet` makes it take its turn among all that change desired state, `uploads` among all that change uploads
        under way: both are small tables that many write at once. `use_case` must do nothing but SQL: it may
        run several times. Raises `Unavailable` when the database is away or the conflict does not end.
        """
        with self._seconds.time():
            if not uploads:
                return await self._patiently(lambda: self._once(use_case, fleet, uploads))
            # Whoever waits for the table holds a connection: they must not hold all that other requests need.
            async with self._uploads:
                return await self._patiently(lambda: self._once(use_case, fleet, uploads))

    async def read(self, query: Callable[[Tx], Awaitable[T]]) -> T:
        """Run `query` on one snapshot, read-only: never a conflict. Raises `Unavailable` when the database is away."""

        async def once() -> T:
            async with self._connect("REPEATABLE READ", read_only=True) as connection:
                with _losses():
                    return await query(Tx(connection))

        return await self._patiently(once)

    async def ping(self) -> None:
        """One round trip, at most two seconds. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(2), self._connect("READ COMMITTED", read_only=True) as connection:
                await connection.execute(text("SELECT 1"))
        except (*_DATABASE_ERRORS, TimeoutError) as error:
            raise _unavailable(error) from error

    @asynccontextmanager
    async def lead(self, lock: int) -> AsyncIterator[bool]:
        """Whether this controller may do periodic work that only one should do. The answer holds until the context
        ends.

        A session's advisory lock: it goes with its connection, so a killed controller blocks nobody. Raises
        `Unavailable` when the database is away.
        """
        parameters = {"lock": lock}
        try:
            async with self._connect("AUTOCOMMIT") as connection:
                mine = (await connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), parameters)).scalar_one()
                try:
                    yield bool(mine)
                finally:
                    if mine:
                        await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), parameters)
        except _DATABASE_ERRORS as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        await self._engine.dispose()

    async def _once(self, use_case: Callable[[Tx], Awaitable[T]], fleet: bool, uploads: bool) -> T:
        async with self._connect("SERIALIZABLE") as connection:
            with _losses():
                tx = Tx(connection, fleet)
                # Always in this order: whoever has both locks never waits for one that has the second alone.
                if locked := ", ".join(["cells"] * fleet + ["uploads"] * uploads):
                    await connection.execute(text(f"LOCK TABLE {locked} IN EXCLUSIVE MODE"))
                result = await use_case(tx)
                await _write_collected(tx)
            # Beyond this line the outcome of a lost connection is unknown, and nothing is tried again.
            await connection.commit()
        return result

    async def _patiently(self, attempt_once: Callable[[], Awaitable[T]]) -> T:
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(self._should_retry),
                stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(self._patience_s),
                wait=wait_random_exponential(multiplier=0.005, max=0.5),
                reraise=True,
            ):
                with attempt:
                    return await attempt_once()
        except _DATABASE_ERRORS as error:
            raise _unavailable(error) from error
        raise AssertionError("tenacity neither returned nor raised")

    @asynccontextmanager
    async def _connect(self, isolation: str, *, read_only: bool = False) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._engine.connect())
            except exc.OperationalError as error:
                raise _LostBeforeCommit from error
            await connection.execution_options(isolation_level=isolation, postgresql_readonly=read_only)
            yield connection

    def _should_retry(self, error: BaseException) -> bool:
        cause = _retry_cause(error)
        if cause is not None:
            self.retries += 1
            self._retries.labels(cause).inc()
        return cause is not None


class _LostBeforeCommit(Exception):
    """The connection could not be had, or went before COMMIT was sent: nothing happened, so trying again is safe."""


# Trouble with the database rather than with what was asked of it. `exc.TimeoutError`: no connection came free.
_DATABASE_ERRORS = (_LostBeforeCommit, exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


def _is_loss(error: exc.OperationalError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    # 57P0x: the server shuts down, was killed, or is starting.
    return error.connection_invalidated or state is None or state.startswith(("57P0", "08"))


async def _write_collected(tx: Tx) -> None:
    if tx.changed:
        await tx.execute(cells.update().values(generation=cells.c.generation + 1))
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL_DESIRED})
    if tx.events:
        # Ids are given out in the order of commits: a reader that has seen id N will never find a smaller one new.
        await tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _EVENTS_LOCK})
        await tx.execute(events.insert(), tx.events)
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL_EVENTS})


@contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except exc.OperationalError as error:
        if _is_loss(error):
            raise _LostBeforeCommit from error
        raise


def _retry_cause(error: BaseException) -> str | None:
    if isinstance(error, _LostBeforeCommit):
        return "connection lost"
    if not isinstance(error, exc.DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None)
    if state in _SERIALIZATION:
        return "conflict" if state == "40001" else "deadlock"
    if state == "23505" and _DUPLICATE_REQUEST in str(error.orig):
        # The same request ran at the same time and won: the next attempt finds its answer.
        return "duplicate request"
    return None


def _unavailable(error: Exception) -> Unavailable:
    cause = error.__cause__ if isinstance(error, _LostBeforeCommit) else error
    state = getattr(getattr(cause, "orig", None), "sqlstate", None)
    log.warning("the database did not answer", error=str(cause).partition("\n")[0], sqlstate=state)
    if state == _LOCK_TIMEOUT or state in _SERIALIZATION:
        return Unavailable("too many changes at once")
    return Unavailable("the database is not available")
