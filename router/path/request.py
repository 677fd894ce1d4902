"""A request as the exchange sees it, the answer it gets, and a copy of it on its way to one replica."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from berth.errors import BerthError
from berth.http.grpc import messages
from berth.http.grpc.status import parse_text
from berth.http.head import Fields, ResponseHead
from berth.model import ReplicaAddress
from router.connection.ledger import Ledger
from router.core.attempts import Failure
from router.core.paths import Operation
from router.core.routes import ANYWHERE
from router.core.selection import Done, Outcome
from router.path import fields as of
from router.path import rpc
from router.path.call import Call, Headers, Reply, Wire
from router.path.fields import Door

if TYPE_CHECKING:
    from router.path.race.exchange import Exchange
    from router.path.upstream.carrier import Carrier
    from router.path.upstream.pools import Pool

# Answers up to this size are held back until they are complete, so that one that breaks off can be had elsewhere.
# Larger ones pass through as they come.
HELD: Final = 1024 * 1024
_COUNTED: Final = 16 * 1024
WITHOUT_END: Final = 2**63
_WHOLE: Final = "this request is asked and answered whole"


class Answer:
    """A replica's answer: complete, or (`begun`) as far as it has come. `status` is HTTP's or gRPC's number.

    `chunks` are the body as it came; for gRPC with the five bytes before the message. `ending` is what the trailers
    said. An answer that came from no connection has a `reply` instead of a head.
    """

    __slots__ = ("chunks", "ending", "faulty", "head", "pushback", "reply", "size", "status", "trailers")

    def __init__(self, head: ResponseHead | None, chunks: list[bytes], size: int) -> None:
        self.head = head
        self.chunks = chunks
        self.size = size
        self.status = 0
        self.faulty = False
        self.pushback: float | None = None
        self.ending: rpc.GrpcEnding | None = None
        self.trailers: Fields = ()
        self.reply: Reply | None = None

    @classmethod
    def of(cls, reply: Reply) -> Answer:
        answer = cls(None, [reply.body], len(reply.body))
        answer.status, answer.faulty, answer.pushback = reply.status, reply.faulty, reply.pushback
        answer.reply = reply
        return answer

    def as_reply(self, wire: Wire) -> Reply:
        """For those who know no engine. The answer is complete."""
        if self.reply is not None:
            return self.reply
        assert self.head is not None
        body = b"".join(self.chunks)
        if wire is Wire.REST:
            passed: Headers = of.as_text(of.rest_to_client(self.head.fields))
            return Reply(self.status, passed, body, faulty=self.faulty, pushback=self.pushback)
        assert self.ending is not None
        return Reply(
            self.status,
            of.as_text(of.grpc_to_client(self.head.fields)),
            body[messages.PREFIX_SIZE :],
            of.as_text(self.ending.passed),
            parse_text(self.ending.message),
            faulty=self.faulty,
            pushback=self.pushback,
        )


class Request(ABC):
    """What a client asks, complete or (a stream) as far as it has come; and where the answer goes.

    Of `answered`, `refused` and `begun` exactly one is called, unless the exchange was cancelled; after `begun` any
    number of `more`, then `ended` or `broken`.
    """

    __slots__ = (
        "api_key", "body", "complete", "deadline", "digest", "exchange", "hedge", "held_back", "idempotent", "model",
        "operation", "reach", "request_id", "sender", "trace", "version", "went_to", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, operation: Operation) -> None:
        self.wire = wire
        self.operation = operation
        self.api_key: bytes | None = None
        self.model = ""
        self.version = ""
        self.body = b""
        # Whether `body` is all of it. The rest of a stream goes through `Copy.push`.
        self.complete = True
        self.request_id = b""
        self.deadline = 0.0
        self.idempotent = True
        self.hedge = True
        self.digest: bytes | None = None
        # How much of an answer is kept back until it is complete.
        self.held_back = HELD
        self.exchange: Exchange | None = None
        # What the client said of its trace (`traceparent`, `tracestate`).
        self.trace: Fields = ()
        # How far it may go (`router.core.routes`); the other cell that passed it on to here, and that to which it was
        # passed on from here.
        self.reach = ANYWHERE
        self.sender = ""
        self.went_to = ""

    @abstractmethod
    def message(self) -> bytes:
        """The body, for gRPC without what goes before the message."""

    @abstractmethod
    def headers(self) -> Headers:
        """The headers that may go to the worker."""

    def as_call(self) -> Call:
        """For those who know no engine."""
        return Call(
            self.wire, self.operation, self.api_key, self.model, self.version, self.message(), self.headers(),
            self.request_id.decode("latin-1"), self.deadline, self.idempotent, self.hedge, self.digest,
        )  # fmt: skip

    @abstractmethod
    def block_for(self, servable: str, seconds: float, credential: bytes) -> bytes:
        """The encoded head of a copy of this request, on the wire that it goes by."""

    @abstractmethod
    def block_to_router(self, door: Door, seconds: float) -> bytes:
        """The encoded head of this request as it came, for the routers of another cell."""

    @abstractmethod
    def body_for(self, servable: str) -> list[bytes | memoryview]:
        """The body of a copy of this request: at least one piece, more where joining them would copy much. Without a
        servable, as it came."""

    @property
    def repeatable(self) -> bool:
        """Whether all that went to a copy can be sent again: `body`, and what was pushed."""
        return True

    def carried(self) -> None:  # noqa: B027  (most requests are complete by then and need nothing)
        """A copy has found its connection: the rest of a request that was not complete can be pushed."""

    @abstractmethod
    def answered(self, answer: Answer) -> None:
        """The whole answer of a replica."""

    @abstractmethod
    def refused(self, error: BerthError) -> None:
        """No replica gave one."""

    def begun(self, answer: Answer, copy: Copy) -> None:
        """The head and perhaps some of the body; more follows."""
        raise TypeError(_WHOLE)

    def more(self, chunk: bytes, ended: bool) -> int:
        """More of the body. Returns how many bytes went on; for the others `Copy.consumed` is owed."""
        raise TypeError(_WHOLE)

    def passed_on(self) -> None:
        """All bytes of an incomplete request that were given to the copy have gone."""
        raise TypeError(_WHOLE)

    def ended(self, answer: Answer) -> None:
        """The trailers came, or the body ended without."""
        raise TypeError(_WHOLE)

    def broken(self) -> None:
        """The replica was lost in the middle of its answer, or the deadline passed."""
        raise TypeError(_WHOLE)


class Copy:
    """A copy of a request at one replica, or (without a `servable`) as it came at the routers of another cell.

    The upstream fills in what comes back and says how it ended, once. `end` is what it comes to if it is withdrawn;
    whoever withdraws it for a reason says so. `fields` go to the replica beside those of the request. `started`: the
    replica said that it has begun to compute (asked only of tied copies).
    """

    __slots__ = (
        "address", "begun", "carrier", "chunks", "counted", "done", "end", "exchange", "fields", "head", "held_back",
        "pool", "request", "servable", "size", "started", "stream_id", "twin", "unsent",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, address: ReplicaAddress, servable: str, twin: bool) -> None:
        self.exchange = exchange
        self.request = request = exchange.request
        self.address = address
        self.servable = servable
        self.twin = twin
        self.end = Outcome.OTHER
        self.done: Done
        self.pool: Pool
        # The connection, once there is one, and the stream on it.
        self.carrier: Carrier | None = None
        self.stream_id = 0
        self.head: ResponseHead | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        # How much of the answer counts as memory in use.
        self.counted = 0
        self.held_back = request.held_back
        self.fields = request.trace
        self.started = False
        # Whether the answer passes through as it comes.
        self.begun = False
        # Bytes of a request that is not complete which wait for the replica's window.
        self.unsent = 0

    def __repr__(self) -> str:
        return f"<Copy at {self.address.replica}{' twin' if self.twin else ''} size={self.size}>"

    def answered(self, answer: Answer) -> None:
        self.exchange.answered(self, answer)

    def failed(self, failure: Failure, why: str, pushback: float | None = None) -> None:
        self.exchange.failed(self, failure, why, pushback)

    def went(self, size: int) -> None:
        """So many bytes of the request that had to wait have gone."""
        self.unsent -= size
        if not self.unsent:
            self.request.passed_on()

    def keep(self, chunk: bytes, ledger: Ledger) -> None:
        """Hold back some of the answer. Most answers are whole in an instant, and not worth counting."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.size > _COUNTED:
            ledger.held += self.size - self.counted
            self.counted = self.size

    def let_go(self, ledger: Ledger) -> None:
        """What was held back goes on, or away."""
        ledger.held -= self.counted
        self.counted = 0

    def withdraw(self) -> None:
        if self.carrier is not None:
            self.carrier.withdraw(self)
        else:
            self.pool.upstream.withdraw(self)
