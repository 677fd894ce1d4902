"""Artifacts on the worker's disk, by digest: fetched once, verified, and kept while there is room.

Each artifact has a folder of its own, `<digest>/model.onnx`. Never put two in one folder: ONNX lets a model name a file
in its folder as the home of its weights, and that file must not be another tenant's. A folder appears whole, by rename;
what a killed process had begun is removed at start. Files are verified as they are written, and again when they are
first used after a start, since a disk may have lost or changed them meanwhile.

The cache belongs to one process at a time; a lock on it makes sure.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from berth.ids import check_sha256
from berth.model import Artifact
from berth.settings import SettingsError
from berth.settling import settle
from worker.keeping.fetching import ArtifactSource, digest_of, fetch

log = structlog.get_logger(__name__)

_FILE = "model.onnx"
_DRAFT = "incoming-"


@dataclass(slots=True)
class _Entry:
    """A file in the cache. `verified` since this process started; `pins` are the leases on it."""

    size: int
    used: float = 0.0
    verified: bool = False
    pins: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CachedArtifact:
    """A lease: the file stays until `release` is called, which may be done twice."""

    __slots__ = ("_entry", "_released", "path")

    def __init__(self, path: Path, entry: _Entry) -> None:
        self.path = path
        self._entry = entry
        self._released = False
        entry.pins += 1

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._entry.pins -= 1


class ArtifactCache:
    """The folder at `root`, which is created with access for its owner only.

    It holds at most `max_bytes`, but what is leased is never removed: if more than that is in use, it says so in the
    log and grows. Raises `SettingsError` if the folder cannot be had, or another process has it.
    """

    def __init__(self, root: Path, source: ArtifactSource, *, max_bytes: int) -> None:
        self._root = root
        self._source = source
        self._max_bytes = max_bytes
        self._entries: dict[str, _Entry] = {}
        self.size_bytes = 0
        """The sum over all entries, those included whose fetch is under way."""
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock_exclusively(root / "lock")
            self._adopt()
        except OSError as error:
            raise SettingsError(f"the artifact cache {root} cannot be used: {error.strerror}") from None

    def __repr__(self) -> str:
        pinned = sum(1 for entry in self._entries.values() if entry.pins)
        return f"<ArtifactCache {len(self._entries)} files, {self.size_bytes} bytes, {pinned} in use>"

    def close(self) -> None:
        self._lock.close()

    async def obtain(self, artifact: Artifact) -> CachedArtifact:
        """Lease the verified artifact, fetching it if it is not here. Those who want the same one share one fetch.

        Raises what the store raises, `DigestMismatch` if the store's bytes are wrong, and `OSError` if the disk is
        full. Cancelling it leaves nothing behind.
        """
        digest = check_sha256(artifact.sha256)
        entry = self._entries.get(digest) or self._add(digest, artifact.size_bytes)
        entry.used = time.time()
        lease = CachedArtifact(self._path(digest), entry)
        try:
            # Whoever is first does the work for all; if it fails or is cancelled, the next one starts over.
            async with entry.lock:
                entry.verified = entry.verified and _mark_used(lease.path)
                if not entry.verified:
                    self.size_bytes += artifact.size_bytes - entry.size
                    entry.size = artifact.size_bytes
                    await self._bring_in(digest, artifact.size_bytes)
                    entry.verified = _mark_used(lease.path)
        except BaseException:
            lease.release()
            if not entry.pins and not entry.verified and self._entries.get(digest) is entry:
                self._drop(digest)
            raise
        return lease

    async def _bring_in(self, digest: str, size: int) -> None:
        path = self._path(digest)
        if path.parent.exists():
            if path.exists() and await settle(asyncio.to_thread(digest_of, path)) == digest:
                return
            log.warning("cached artifact is damaged: fetching it again", artifact=digest)
            await settle(asyncio.to_thread(shutil.rmtree, path.parent))
        await self._make_room()
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._root))
        try:
            await fetch(self._source, digest, size, draft / _FILE)
            _publish(draft, path.parent)
        except BaseException:
            await settle(asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True))
            raise

    async def _make_room(self) -> None:
        """Remove what was used longest ago until the announced bytes fit. Called with a pin on what is to come."""
        if self.size_bytes <= self._max_bytes:
            return
        for _, digest in sorted((entry.used, digest) for digest, entry in self._entries.items() if not entry.pins):
            if self.size_bytes <= self._max_bytes:
                return
            entry = self._entries.get(digest)
            if entry is None or entry.pins:
                continue  # while the last one was being removed, this one was wanted
            self._drop(digest)
            # Renamed first: were it half removed when a fetch of the same digest begins, the two would mix.
            grave = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._root))
            self._path(digest).parent.rename(grave / digest)
            await settle(asyncio.to_thread(shutil.rmtree, grave, ignore_errors=True))
        if self.size_bytes > self._max_bytes:
            log.warning("more artifacts are in use than the cache may hold", bytes=self.size_bytes)

    def _adopt(self) -> None:
        """Take over what is on disk: finished files unverified, the rest away."""
        for folder in self._root.iterdir():
            file = folder / _FILE
            if folder.name.startswith(_DRAFT):
                shutil.rmtree(folder, ignore_errors=True)
            elif file.is_file():
                info = file.stat()
                self._add(folder.name, info.st_size).used = info.st_mtime

    def _add(self, digest: str, size: int) -> _Entry:
        entry = self._entries[digest] = _Entry(size)
        self.size_bytes += size
        return entry

    def _drop(self, digest: str) -> None:
        self.size_bytes -= self._entries.pop(digest).size

    def _path(self, digest: str) -> Path:
        return self._root / digest / _FILE


def _mark_used(path: Path) -> bool:
    """Note the use where it survives a restart; False if somebody has removed the file."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _publish(draft: Path, folder: Path) -> None:
    """Not in a thread: there is no place in it for a cancellation to land."""
    draft.rename(folder)


def _lock_exclusively(path: Path) -> IO[bytes]:
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise SettingsError(f"the artifact cache {path.parent} is in use by another worker") from None
    return lock
