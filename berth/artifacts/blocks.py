"""Every store does this with incoming bytes: it limits, regroups, checks and names them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from berth.errors import DigestMismatch, PayloadTooLarge
from berth.ids import check_sha256

# Large enough that the hop into a thread costs little beside hashing, small enough to be no memory to speak of.
BLOCK_BYTES = 1 << 20


async def regroup(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """The bytes of `chunks` in blocks of at least `BLOCK_BYTES`, the last one excepted.

    Raises `PayloadTooLarge` before yielding anything beyond `max_bytes`.
    """
    pending = bytearray()
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise PayloadTooLarge(f"the artifact is larger than the {max_bytes} bytes allowed", limit=max_bytes)
        pending += chunk
        if len(pending) >= BLOCK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def verify(sha256: str, expected: str | None) -> None:
    """Raise `DigestMismatch` unless the bytes that arrived are those announced."""
    if expected is not None and sha256 != expected:
        raise DigestMismatch(
            f"the bytes have SHA-256 {sha256}, not {expected} as announced", sha256=sha256, expected_sha256=expected
        )


def object_name(sha256: str) -> str:
    """The path of an object below the store's root. Raises `InvalidArgument` for anything but a digest."""
    check_sha256(sha256)
    return f"sha256/{sha256[:2]}/{sha256}"
