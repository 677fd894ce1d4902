"""Bodies and messages that a client compressed: gzip and deflate, never beyond a limit."""

from __future__ import annotations

import zlib

from berth.errors import InvalidArgument, PayloadTooLarge

ENCODINGS = (b"gzip", b"deflate")
# Decompressed, so many times its size is usual; a body is judged by what it may become.
USUAL_RATIO = 8

_EITHER = 32 + zlib.MAX_WBITS  # gzip and zlib tell themselves apart


def inflate(data: bytes, limit: int) -> bytes:
    """What `data` was before. Raises `PayloadTooLarge` beyond `limit` bytes, `InvalidArgument` for what is neither."""
    machine = zlib.decompressobj(_EITHER)
    try:
        plain = machine.decompress(data, limit + 1)
    except zlib.error:
        raise InvalidArgument("the body is not compressed as it says") from None
    if len(plain) > limit:
        raise PayloadTooLarge(f"the body is larger than {limit} bytes when decompressed")
    if not machine.eof:
        raise InvalidArgument("the compressed body is cut off")
    return plain
