"""What the fields at the end of a replica's gRPC answer say."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from berth.headers import NOT_STARTED
from berth.http.grpc.status import CANCELLED, DATA_LOSS, INTERNAL, UNAVAILABLE, UNKNOWN, read_status
from berth.http.head import Fields, first
from router.path import fields as of
from router.path.answer import Ending
from router.path.said import pushback_of

# Another replica might do better.
_FAULTY: Final = frozenset((UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS))
_LOST: Final = frozenset((CANCELLED, UNAVAILABLE))


@lru_cache(maxsize=1024)
def read_ending(fields: Fields, http_status: int = 200) -> Ending:
    """The status in trailers, or in a head that is all of the answer."""
    code, message = read_status(fields, http_status)
    passed = tuple(of.grpc_to_client(fields))
    return Ending(
        code,
        message,
        passed,
        faulty=code in _FAULTY,
        lost=code in _LOST and not passed,
        not_started=first(fields, NOT_STARTED) is not None,
        pushback=pushback_of(fields),
    )
