"""Carries requests. Clients are told of their answers; the router itself, for its own requests, awaits a value.

The router's own are translated requests, and those of tests.
"""

from __future__ import annotations

import asyncio

from berth.errors import BerthError, Unavailable
from router.core.paths import Operation
from router.core.routes import ANYWHERE
from router.path.answer import WITHOUT_END, Answer, Reply
from router.path.meeting import Asking
from router.path.race.means import Means
from router.path.race.passage import Passage
from router.path.request import Envelope, Wire


class Awaited(Asking):
    """A request of which somebody awaits the reply."""

    __slots__ = ("reply",)

    def __init__(self, wire: Wire, operation: Operation, envelope: Envelope) -> None:
        super().__init__(wire, operation, envelope)
        # A value is complete or it is none.
        self.held_back = WITHOUT_END
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer) -> None:
        if not self.reply.done():
            self.reply.set_result(answer.as_reply(self.wire))

    def refused(self, error: BerthError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Forwarder:
    """One per process."""

    __slots__ = ("means",)

    def __init__(self, means: Means) -> None:
        self.means = means

    def check(
        self, operation: Operation, api_key: bytes | None, model: str, version: str, reach: int = ANYWHERE
    ) -> None:
        """Raise the errors that `forward` would raise at once: the request can be refused before its body is read."""
        try:
            self.means.gate.check(operation, api_key, model, version, reach)
        except Unavailable:
            if not self.means.answering.default_of(operation, api_key, model):
                raise

    def start(self, request: Asking) -> None:
        """Carry `request`; it is told what comes of it, perhaps before this returns."""
        Passage(self.means, request).start()

    async def forward(self, request: Awaited) -> Reply:
        """The answer of a replica, good or bad. Raises `BerthError` when none could give one.

        Cancelling it withdraws every copy of the request before it returns.
        """
        under_way = Passage(self.means, request)
        under_way.start()
        try:
            return await request.reply
        except asyncio.CancelledError:
            under_way.cancel()
            raise

    def close(self) -> None:
        """Stop the clocks; nothing is under way."""
        self.means.clocks.close()
