"""One inference request and its answer, as the router sees them: bytes, a name, a deadline.

Nothing here knows an engine; `forward` speaks these values, and the ingresses and upstreams translate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from berth.model import ReplicaAddress
from router.core.attempts import Failure
from router.core.paths import Operation

Headers = tuple[tuple[str, str | bytes], ...]
"""Pairs with lower-case names. Values are `bytes` only for gRPC's `-bin` metadata."""


class Wire(Enum):
    REST = "rest"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `api_key` is the digest of the caller's key; `version` a number, a label or ""; `deadline` is on the
    event loop's clock; `headers` are those that may go to the worker."""

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


class Reply(NamedTuple):
    """A worker's whole answer, good or bad. `status` is HTTP's or gRPC's number; `message` is gRPC's text.

    `faulty` marks an answer that another replica might better: it does not win a race while a copy is under way.
    """

    status: int
    headers: Headers
    body: bytes
    trailers: Headers = ()
    message: str = ""
    faulty: bool = False


class Failed(Exception):
    """A copy brought no answer."""

    def __init__(self, failure: Failure, why: str) -> None:
        super().__init__(why)
        self.failure = failure


class Upstream(Protocol):
    """Connections to one process of a replica, for one wire."""

    async def send(self, call: Call, servable: str, timeout: float) -> Reply:
        """The answer of the replica. Raises `Failed`; cancelling it withdraws the request. `timeout` is in seconds."""

    async def close(self) -> None:
        """Close the connections. No `send` is under way."""


OpenUpstream = Callable[[ReplicaAddress], Upstream]
"""Prepares connections; makes none yet."""
