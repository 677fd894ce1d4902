"""What the fields at the end of a replica's gRPC answer say."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from berth.headers import GRPC_MESSAGE, GRPC_STATUS, NOT_STARTED
from berth.http.head import Fields, first
from router.path import fields as of
from router.path.answer import Ending

_UNKNOWN: Final = 2
# Another replica might do better: UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS.
_FAULTY: Final = frozenset((2, 13, 14, 15))
# CANCELLED, UNAVAILABLE.
_LOST: Final = frozenset((1, 14))
# The table of gRPC's http-grpc-status-mapping.md.
_FROM_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


@lru_cache(maxsize=1024)
def read_ending(fields: Fields, http_status: int = 200) -> Ending:
    """The status in trailers, or in a head that is all of the answer."""
    given = first(fields, GRPC_STATUS)
    message = first(fields, GRPC_MESSAGE) or b""
    if given is not None and given.isdigit() and len(given) < 4:
        code = int(given)
    else:
        code = _UNKNOWN if http_status == 200 else _FROM_HTTP.get(http_status, _UNKNOWN)
        message = b"the replica's answer has no status" if http_status == 200 else b"HTTP status %d" % http_status
    passed = tuple(of.grpc_to_client(fields))
    return Ending(
        code,
        message,
        passed,
        faulty=code in _FAULTY,
        lost=code in _LOST and not passed,
        not_started=first(fields, NOT_STARTED) is not None,
        pushback=of.pushback_of(fields),
    )
