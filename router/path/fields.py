"""Header fields on their way through: what passes, what is dropped, what is added.

What the rules make of a head is kept with it (`derived`), so they run once for all requests that carried the same
bytes. Fields that differ from request to request (a request id, a deadline) are appended last: a peer that remembers
how header blocks begin then decodes only these.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from berth.headers import (
    AUTHORIZATION,
    CACHE,
    CONTENT_TYPE,
    DEFAULT_ANSWER,
    GRPC_ENCODING,
    GRPC_TIMEOUT,
    NO_HEDGE,
    OUR_PREFIX,
    REPLICA,
    REQUEST_ID,
    TIMEOUT_MS,
    TRACEPARENT,
    TRACESTATE,
)
from berth.http.head import Field, Fields

Headers = tuple[tuple[str, str | bytes], ...]
"""Pairs with lower-case names. Values are `bytes` only for gRPC's `-bin` metadata."""

TRACE: Final = frozenset((TRACEPARENT, TRACESTATE))

# A host of our own for what goes to workers: they have no virtual hosts, and a client's is none of their business.
WORKER: Final[bytes] = b"berth-worker"

# Of one connection only (RFC 9110, 7.6.1), or written anew by every hop.
_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# A trace goes on with each copy's own span (`Copy.fields`).
_NOT_FOR_WORKERS: Final = _HOP_BY_HOP | {AUTHORIZATION, b"cookie", REQUEST_ID, TRACEPARENT, TRACESTATE}
_NOT_FOR_CLIENTS: Final = _HOP_BY_HOP | {b"date", b"server", b"set-cookie", REQUEST_ID}
# Of what a client says to Berth, what another cell's router should hear too.
_FOR_ROUTERS: Final = frozenset((AUTHORIZATION, NO_HEDGE))
# Of what is said to clients, what a router of another cell says to them through us.
_FROM_ROUTERS: Final = frozenset((REPLICA, CACHE, DEFAULT_ANSWER))
# Each side of a gRPC call writes these itself.
_GRPC_OWN: Final = frozenset((CONTENT_TYPE, b"user-agent", b"accept-encoding", b"content-encoding"))
# What a reply says of how its messages are encoded is for whoever decodes them.
_GRPC_KEPT: Final = frozenset((GRPC_ENCODING,))

# What may be different in each request, and is therefore not part of what is remembered of a head.
VARIABLE: Final = frozenset((REQUEST_ID, TIMEOUT_MS, GRPC_TIMEOUT)) | TRACE


class Door(NamedTuple):
    """Where the routers of another cell take requests: what the head of one says beside what the client said.

    `sender` is the cell that passes it on.
    """

    scheme: bytes
    authority: bytes
    sender: bytes


def _goes_to_worker(name: bytes) -> bool:
    return name not in _NOT_FOR_WORKERS and not name.startswith(OUR_PREFIX)


def rest_to_worker(fields: Fields) -> list[Field]:
    return [field for field in fields if _goes_to_worker(field[0])]


def rest_to_client(fields: Fields) -> list[Field]:
    return [
        field
        for field in fields
        if field[0] not in _NOT_FOR_CLIENTS and (field[0] in _FROM_ROUTERS or not field[0].startswith(OUR_PREFIX))
    ]


def grpc_to_worker(fields: Fields) -> list[Field]:
    return [
        field
        for field in fields
        if _goes_to_worker(field[0]) and field[0] not in _GRPC_OWN and not field[0].startswith(b"grpc-")
    ]


def rest_to_router(fields: Fields) -> list[Field]:
    """What of a request goes on to another cell's routers, but for what differs from request to request."""
    return [field for field in fields if field[0] in _FOR_ROUTERS or _goes_to_worker(field[0])]


def grpc_to_router(fields: Fields) -> list[Field]:
    """The same of a gRPC call."""
    return [
        field
        for field in fields
        if field[0] in _FOR_ROUTERS
        or (_goes_to_worker(field[0]) and field[0] not in _GRPC_OWN and not field[0].startswith(b"grpc-"))
    ]


def grpc_to_client(fields: Fields) -> list[Field]:
    return [
        field
        for field in fields
        if field[0] in _GRPC_KEPT
        or (
            field[0] not in _NOT_FOR_CLIENTS
            and field[0] not in _GRPC_OWN
            and not field[0].startswith(b"grpc-")
            and (field[0] in _FROM_ROUTERS or not field[0].startswith(OUR_PREFIX))
        )
    ]


def as_text(fields: list[Field] | Fields) -> Headers:
    """As values have them; those of names in `-bin` are left as they are sent."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)


def as_fields(pairs: Headers) -> Fields:
    """The reverse of `as_text`."""
    return tuple(
        (name.encode("latin-1"), value.encode("latin-1") if isinstance(value, str) else value) for name, value in pairs
    )
