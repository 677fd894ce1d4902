"""What requests are carried with: one per process, shared by all ways in. `exchange` does the carrying.

`forward` is for those who need an answer as a value and can wait for it: what is translated, and tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from berth.errors import BerthError, Unavailable
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.core.attempts import Rules
from router.core.budget import Budgets
from router.core.hedging import Hedging
from router.core.latency import Latencies
from router.core.paths import Operation
from router.core.routes import ANYWHERE
from router.core.selection import Dice, Selection
from router.core.tallies import Tallies
from router.path.answering.answers import AnswersKept, default_answer
from router.path.call import Call, Headers, Reply, Wire
from router.path.fields import Door
from router.path.gate import Gate
from router.path.race import exchange
from router.path.request import WITHOUT_END, Answer, Request
from router.path.upstream import heads as outbound
from router.path.upstream.pools import Upstreams
from router.path.watchers.trace import Traces
from router.path.wheel import Wheel

# Steps of the wheels, s. The delay of a hedge starts at a millisecond; a deadline a little late harms nobody.
_HEDGE_STEP: Final = 0.001
_PAUSE_STEP: Final = 0.001
_DEADLINE_STEP: Final = 0.005


@dataclass(slots=True)
class Forwarder:
    """The cores, and the clocks that exchanges are woken by."""

    board: RouteBoard
    upstreams: Upstreams
    selection: Selection
    gate: Gate
    budgets: Budgets
    latencies: Latencies
    hedging: Hedging
    rules: Rules
    metrics: RouterMetrics
    tallies: Tallies
    dice: Dice
    kept: AnswersKept | None = None
    traces: Traces | None = None
    tied: bool = False
    time: Callable[[], float] = field(init=False, repr=False)
    call_soon: Callable[..., object] = field(init=False, repr=False)
    hedges: Wheel[exchange.Exchange] = field(init=False, repr=False)
    pauses: Wheel[exchange.Exchange] = field(init=False, repr=False)
    deadlines: Wheel[exchange.Exchange] = field(init=False, repr=False)
    paused: set[exchange.Exchange] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self.call_soon = loop.call_soon
        self.hedges = Wheel(loop, _HEDGE_STEP, exchange.Exchange.hedge_due)
        self.pauses = Wheel(loop, _PAUSE_STEP, exchange.Exchange.pause_over)
        self.deadlines = Wheel(loop, _DEADLINE_STEP, exchange.Exchange.deadline_passed)
        self.board.watch(lambda _: self._wake())

    def close(self) -> None:
        """Stop the clocks; no exchange is under way."""
        for wheel in (self.hedges, self.pauses, self.deadlines):
            wheel.close()

    def check(
        self, operation: Operation, api_key: bytes | None, model: str, version: str, reach: int = ANYWHERE
    ) -> None:
        """Raise what `forward` would raise at once, so that a request can be refused before its body is read."""
        try:
            self.gate.check(operation, api_key, model, version, reach)
        except Unavailable:
            if not default_answer(self.board, operation, api_key, model):
                raise

    async def forward(self, call: Call) -> Reply:
        """The answer of a replica, good or bad. Raises `BerthError` when none could give one.

        Cancelling it withdraws every copy of the request before it returns.
        """
        request = _Awaited(call)
        under_way = exchange.Exchange(self, request)
        under_way.start()
        try:
            return await request.reply
        except asyncio.CancelledError:
            under_way.cancel()
            raise

    def _wake(self) -> None:
        """A new table: what waits for one looks again."""
        for waiting in list(self.paused):
            waiting.pause_over()


class _Awaited(Request):
    """A `Call` on its way, and somebody who awaits the reply."""

    __slots__ = ("_call", "reply")

    def __init__(self, call: Call) -> None:
        super().__init__(call.wire, call.operation)
        self._call = call
        self.api_key, self.model, self.version = call.api_key, call.model, call.version
        self.body = call.body
        self.request_id = call.request_id.encode("latin-1", "replace")
        self.deadline = call.deadline
        self.idempotent, self.hedge = call.idempotent, call.hedge
        self.trace = call.trace
        self.reach, self.sender = call.reach, call.sender
        # A value is complete or it is none.
        self.held_back = WITHOUT_END
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def headers(self) -> Headers:
        return self._call.headers

    def message(self) -> bytes:
        return self.body

    def block_for(self, servable: str, seconds: float, credential: bytes) -> bytes:
        encode = outbound.rest_block if self.wire is Wire.REST else outbound.grpc_block
        return encode(self._call, servable, seconds, credential)

    def block_to_router(self, door: Door, seconds: float) -> bytes:
        return outbound.block_to_router(self._call, door, seconds)

    def body_for(self, servable: str) -> list[bytes | memoryview]:
        return [self.body if self.wire is Wire.REST else outbound.grpc_body(self.body, servable)]

    def answered(self, answer: Answer) -> None:
        if not self.reply.done():
            self.reply.set_result(answer.as_reply(self.wire))

    def refused(self, error: BerthError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)
