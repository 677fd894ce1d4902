"""What an artifact store is."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import NamedTuple, Protocol

DAY = 86_400.0


class StoredArtifact(NamedTuple):
    sha256: str
    size_bytes: int


class ArtifactStore(Protocol):
    """Objects by digest. Raises `InvalidArgument` for what is no digest, and `Unavailable` when the storage fails.

    Every implementation passes tests/artifacts/test_conformance.py.
    """

    async def put(self, chunks: AsyncIterable[bytes], *, expected_sha256: str | None, max_bytes: int) -> StoredArtifact:
        """Store the bytes of `chunks` durably and return their digest.

        Memory use does not depend on their number. If the object is there already, that is a success and looks no
        different. The bytes are read and checked all the same: to know a digest is not to own its bytes. Raises
        `PayloadTooLarge` beyond `max_bytes`, `DigestMismatch` if the digest is not `expected_sha256`, and what `chunks`
        raises. After any failure or cancellation nothing is left, with one exception: a cancellation that lands while
        the finished object is being published may leave it, complete.
        """

    def open(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes of an object, as they are stored: who must be sure hashes them. Raises `NotFound` when begun."""

    async def exists(self, sha256: str) -> bool: ...

    async def delete(self, sha256: str) -> None:
        """Remove an object; one that is not there is a success. Readers under way may fail."""

    def local_path(self, sha256: str) -> Path | None:
        """Where the object lies as a file on this machine, or None if it does not. Not to be written, and to be
        verified by digest before use like any other copy."""

    async def sweep(self, now: float, *, older_than_s: float = DAY) -> int:
        """Remove half-written files of killed processes that are older than `older_than_s` at `now`; return how many.

        An S3 bucket also needs a lifecycle rule that aborts incomplete multipart uploads: those are not objects yet.
        """
