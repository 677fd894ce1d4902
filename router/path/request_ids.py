"""The ids by which requests are told apart in logs and answers, and how one is written over HTTP/2."""

from __future__ import annotations

import itertools
import os
from typing import Final

from berth.headers import REQUEST_ID
from berth.http.http2 import header_codec

# How the field `x-request-id: …` begins, by the length of the id: a literal that is not indexed, its name in full.
_NAMES: Final = [b"\x00%c%b%c" % (len(REQUEST_ID), REQUEST_ID, size) for size in range(0x7F)]


class RequestIds:
    """To be told apart, not to be secret: random once, counted after."""

    __slots__ = ("_ids", "_prefix")

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex().encode()
        self._ids = itertools.count(int.from_bytes(os.urandom(4), "big"))

    def new(self) -> bytes:
        return b"%b%016x" % (self._prefix, next(self._ids))


def id_block(request_id: bytes) -> bytes:
    """The field of a request or an answer, encoded for HTTP/2."""
    size = len(request_id)
    if size < 0x7F:
        return _NAMES[size] + request_id
    return header_codec.encode(((REQUEST_ID, request_id),))
