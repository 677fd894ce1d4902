"""Bodies and messages that a peer compressed: gzip and deflate, never beyond a limit."""

from __future__ import annotations

import zlib
from typing import Final

ENCODINGS: Final = (b"gzip", b"deflate")

_EITHER: Final = 32 + zlib.MAX_WBITS  # gzip and zlib tell themselves apart


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """What `data` was before. Raises `OverflowError` beyond `limit` bytes, `ValueError` for what is neither."""
    machine = zlib.decompressobj(_EITHER)
    try:
        plain = machine.decompress(data, limit + 1)
    except zlib.error:
        raise ValueError("what is sent is not compressed as it says") from None
    if len(plain) > limit:
        raise OverflowError(f"what is sent is larger than {limit} bytes when decompressed")
    if not machine.eof:
        raise ValueError("what is compressed is cut off")
    return plain
