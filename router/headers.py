"""Which headers and metadata pass the router, what it adds, and what it believes of what a client sends.

A client cannot speak as a part of Berth (`berth-…` is dropped), nor does a worker see a client's key.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

from berth.auth.keys import digest, key_from_headers
from berth.errors import InvalidArgument
from router.call import Headers

REQUEST_ID = "x-request-id"
TIMEOUT_MS = "berth-timeout-ms"
REPLICA = "berth-replica"
NOT_STARTED = "berth-not-started"

_OUR_PREFIX = "berth-"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_MILLISECONDS = re.compile(r"[0-9]{1,12}")

# Of one connection only (RFC 9110, 7.6.1), or written anew by every hop.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FOR_WORKERS = _HOP_BY_HOP | {"authorization", "cookie", REQUEST_ID}
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {"date", "server", "set-cookie", REQUEST_ID}
# The library writes these itself.
_GRPC_OWN = frozenset({"content-type", "user-agent", "accept-encoding", "content-encoding"})


def rest_to_worker(pairs: Iterable[tuple[str, str]], connection: str) -> Headers:
    """A client's headers that go to the worker. `connection` is its Connection header, which may name more hop-by-hop
    headers."""
    dropped = _NOT_FOR_WORKERS
    if connection:
        dropped = dropped | {name.strip().lower() for name in connection.split(",")}
    lowered = ((name.lower(), value) for name, value in pairs)
    return tuple((name, value) for name, value in lowered if name not in dropped and not name.startswith(_OUR_PREFIX))


def rest_to_client(pairs: Iterable[tuple[str, str]]) -> Headers:
    """A worker's headers that go to the client."""
    lowered = ((name.lower(), value) for name, value in pairs)
    return tuple((name, value) for name, value in lowered if name not in _NOT_FOR_CLIENTS and _may_leave(name))


def grpc_to_worker(pairs: Iterable[tuple[str, str | bytes]]) -> Headers:
    """A client's metadata that goes to the worker."""
    return tuple(
        (name, value)
        for name, value in pairs
        if name not in _NOT_FOR_WORKERS and not _is_grpc_own(name) and not name.startswith(_OUR_PREFIX)
    )


def grpc_to_client(pairs: Iterable[tuple[str, str | bytes]]) -> Headers:
    """A worker's metadata that goes to the client."""
    return tuple(
        (name, value)
        for name, value in pairs
        if name not in _NOT_FOR_CLIENTS and not _is_grpc_own(name) and _may_leave(name)
    )


def request_id_of(given: str | None) -> str:
    """The client's request id if it is printable and short, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def api_key_of(headers: Mapping[str, str]) -> bytes | None:
    """The digest of the key in `headers` (lower-case names), None if there is none."""
    key = key_from_headers(headers)
    return None if key is None else digest(key)


def timeout_of(given: str | None, *, default: float, longest: float) -> float:
    """Seconds that a client leaves for its request, at most `longest`. Raises `InvalidArgument`."""
    if given is None:
        return default
    if _MILLISECONDS.fullmatch(given) is None or int(given) == 0:
        raise InvalidArgument(f"{TIMEOUT_MS} is a positive number of milliseconds, not {given[:50]!a}")
    return min(int(given) / 1000.0, longest)


def timeout_text(seconds: float) -> str:
    """The value of `berth-timeout-ms` for the next hop."""
    return str(max(1, int(seconds * 1000.0)))


def _is_grpc_own(name: str) -> bool:
    return name in _GRPC_OWN or name.startswith(("grpc-", ":"))


def _may_leave(name: str) -> bool:
    return name == REPLICA or not name.startswith(_OUR_PREFIX)
