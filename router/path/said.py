"""Statements of clients and workers in header fields, and how far they are believed.

A client cannot speak as a part of Berth. Malformed values are refused or ignored, as each function says.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final, NamedTuple

from berth.auth.keys import digest, key_from_headers
from berth.errors import InvalidArgument
from berth.headers import (
    AUTHORIZATION,
    AUTHORIZATION_TEXT,
    GRPC_PUSHBACK_MS,
    NO_HEDGE,
    PASSED_ON,
    PUSHBACK_MS,
    TIMEOUT_MS_TEXT,
)
from berth.http.head import Fields, first
from router.core.routes import ANYWHERE, HERE
from router.path.fields import TRACE

_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
_MILLISECONDS: Final = re.compile(r"[0-9]{1,12}")
_LONGEST_NAME: Final = 63


class ClientSaid(NamedTuple):
    """What a client says of itself and its request beside the body."""

    api_key: bytes | None
    hedge: bool
    reach: int
    sender: str


def said_by(fields: Fields) -> ClientSaid:
    return _said(first(fields, AUTHORIZATION), first(fields, NO_HEDGE), first(fields, PASSED_ON))


@lru_cache(maxsize=4096)
def _said(authorization: bytes | None, no_hedge: bytes | None, passed_on: bytes | None) -> ClientSaid:
    given = {} if authorization is None else {AUTHORIZATION_TEXT: authorization.decode("utf-8", "surrogateescape")}
    key = key_from_headers(given)
    sender = "" if passed_on is None else passed_on[:_LONGEST_NAME].decode("latin-1") or "?"
    reach = HERE if sender else ANYWHERE
    return ClientSaid(None if key is None else digest(key), may_hedge(no_hedge), reach, sender)


def trace_of(fields: Fields) -> Fields:
    """Those of W3C Trace Context."""
    return tuple(field for field in fields if field[0] in TRACE)


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


def may_hedge(no_hedge: bytes | None) -> bool:
    """Whether a client that says so (`berth-no-hedge`) does not mind a second copy."""
    return no_hedge is None or no_hedge in (b"0", b"false")


def pushback_of(fields: Fields) -> float | None:
    """How long, s, a worker asks to be spared second copies of requests; None if it does not.

    As in gRPC, a negative value, or one that is no number of milliseconds, means for ever.
    """
    for name, value in fields:
        if name in (PUSHBACK_MS, GRPC_PUSHBACK_MS):
            text = value.decode("latin-1")
            return int(text) / 1000.0 if _MILLISECONDS.fullmatch(text) else math.inf
    return None
