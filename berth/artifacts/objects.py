"""Artifacts in an object store through obstore: S3 and what speaks its protocol, and memory for tests.

The bytes are uploaded under `tmp/` while they are hashed, then copied to the name that their digest gives and removed.
A copy appears whole or not at all. S3 has no copy that refuses to overwrite. Here overwriting is harmless: an object is
named by its bytes, so only its date changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, ObjectStore, S3Store

from berth.artifacts.blocks import object_name, regroup, verify
from berth.artifacts.faults import store_faults
from berth.artifacts.store import DAY, StoredArtifact
from berth.artifacts.upload import PART_BYTES, upload
from berth.errors import NotFound
from berth.ids import check_sha256
from berth.settings import SettingsError
from berth.settling import settle

log = structlog.get_logger(__name__)

# Larger objects cannot be copied by one request to S3.
_COPY_LIMIT = 5 << 30
# Removing a draft may take this long, in seconds; the sweep finds what was left.
_DISCARD_TIMEOUT = 30.0


def memory_artifacts() -> ObjectArtifacts:
    return ObjectArtifacts(MemoryStore(), "memory")


def s3_artifacts(bucket: str, prefix: str, aws: Mapping[str, str]) -> ObjectArtifacts:
    """The store in `bucket` below `prefix`. Raises `SettingsError` for AWS_* settings that make no sense."""
    try:
        store = S3Store(
            bucket,
            prefix=prefix or None,
            config=dict(aws),  # type: ignore[arg-type]  # obstore checks the names itself
            client_options={
                # Plain HTTP only where the deployment named such an end point itself.
                "allow_http": aws.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=60),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
        )
    except (BaseError, ValueError) as error:
        raise SettingsError(f"s3://{bucket}/{prefix}: {error}") from None
    return ObjectArtifacts(store, f"s3://{bucket}/{prefix}")


class ObjectArtifacts:
    """The store in `store`; `label` is for people. Objects above `copy_limit` bytes are published by reading them."""

    def __init__(self, store: ObjectStore, label: str, *, copy_limit: int = _COPY_LIMIT) -> None:
        self._store = store
        self._label = label
        self._copy_limit = copy_limit

    def __repr__(self) -> str:
        return f"<ObjectArtifacts {self._label}>"

    async def put(self, chunks: AsyncIterable[bytes], *, expected_sha256: str | None, max_bytes: int) -> StoredArtifact:
        if expected_sha256 is not None:
            check_sha256(expected_sha256)
        draft = f"tmp/{uuid.uuid4().hex}"
        intake = _Intake()
        try:
            await upload(self._store, draft, intake.hashed(regroup(chunks, max_bytes)))
            stored = intake.result()
            verify(stored.sha256, expected_sha256)
            await self._publish(draft, stored)
        finally:
            await settle(self._discard(draft))
        return stored

    async def open(self, sha256: str) -> AsyncIterator[bytes]:
        name = object_name(sha256)
        with store_faults(name):
            size = (await obstore.head_async(self._store, name))["size"]
        async with contextlib.aclosing(self._read(name, size)) as blocks:
            async for block in blocks:
                yield block

    async def exists(self, sha256: str) -> bool:
        name = object_name(sha256)
        try:
            with store_faults(name):
                await obstore.head_async(self._store, name)
        except NotFound:
            return False
        return True

    async def delete(self, sha256: str) -> None:
        name = object_name(sha256)
        with contextlib.suppress(NotFound), store_faults(name):
            await obstore.delete_async(self._store, name)

    def local_path(self, sha256: str) -> Path | None:
        check_sha256(sha256)
        return None

    async def sweep(self, now: float, *, older_than_s: float = DAY) -> int:
        with store_faults("tmp"):
            drafts = [draft async for page in obstore.list(self._store, "tmp") for draft in page]
        stale = [draft["path"] for draft in drafts if draft["last_modified"].timestamp() < now - older_than_s]
        for name in stale:
            await self._discard(name)
        return len(stale)

    async def _publish(self, draft: str, stored: StoredArtifact) -> None:
        name = object_name(stored.sha256)
        if stored.size_bytes > self._copy_limit:
            await upload(self._store, name, self._read(draft, stored.size_bytes))
            return
        with store_faults(draft):
            await obstore.copy_async(self._store, draft, name)

    async def _read(self, name: str, size: int) -> AsyncGenerator[bytes]:
        # By ranges: each request is short, so that a timeout can tell a slow store from a large object.
        for start in range(0, size, PART_BYTES):
            with store_faults(name):
                block = await obstore.get_range_async(self._store, name, start=start, end=min(start + PART_BYTES, size))
            yield bytes(block)

    async def _discard(self, draft: str) -> None:
        """Remove a draft if it is there. A failure is left to the sweep."""
        try:
            async with asyncio.timeout(_DISCARD_TIMEOUT):
                await obstore.delete_async(self._store, draft)
        except FileNotFoundError:
            pass
        except (BaseError, TimeoutError) as error:
            log.warning("could not remove a draft", store=self._label, draft=draft, error=str(error))


class _Intake:
    """Hashes and counts blocks on their way through."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._size = 0

    async def hashed(self, blocks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                await settle(asyncio.to_thread(self._hash.update, block))
                self._size += len(block)
                yield block

    def result(self) -> StoredArtifact:
        return StoredArtifact(self._hash.hexdigest(), self._size)
