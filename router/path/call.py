"""One inference request and its answer, as the router sees them: bytes, a name, a deadline.

Nothing here knows an engine; what needs no speed speaks these values, and the engine translates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from berth.http.head import Fields
from router.core.paths import Operation
from router.core.routes import ANYWHERE

Headers = tuple[tuple[str, str | bytes], ...]
"""Pairs with lower-case names. Values are `bytes` only for gRPC's `-bin` metadata."""


class Wire(Enum):
    REST = "rest"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class AsItCame:
    """What another cell's routers need beside the rest of a `Call`: the client's own credential, which is in no log and
    no `repr`; and for a question of another protocol than OIP (`Operation.OTHER`) its method and path."""

    authorization: bytes = field(repr=False)
    method: bytes = b""
    path: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `api_key` is the digest of the caller's key; `version` a number, a label or ""; `deadline` is on the
    event loop's clock; `headers` are those that may go to the worker; a good answer is kept under `digest`, if any.
    `hedge`: the client does not mind a second copy. `trace`: what it said of its trace.

    `reach` is one of `router.core.routes`, `sender` the other cell that passed it on to here, if one did, and
    `as_it_came` what the routers of another cell must be told.
    """

    wire: Wire
    operation: Operation
    api_key: bytes | None
    model: str
    version: str
    body: bytes
    headers: Headers
    request_id: str
    deadline: float
    idempotent: bool = True
    hedge: bool = True
    digest: bytes | None = None
    trace: Fields = ()
    reach: int = ANYWHERE
    sender: str = ""
    as_it_came: AsItCame | None = None


class Reply(NamedTuple):
    """A worker's whole answer, good or bad. `status` is HTTP's or gRPC's number; `message` is gRPC's text.

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
