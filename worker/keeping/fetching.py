"""Fetching one artifact to a file, verified while it is written."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Protocol

from berth.errors import DigestMismatch
from berth.settling import settle


class ArtifactSource(Protocol):
    """What the cache needs of `berth.artifacts`: an artifact store."""

    def open(self, sha256: str) -> AsyncIterator[bytes]:
        """The artifact's bytes. Raises `NotFound`, or `Unavailable` while the store is away."""


async def fetch(source: ArtifactSource, digest: str, size: int, target: Path) -> None:
    """Write the artifact to `target`, which must not exist yet. What a failed fetch has written stays.

    Raises what the source raises, `DigestMismatch` for other bytes, and `OSError` if the disk is full.
    """
    hasher = hashlib.sha256()
    received = 0

    def append(file: IO[bytes], block: bytes) -> None:
        hasher.update(block)
        file.write(block)

    async with _closing(source.open(digest)) as blocks:
        with target.open("xb") as file:
            async for block in blocks:
                received += len(block)
                if received > size:
                    break
                await settle(asyncio.to_thread(append, file, block))
    if received != size or hasher.hexdigest() != digest:
        raise DigestMismatch(f"the artifact store holds other bytes than {digest}")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@asynccontextmanager
async def _closing(blocks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close a generator that is not read to its end now, not when it is collected: it holds a file or a connection."""
    try:
        yield blocks
    finally:
        if isinstance(blocks, AsyncGenerator):
            await blocks.aclose()
