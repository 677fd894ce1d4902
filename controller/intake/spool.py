"""Receives bytes into a temporary file, so that their digest is known and announced before anything is stored.

Or for their digest alone: a request that was answered before is only compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from berth.artifacts.blocks import BLOCK_BYTES, regroup, verify
from berth.errors import InvalidArgument
from berth.settling import settle

Admit = Callable[[int], Awaitable[None]]
"""Allows a file of so many bytes, or raises."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A complete body on disk."""

    path: Path
    sha256: str
    size_bytes: int

    async def chunks(self) -> AsyncIterator[bytes]:
        with self.path.open("rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block


@asynccontextmanager
async def spool(
    body: AsyncIterator[bytes], expected_sha256: str | None, max_bytes: int, folder: Path, admit: Admit | None = None
) -> AsyncIterator[Spooled]:
    """Receive `body` in constant memory; the file is gone when the context ends, however it ends.

    `admit` is asked before the file grows. Raises `PayloadTooLarge`, `DigestMismatch`, `InvalidArgument` for an empty
    body, and what `body` and `admit` raise.
    """
    file = await asyncio.to_thread(_create, folder)
    path = Path(file.name)
    digest = hashlib.sha256()
    size = 0

    def write(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    try:
        async with contextlib.aclosing(regroup(body, max_bytes)) as blocks:
            async for block in blocks:
                if admit is not None:
                    await admit(size + len(block))
                # Not abandoned when cancelled: the thread uses the file that is closed below.
                await settle(asyncio.to_thread(write, block))
                size += len(block)
        file.close()
        if size == 0:
            raise InvalidArgument("the body is empty: it should be the artifact")
        verify(digest.hexdigest(), expected_sha256)
        yield Spooled(path, digest.hexdigest(), size)
    finally:
        _discard(file)


async def digest_of(body: AsyncIterator[bytes], expected_sha256: str | None, max_bytes: int) -> str:
    """The SHA-256 of `body`, which is kept nowhere. Raises as `spool`, but accepts an empty body."""
    digest = hashlib.sha256()
    async with contextlib.aclosing(regroup(body, max_bytes)) as blocks:
        async for block in blocks:
            await asyncio.to_thread(digest.update, block)
    verify(digest.hexdigest(), expected_sha256)
    return digest.hexdigest()


def _discard(file: IO[bytes]) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


def _create(folder: Path) -> IO[bytes]:
    return tempfile.NamedTemporaryFile(prefix="berth-upload-", dir=folder, delete=False)
