"""Keeps the newest desired state of each watched cell: built once per generation, shared by all that watch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import structlog

from berth.errors import BerthError
from berth.reconcile import Again, Outcome, Repeater
from berth.wake import Wake
from berth.wire import convert
from berth.wire.v1 import desired_pb2
from controller.store import cells
from controller.store.transaction import Transactions, Tx
from controller.usecases import desired

log = structlog.get_logger(__name__)

POLL_S = 2.0
REPEAT_S = 5.0


class DesiredHub:
    """`run` follows the database; `watch` follows one cell. The states live in `_states` until nobody watches."""

    def __init__(self, transactions: Transactions, changes: Wake) -> None:
        self._transactions = transactions
        self._loop = Repeater(self._look, wake=changes)
        self._published = Wake()
        self._watchers: Counter[str] = Counter()
        self._states: dict[str, desired_pb2.DesiredState] = {}

    def __repr__(self) -> str:
        generations = {cell: state.generation for cell, state in self._states.items()}
        return f"<DesiredHub watchers={dict(self._watchers)} generations={generations}>"

    @property
    def watchers(self) -> int:
        return self._watchers.total()

    async def run(self) -> None:
        """Follow until cancelled. While the database is away watchers keep what they have."""
        await self._loop.run()

    async def _look(self) -> Outcome:
        try:
            await self._refresh()
        except BerthError as error:
            log.warning("desired state cannot be read", error=error.detail)
        return Again(POLL_S)

    async def watch(self, cell: str, known_generation: int) -> AsyncGenerator[desired_pb2.DesiredState]:
        """The cell's state now, unless it is at `known_generation`; then each newer one, and the newest every
        `REPEAT_S` seconds. Raises `Unavailable` if the first cannot be read."""
        with self._watching(cell):
            news = self._published.waiter()
            state = self._states.get(cell) or await self._read(cell)
            if state.generation != known_generation:
                yield state
            sent = state.generation
            while True:
                repeat_at = asyncio.get_running_loop().time() + REPEAT_S
                state = self._states.get(cell, state)
                while state.generation == sent and (left := repeat_at - asyncio.get_running_loop().time()) > 0:
                    await news.wait(left)
                    state = self._states.get(cell, state)
                sent = state.generation
                yield state

    @contextmanager
    def _watching(self, cell: str) -> Iterator[None]:
        self._watchers[cell] += 1
        try:
            yield
        finally:
            self._watchers[cell] -= 1
            if not self._watchers[cell]:
                del self._watchers[cell]
                self._states.pop(cell, None)

    async def _refresh(self) -> None:
        if not self._watchers:
            return
        generations = await self._transactions.read(cells.generations)
        for cell in list(self._watchers):
            state = self._states.get(cell)
            if state is None or state.generation != generations.get(cell, 0):
                await self._read(cell)

    async def _read(self, cell: str) -> desired_pb2.DesiredState:
        async def query(tx: Tx) -> desired_pb2.DesiredState:
            return convert.desired_to_wire(await desired.read(tx, cell))

        state = await self._transactions.read(query)
        known = self._states.get(cell)
        # Two reads may have overlapped: never go back.
        if known is not None and known.generation >= state.generation:
            return known
        if cell in self._watchers:
            self._states[cell] = state
            self._published.up()
        return state
