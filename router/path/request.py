"""A request as everyone on the path sees it, whichever wire it came by: bytes, a name, a deadline."""

from __future__ import annotations

from enum import Enum
from typing import Final

from berth.http.head import Fields
from router.core.paths import Operation
from router.core.routes import ANYWHERE


class Wire(Enum):
    REST = "rest"
    GRPC = "grpc"


class Envelope:
    """Everything but the body: `fields` as they came, `method` and `path` too (empty where the router itself asks).
    `streams`: messages go both ways as they come.

    Shared by all requests whose heads say the same. The upstream side decides which fields go to a replica or to
    another cell's routers, and keeps the encoded head in `written`. Values of fields are in no `repr`: among them is
    the client's own credential.
    """

    __slots__ = ("fields", "method", "path", "streams", "written")

    def __init__(self, fields: Fields = (), method: bytes = b"", path: bytes = b"", *, streams: bool = False) -> None:
        self.fields = fields
        self.method = method
        self.path = path
        self.streams = streams
        self.written: object = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method.decode('latin-1')} {self.path.decode('latin-1')}>"


NO_ENVELOPE: Final = Envelope()


class Request:
    """`api_key` is the digest of the caller's key; `version` a number, a label or ""; `deadline` is on the event loop's
    clock. `wire` is the client's, and the format of `body`, in which the message begins at `offset` (gRPC puts five
    bytes before it). `complete`: that is all of it; the rest of a stream is pushed to the copy as it comes.

    `hedge`: the client does not mind a second copy; `idempotent`: nor does the model. `trace` is what the client said
    of its trace. `reach` is how far it may go (`router.core.routes`). `sender` is the cell that passed it on to this
    one, `went_to` the cell to which this one passed it on. `default` is the model's answer when no replica gives one
    (empty: none). A good answer is kept under `digest`, if any.
    """

    __slots__ = (
        "api_key",
        "body",
        "complete",
        "deadline",
        "default",
        "digest",
        "envelope",
        "hedge",
        "idempotent",
        "model",
        "offset",
        "operation",
        "reach",
        "request_id",
        "sender",
        "trace",
        "version",
        "went_to",
        "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, operation: Operation, envelope: Envelope) -> None:
        self.wire = wire
        self.operation = operation
        self.envelope = envelope
        self.api_key: bytes | None = None
        self.model = ""
        self.version = ""
        self.body = b""
        self.offset = 0
        self.complete = True
        self.request_id = b""
        self.deadline = 0.0
        self.idempotent = True
        self.hedge = True
        self.default = b""
        self.digest: bytes | None = None
        self.trace: Fields = ()
        self.reach = ANYWHERE
        self.sender = ""
        self.went_to = ""

    def message(self) -> bytes:
        """The body, for gRPC without what goes before the message."""
        return self.body[self.offset :] if self.offset else self.body
