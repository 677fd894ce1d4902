"""A client's request and its connection: the part that is common to both wires."""

from __future__ import annotations

from abc import ABC, abstractmethod

from berth.errors import BerthError
from berth.http.errors import ErrorCode
from berth.http_shell.server import ServerHttp
from router.connection.common import Common
from router.core.paths import Operation
from router.core.routes import NotLoaded
from router.path.inbound.terms import ClientTerms
from router.path.meeting import Asking, Copy
from router.path.request import Envelope, Wire
from router.path.wheel import NEVER, Wheel


class Client(ABC):
    """A client's connection, as its requests know it.

    `inbounds` are the unanswered requests; `late` is the wheel for bodies that do not come in time.
    """

    __slots__ = ("common", "http", "inbounds", "late", "speaks_http2", "terms")

    def __init__(
        self, common: Common, terms: ClientTerms, late: Wheel[Inbound], http: ServerHttp, *, speaks_http2: bool
    ) -> None:
        self.common = common
        self.terms = terms
        self.late = late
        self.http = http
        self.speaks_http2 = speaks_http2
        self.inbounds: dict[int, Inbound] = {}

    @abstractmethod
    def mark(self) -> None:
        """There is something to be written."""

    @abstractmethod
    def owe(self, stream_id: int, size: int) -> None:
        """So many bytes of an answer wait in the connection for the client to take them."""

    @abstractmethod
    def stop_reading(self, stream_id: int) -> None:
        """A request was answered before all of it came: its client need not send the rest."""


class Inbound(Asking):
    """`whole`: the client has sent all of it. `over`: it has been answered, or its client has gone."""

    __slots__ = (
        "_begun", "_chunks", "_finished", "_late_slot", "_size", "client", "over", "started", "stream_id", "whole",
    )  # fmt: skip

    def __init__(self, wire: Wire, operation: Operation, envelope: Envelope, client: Client, stream_id: int) -> None:
        super().__init__(wire, operation, envelope)
        self.client = client
        self.stream_id = stream_id
        self.whole = False
        self.over = False
        self.started = 0.0
        self._chunks: list[bytes] = []
        self._size = 0
        self._late_slot = NEVER
        # The copy whose answer passes through, once there is one.
        self._begun: Copy | None = None
        # Whether the end of its body has gone to the client.
        self._finished = False

    # ── The request comes ──────────────────────────────────────────────────────────────────────────────────────

    def data(self, chunk: bytes, ended: bool) -> None:
        """Some of the body, or its end."""
        client = self.client
        if self.over:
            client.http.consume(self.stream_id, len(chunk))
            return
        if chunk:
            size = len(chunk)
            client.http.consume(self.stream_id, size)
            client.common.ledger.held += size
            self._size += size
            self._chunks.append(chunk)
            if self._size > self.longest_body:
                self.too_large()
                return
        if ended:
            self.whole = True
            if self._late_slot != NEVER:
                client.late.discard(self, self._late_slot)
            self.run()

    @property
    @abstractmethod
    def longest_body(self) -> int:
        """In bytes, as they are counted on the wire."""

    @abstractmethod
    def run(self) -> None:
        """All of the request has come."""

    @abstractmethod
    def check(self) -> None:
        """The batch is over, some of the body is still to come: refuse now if it would be refused in the end."""

    @abstractmethod
    def too_large(self) -> None:
        """The body is over its limit."""

    @abstractmethod
    def body_late(self) -> None:
        """The body did not come in its time."""

    def await_body(self, now: float, seconds: float) -> None:
        """Have `body_late` called if it does not come."""
        if self._late_slot == NEVER:
            self._late_slot = self.client.late.add(self, now + seconds)

    def gone(self) -> None:
        """The client has given it up, or is no more."""
        if not self.over:
            self._end()
            if self.under_way is not None:
                self.under_way.cancel()

    # ── The answer goes ────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self.client.terms.forwarder.start(self)

    def more(self, chunk: bytes, ended: bool) -> int:
        client = self.client
        client.mark()
        self._finished = ended
        return client.http.send_data(self.stream_id, chunk, ended)

    def sent(self, size: int) -> None:
        """So many bytes of the answer that had to wait have gone to the client."""
        if self._begun is not None and self._begun.carrier is not None:
            self._begun.carrier.consumed(self._begun, size)

    def _send_body(self, chunks: list[bytes], *, end: bool) -> None:
        """The body of a complete answer, perhaps with its end."""
        client, stream_id = self.client, self.stream_id
        send = client.http.send_data
        left = 0
        last = len(chunks) - 1
        for at, chunk in enumerate(chunks):
            left += len(chunk) - send(stream_id, chunk, end and at == last)
        if left:
            client.owe(stream_id, left)

    def _end(self) -> None:
        """It has been answered or has gone: nothing more is done for it."""
        self.over = True
        client = self.client
        client.inbounds.pop(self.stream_id, None)
        client.common.ledger.held -= self._size
        self._size = 0
        self._chunks = []
        self._begun = None
        if self._late_slot != NEVER:
            client.late.discard(self, self._late_slot)
        client.mark()

    def may_be_had_by_sender(self, error: BerthError) -> bool:
        """Whether a refusal tells the cell that passed the request on to ask another cell."""
        return isinstance(error, NotLoaded) and error.may_be_had_by(self.sender)

    def _stop_reading(self) -> None:
        """It was answered; perhaps not all of it has come."""
        if not self.whole:
            self.client.stop_reading(self.stream_id)

    def _break(self) -> None:
        """Half an answer went out: the client must not take it for a whole one."""
        self.client.http.reset(self.stream_id, ErrorCode.INTERNAL_ERROR)
        self._end()
