"""One request and its answer on a connection: what REST and gRPC have in common.

An exchange collects the body, asks for an answer and sends it. It ends answered, refused, or abandoned by the client.
Its conversation forgets it then.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from berth.auth.peer import PeerCredential
from berth.errors import BerthError, DeadlineExceeded, PayloadTooLarge
from berth.headers import NOT_STARTED, REQUEST_ID
from berth.http.errors import ErrorCode
from berth.http_shell.server import ServerLink
from berth.tracing import Tracing
from worker.serving.answering import Answering, Done, Question, Run, request_id
from worker.serving.asked import Asked
from worker.serving.watch import Watch, watch

# For an answer that says: this request was refused before it began.
IT_DID_NOT_START = (NOT_STARTED, b"1")

T = TypeVar("T")


class SlowBody(DeadlineExceeded):
    """The client took longer for its body than it may, whatever deadline it gave. 408 over REST."""


@dataclass(frozen=True, slots=True)
class InferenceService:
    """What all conversations of a worker share."""

    answering: Answering
    credential: PeerCredential
    max_body_bytes: int
    body_timeout_s: float
    tracing: Tracing | None = None


class InferenceExchange(ABC):
    """`over` is called with the stream id when it has been answered or refused."""

    __slots__ = (
        "_deadline",
        "_timer",
        "_watch",
        "asked",
        "complete",
        "link",
        "over",
        "rid",
        "run",
        "service",
        "stream_id",
    )

    def __init__(
        self, service: InferenceService, link: ServerLink, stream_id: int, asked: Asked, over: Callable[[int], None]
    ) -> None:
        self.service = service
        self.link = link
        self.stream_id = stream_id
        self.asked = asked
        self.over = over
        self.rid = request_id(asked.fields.get(REQUEST_ID))
        self.run: Run | None = None
        self._watch: Watch | None = None
        # Whether the client has sent all that it will.
        self.complete = False
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id} {'complete' if self.complete else 'receiving'} {self.run}>"

    # What the client does

    def begin(self) -> None:
        """The head is here. Raises `BerthError` for one that is to be refused."""
        timeout = self.asked.timeout()
        if timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + timeout

    @abstractmethod
    def on_data(self, data: bytes) -> None:
        """Some body, which is to be consumed."""

    @abstractmethod
    def on_end(self) -> None:
        """The request is complete."""

    def on_sent(self) -> None:
        """Some of the answer that had to wait has gone."""
        return

    def abandon(self) -> None:
        """The client is gone, or does not want the answer. Nothing is sent any more."""
        self.disarm()
        if self._watch is not None:
            self._watch.end(None)
        if self.run is not None:
            self.run.cancel()
            self.run = None

    def ask(self, question: Question[T], done: Done[T]) -> None:
        """Have a question answered: `done` is told, unless the client gives it up."""
        service = self.service
        watched = watch(self.link, self.stream_id, self.asked, service.tracing, service.answering.replica)
        if watched is None:
            self.run = service.answering.start(question, done)
            return
        self._watch = watched

        def over(outcome: T | BerthError) -> None:
            watched.end(outcome)
            done(outcome)

        self.run = service.answering.start(question, over, watched.begun)

    # Time

    def time_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - asyncio.get_running_loop().time()

    def arm(self) -> None:
        """The body did not come together with the head: bound the time that it takes."""
        loop = asyncio.get_running_loop()
        bound = loop.time() + self.service.body_timeout_s
        error: BerthError = SlowBody(f"the body did not arrive within {self.service.body_timeout_s:g} s")
        if self._deadline is not None and self._deadline <= bound:
            bound = self._deadline
            error = DeadlineExceeded("the deadline passed before the body had arrived")
        self._timer = loop.call_at(bound, self._give_up, error)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self, error: BerthError) -> None:
        self._timer = None
        self.abandon()
        if not self.link.is_http2:
            # What may still come of the body is not worth waiting for: this is the connection's last answer.
            self.link.http.shutdown()
        self.refuse(error)
        self.link.mark()

    # The answer

    @abstractmethod
    def refuse(self, error: BerthError) -> None:
        """Send `error` instead of an answer."""

    def refuse_body(self) -> None:
        """The body is larger than it may be."""
        self.refuse(PayloadTooLarge(f"the body is larger than {self.service.max_body_bytes} bytes"))

    def close(self) -> None:
        """The answer has been sent."""
        self.disarm()
        self.over(self.stream_id)
        if not self.complete and self.link.is_http2 and not self.link.http.unsent(self.stream_id):
            # The client need not send the rest (RFC 9113 section 8.1). HTTP/1.1 skips it, or ends with it.
            self.link.http.reset(self.stream_id, ErrorCode.NO_ERROR)
