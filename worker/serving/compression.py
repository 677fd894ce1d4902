"""Bodies and messages that a client compressed."""

from __future__ import annotations

from typing import Final

from berth.errors import InvalidArgument, PayloadTooLarge
from berth.http.compression import inflate

# Decompressed, a body usually has up to so many times its size. It is judged by what it may become.
USUAL_RATIO: Final = 8


def inflated(data: bytes, limit: int) -> bytes:
    """What `data` was before. Raises `PayloadTooLarge` beyond `limit` bytes, `InvalidArgument` for what is neither gzip
    nor deflate."""
    try:
        return inflate(data, limit)
    except OverflowError as error:
        raise PayloadTooLarge(str(error)) from None
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
