"""Artifacts in a local folder, written by hand because obstore's local store does not sync to the disk.

An object is acknowledged only after the file and the folder that names it are synced. It is written under `tmp/` and
moved into place by rename: readers see nothing or all of it. A rename over an object that is there already puts the
same bytes in its place, and would heal a damaged one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import stat
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from berth.artifacts.blocks import BLOCK_BYTES, object_name, regroup, verify
from berth.artifacts.store import DAY, StoredArtifact
from berth.errors import NotFound, Unavailable
from berth.ids import check_sha256
from berth.settling import settle

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class LocalArtifacts:
    """The store in the folder `root`, which is created with access for its owner only."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = root / "tmp"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self._drafts, root / "sha256"):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (root, root.parent):
            _sync_folder(folder)

    def __repr__(self) -> str:
        return f"<LocalArtifacts {self._root}>"

    async def put(self, chunks: AsyncIterable[bytes], *, expected_sha256: str | None, max_bytes: int) -> StoredArtifact:
        if expected_sha256 is not None:
            check_sha256(expected_sha256)
        draft = _Draft(self._drafts / f"{uuid.uuid4().hex}.part")
        try:
            await _in_thread(draft.create)
            async with contextlib.aclosing(regroup(chunks, max_bytes)) as blocks:
                async for block in blocks:
                    await _in_thread(draft.write, block)
            stored = StoredArtifact(draft.sha256, draft.size)
            verify(stored.sha256, expected_sha256)
            await _in_thread(draft.sync)
            await _in_thread(draft.publish, self._root / object_name(stored.sha256))
        finally:
            await _in_thread(draft.close)
        return stored

    async def open(self, sha256: str) -> AsyncIterator[bytes]:
        path = self._root / object_name(sha256)
        file = await _in_thread(_open_file, path)
        if file is None:
            raise NotFound(f"there is no artifact {sha256}")
        with file:
            while block := await _in_thread(file.read, BLOCK_BYTES):
                yield block

    async def exists(self, sha256: str) -> bool:
        return self.local_path(sha256) is not None

    async def delete(self, sha256: str) -> None:
        path = self._root / object_name(sha256)
        await _in_thread(path.unlink, True)

    def local_path(self, sha256: str) -> Path | None:
        path = self._root / object_name(sha256)
        return path if path.is_file() else None

    async def sweep(self, now: float, *, older_than_s: float = DAY) -> int:
        return await _in_thread(_sweep_folder, self._drafts, now - older_than_s)


class _Draft:
    """A file under way. Its methods block, and are called one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def create(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, block: bytes) -> None:
        self._hash.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.size += len(block)

    def sync(self) -> None:
        os.fchmod(self._fd, stat.S_IRUSR)
        os.fsync(self._fd)

    def publish(self, target: Path) -> None:
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(target.parent.parent)
        self._path.rename(target)
        _sync_folder(target.parent)

    def close(self) -> None:
        """Free the file and remove it unless it was published. Fails for nothing: a sweep finds what it cannot."""
        try:
            if self._fd >= 0:
                os.close(self._fd)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("could not remove a draft", path=str(self._path), error=str(error))


def _open_file(path: Path) -> io.FileIO | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sweep_folder(folder: Path, before: float) -> int:
    swept = 0
    for path in folder.iterdir():
        try:
            # A draft that is still being written has a recent modification time, however long it takes.
            if path.stat().st_mtime < before:
                path.unlink()
                swept += 1
        except FileNotFoundError:
            continue
    return swept


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking step. It is never abandoned: the thread may be using the file that clean-up would close."""
    try:
        return await settle(asyncio.to_thread(function, *args, **kwargs))
    except OSError as error:
        log.error("the artifact folder fails", error=str(error))
        raise Unavailable("the artifact store cannot be used now", retry_after=5.0) from error
