"""Header fields on their way through: what passes, what is dropped, what is added.

The result of the rules is kept with the head (`derived`), so they run once for all requests that carried the same
bytes. Fields that differ from request to request (a request id, a deadline) are appended last: a peer that remembers
the beginnings of header blocks then decodes only these.
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

# Our own host name in requests to workers: they have no virtual hosts, and need not know the client's.
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
# Headers of a client to Berth that are also for another cell's router.
_FOR_ROUTERS: Final = frozenset((AUTHORIZATION, NO_HEDGE))
# Headers to clients that another cell's router sends through us.
_FROM_ROUTERS: Final = frozenset((REPLICA, CACHE, DEFAULT_ANSWER))
# Each side of a gRPC call writes these itself.
_GRPC_OWN: Final = frozenset((CONTENT_TYPE, b"user-agent", b"accept-encoding", b"content-encoding"))
# A reply's `grpc-encoding` is for the one who decodes its messages.
_GRPC_KEPT: Final = frozenset((GRPC_ENCODING,))

# These may differ in each request, so they are no part of a remembered head.
VARIABLE: Final = frozenset((REQUEST_ID, TIMEOUT_MS, GRPC_TIMEOUT)) | TRACE


class Door(NamedTuple):
    """For the routers of another cell: the fields that a head to them has beside the client's.

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
    """The fields that go on to another cell's routers, without those that differ from request to request."""
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
    """As text; values of `-bin` names stay as they were sent."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)


def as_fields(pairs: Headers) -> Fields:
    """The reverse of `as_text`."""
    return tuple(
        (name.encode("latin-1"), value.encode("latin-1") if isinstance(value, str) else value) for name, value in pairs
    )
