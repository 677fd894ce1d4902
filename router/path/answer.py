"""A replica's answer, as it came on its wire. The client's side writes it for the client's wire."""

from __future__ import annotations

from typing import Final, NamedTuple

from berth.headers import NOT_STARTED
from berth.http.grpc import messages
from berth.http.grpc.status import code_name, parse_text
from berth.http.head import Fields, ResponseHead, first
from router.path import fields as of
from router.path.fields import Headers
from router.path.request import Wire
from router.path.said import pushback_of

# Answers up to this size are held back until they are complete: if one breaks off, another replica can be asked. Larger
# ones pass through as they come.
HELD: Final = 1024 * 1024
WITHOUT_END: Final = 2**63


class Reply(NamedTuple):
    """A whole answer as a value, good or bad. `status` is HTTP's or gRPC's number; `message` is gRPC's text.

    `faulty` marks an answer that another replica might better: it does not win a race while a copy is under way.
    `pushback` is how long, s, the replica asks to be spared second copies.
    """

    status: int
    headers: Headers
    body: bytes
    trailers: Headers = ()
    message: str = ""
    faulty: bool = False
    pushback: float | None = None


class Ending:
    """How a gRPC answer ended: its status, and the `fields` that go with it to the client.

    `lost`: a library's way to say that the server ended. A worker itself never means this: its refusals before it
    starts are marked, and its answers carry more or another code. Shared by all answers that ended alike; the client's
    side keeps its encoding in `written`.
    """

    __slots__ = ("code", "faulty", "fields", "lost", "message", "not_started", "pushback", "written")

    def __init__(
        self,
        code: int,
        message: bytes = b"",
        fields: Fields = (),
        *,
        faulty: bool = False,
        lost: bool = False,
        not_started: bool = False,
        pushback: float | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.fields = fields
        self.faulty = faulty
        self.lost = lost
        self.not_started = not_started
        self.pushback = pushback
        self.written = b""

    def __repr__(self) -> str:
        return f"<Ending {code_name(self.code)}>"


class HeadRead:
    """The meaning of a replica's head; the client's side keeps the head for clients in `written`."""

    __slots__ = ("not_started", "pushback", "written")

    def __init__(self, fields: Fields) -> None:
        self.not_started = first(fields, NOT_STARTED) is not None
        self.pushback = pushback_of(fields)
        self.written: object = None


def read_head(head: ResponseHead) -> HeadRead:
    """The meaning of a shared part of heads, worked out once for all heads that share it."""
    base = head.base
    read = base.derived
    if type(read) is not HeadRead:
        read = base.derived = HeadRead(base.fields)
    return read


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
        self.ending: Ending | None = None
        self.trailers: Fields = ()
        self.reply: Reply | None = None

    @classmethod
    def of(cls, reply: Reply) -> Answer:
        answer = cls(None, [reply.body], len(reply.body))
        answer.status, answer.faulty, answer.pushback = reply.status, reply.faulty, reply.pushback
        answer.reply = reply
        return answer

    def as_reply(self, wire: Wire) -> Reply:
        """As a value, for those who need no speed. The answer is complete, and came by `wire`."""
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
            of.as_text(self.ending.fields),
            parse_text(self.ending.message),
            faulty=self.faulty,
            pushback=self.pushback,
        )
