"""The names of headers and metadata that mean something to the router, and what it believes of what they say.

A client cannot speak as a part of Berth (`berth-…` is dropped), nor does a worker see a client's key; `path.fields`
goes by these names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from berth.errors import InvalidArgument
from berth.headers import (
    AUTHORIZATION_TEXT,
    GRPC_PUSHBACK_MS_TEXT,
    NO_HEDGE_TEXT,
    PUSHBACK_MS_TEXT,
    REQUEST_ID_TEXT,
    TIMEOUT_MS_TEXT,
    TRACEPARENT_TEXT,
    TRACESTATE_TEXT,
)

_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
_MILLISECONDS: Final = re.compile(r"[0-9]{1,12}")

# Of one connection only (RFC 9110, 7.6.1), or written anew by every hop.
HOP_BY_HOP: Final = frozenset(
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
# A trace goes on with each copy's own span; `router.path.request` passes it on.
NOT_FOR_WORKERS: Final = HOP_BY_HOP | {AUTHORIZATION_TEXT, "cookie", REQUEST_ID_TEXT, TRACEPARENT_TEXT, TRACESTATE_TEXT}
NOT_FOR_CLIENTS: Final = HOP_BY_HOP | {"date", "server", "set-cookie", REQUEST_ID_TEXT}
# The library writes these itself.
GRPC_OWN: Final = frozenset({"content-type", "user-agent", "accept-encoding", "content-encoding"})


def request_id_is_good(given: bytes) -> bool:
    """Whether a client's request id is printable and short."""
    return len(given) <= 128 and given.isascii() and _REQUEST_ID.fullmatch(given.decode()) is not None


def timeout_of(given: str | None, *, default: float, longest: float) -> float:
    """Seconds that a client leaves for its request, at most `longest`. Raises `InvalidArgument`."""
    if given is None:
        return default
    if _MILLISECONDS.fullmatch(given) is None or int(given) == 0:
        raise InvalidArgument(f"{TIMEOUT_MS_TEXT} is a positive number of milliseconds, not {given[:50]!a}")
    return min(int(given) / 1000.0, longest)


def may_hedge(headers: Mapping[str, str]) -> bool:
    """Whether a client with these headers (lower-case names) does not mind a second copy."""
    return headers.get(NO_HEDGE_TEXT, "0") in ("0", "false")


def pushback_of(pairs: Iterable[tuple[str, str | bytes]]) -> float | None:
    """How long, s, a worker asks to be spared second copies of requests; None if it does not.

    As gRPC has it, what is no number of milliseconds or a negative one means: as long as there is.
    """
    for name, value in pairs:
        if name in (PUSHBACK_MS_TEXT, GRPC_PUSHBACK_MS_TEXT):
            return int(value) / 1000.0 if isinstance(value, str) and _MILLISECONDS.fullmatch(value) else math.inf
    return None
