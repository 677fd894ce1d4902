"""The artifact cache: what is in it is what was asked for, whatever store, disk and callers do."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from berth.artifacts.opening import open_store
from berth.errors import DigestMismatch, InvalidArgument, NotFound, Unavailable
from berth.model import Artifact
from berth.settings import SettingsError
from worker.keeping.artifacts import ArtifactCache


class Shelf:
    """A store in memory that counts, waits when told to, and lies or fails when told to."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.fails: Exception | None = None
        self.closed = 0

    def add(self, data: bytes) -> Artifact:
        digest = hashlib.sha256(data).hexdigest()
        self.objects[digest] = data
        return Artifact(digest, len(data))

    async def open(self, sha256: str) -> AsyncIterator[bytes]:
        self.opened.append(sha256)
        try:
            data = self.objects[sha256]
            yield data[: len(data) // 2]
            self.begun.set()
            await self.gate.wait()
            if self.fails is not None:
                raise self.fails
            yield data[len(data) // 2 :]
        finally:
            self.closed += 1


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def cache(tmp_path: Path, shelf: Shelf) -> Iterator[ArtifactCache]:
    cache = ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)
    yield cache
    cache.close()


def files(folder: Path) -> set[str]:
    """Everything below the folder but the lock."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"lock"}


async def test_it_fetches_once_and_then_has_it(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    artifact = shelf.add(b"hello")
    for _ in range(3):
        lease = await cache.obtain(artifact)
        assert lease.path.read_bytes() == b"hello"
        assert [entry.name for entry in lease.path.parent.iterdir()] == [lease.path.name], "alone in its folder"
        lease.release()
    assert shelf.opened == [artifact.sha256]
    assert files(tmp_path / "cache") == {f"{artifact.sha256}/model.onnx"}


async def test_those_who_want_the_same_share_one_fetch(cache: ArtifactCache, shelf: Shelf) -> None:
    artifact = shelf.add(b"hello")
    leases = await asyncio.gather(*(cache.obtain(artifact) for _ in range(10)))
    assert {lease.path.read_bytes() for lease in leases} == {b"hello"}
    assert len(shelf.opened) == 1


async def test_if_the_one_who_fetches_is_cancelled_another_takes_over(
    cache: ArtifactCache, shelf: Shelf, tmp_path: Path
) -> None:
    artifact = shelf.add(b"hello")
    shelf.gate.clear()
    first, second = (asyncio.create_task(cache.obtain(artifact)) for _ in range(2))
    await asyncio.wait_for(shelf.begun.wait(), 5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shelf.gate.set()
    assert (await asyncio.wait_for(second, 5)).path.read_bytes() == b"hello"
    assert shelf.closed == 2, "the first stream was closed, not left to the collector"
    assert files(tmp_path / "cache") == {f"{artifact.sha256}/model.onnx"}


@pytest.mark.parametrize(
    ("lie", "size"),
    [
        pytest.param(b"hellO", 5, id="other bytes"),
        pytest.param(b"hell", 5, id="too few"),
        pytest.param(b"hello!", 5, id="too many"),
        pytest.param(b"", 5, id="none"),
        pytest.param(b"hello", 4, id="other size announced"),
    ],
)
async def test_bytes_that_are_not_those_asked_for_never_appear(
    cache: ArtifactCache, shelf: Shelf, tmp_path: Path, lie: bytes, size: int
) -> None:
    artifact = shelf.add(b"hello")
    shelf.objects[artifact.sha256] = lie
    with pytest.raises(DigestMismatch):
        await cache.obtain(Artifact(artifact.sha256, size))
    assert files(tmp_path / "cache") == set()
    assert cache.size_bytes == 0
    shelf.objects[artifact.sha256] = b"hello"
    assert (await cache.obtain(artifact)).path.read_bytes() == b"hello"


@pytest.mark.parametrize("error", [NotFound("gone"), Unavailable("away"), OSError(28, "No space left on device")])
async def test_a_failed_fetch_leaves_nothing(
    cache: ArtifactCache, shelf: Shelf, tmp_path: Path, error: Exception
) -> None:
    artifact = shelf.add(b"hello")
    shelf.fails = error
    with pytest.raises(type(error)):
        await cache.obtain(artifact)
    assert files(tmp_path / "cache") == set()
    shelf.fails = None
    assert (await cache.obtain(artifact)).path.read_bytes() == b"hello"


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "A" * 64])
async def test_only_digests_become_paths(cache: ArtifactCache, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        await cache.obtain(Artifact(digest, 5))


async def test_the_least_recently_used_goes_first(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    first, second, third = (shelf.add(bytes([number]) * 400) for number in range(3))
    for artifact in (first, second, first, third):
        (await cache.obtain(artifact)).release()
    assert files(tmp_path / "cache") == {f"{artifact.sha256}/model.onnx" for artifact in (first, third)}
    assert cache.size_bytes == 800


async def test_what_is_leased_stays_even_beyond_the_limit(cache: ArtifactCache, shelf: Shelf) -> None:
    artifacts = [shelf.add(bytes([number]) * 400) for number in range(4)]
    leases = [await cache.obtain(artifact) for artifact in artifacts]
    assert all(lease.path.exists() for lease in leases)
    assert cache.size_bytes == 1600
    for lease in leases:
        lease.release()
        lease.release()
    (await cache.obtain(shelf.add(b"last"))).release()
    assert cache.size_bytes <= 1000


async def test_many_at_once_in_a_cache_too_small_for_them(cache: ArtifactCache, shelf: Shelf) -> None:
    artifacts = [shelf.add(bytes([number]) * 300) for number in range(8)]

    async def use(artifact: Artifact) -> None:
        for _ in range(5):
            lease = await cache.obtain(artifact)
            assert hashlib.sha256(lease.path.read_bytes()).hexdigest() == artifact.sha256
            lease.release()

    async with asyncio.timeout(30):
        await asyncio.gather(*(use(artifact) for artifact in artifacts * 2))
    (await cache.obtain(shelf.add(b"last"))).release()
    assert cache.size_bytes <= 1000


# Over restarts


async def test_it_is_kept_over_a_restart_and_verified_once(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    artifact = shelf.add(b"hello")
    await cache.obtain(artifact)
    cache.close()
    again = ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)
    assert (await again.obtain(artifact)).path.read_bytes() == b"hello"
    assert len(shelf.opened) == 1
    again.close()


@pytest.mark.parametrize("damage", [b"jello", b"hell", b""])
async def test_a_file_damaged_meanwhile_is_fetched_again(
    cache: ArtifactCache, shelf: Shelf, tmp_path: Path, damage: bytes
) -> None:
    artifact = shelf.add(b"hello")
    (await cache.obtain(artifact)).path.write_bytes(damage)
    cache.close()
    again = ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)
    assert (await again.obtain(artifact)).path.read_bytes() == b"hello"
    assert len(shelf.opened) == 2
    again.close()


async def test_a_file_removed_by_hand_is_fetched_again(cache: ArtifactCache, shelf: Shelf) -> None:
    artifact = shelf.add(b"hello")
    lease = await cache.obtain(artifact)
    lease.path.unlink()
    assert (await cache.obtain(artifact)).path.read_bytes() == b"hello"


async def test_what_a_killed_process_left_is_cleaned_up(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    artifact = shelf.add(b"hello")
    await cache.obtain(artifact)
    cache.close()
    half = tmp_path / "cache" / "incoming-x"
    half.mkdir()
    (half / "model.onnx").write_bytes(b"hel")
    again = ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)
    assert files(tmp_path / "cache") == {f"{artifact.sha256}/model.onnx"}
    again.close()


async def test_the_order_of_use_survives_a_restart(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    first, second, third = (shelf.add(bytes([number]) * 400) for number in range(3))
    for when, artifact in ((200, first), (100, second)):
        lease = await cache.obtain(artifact)
        os.utime(lease.path, (when, when))
    cache.close()
    again = ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)
    await again.obtain(third)
    assert files(tmp_path / "cache") == {f"{artifact.sha256}/model.onnx" for artifact in (first, third)}
    again.close()


def test_two_processes_cannot_have_the_same_cache(cache: ArtifactCache, shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="in use by another worker"):
        ArtifactCache(tmp_path / "cache", shelf, max_bytes=1000)


async def test_with_the_real_store(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    data = os.urandom(3 * 2**20 + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    stored = await store.put(chunks(), expected_sha256=None, max_bytes=2**30)
    cache = ArtifactCache(tmp_path / "cache", store, max_bytes=2**30)
    lease = await cache.obtain(Artifact(stored.sha256, stored.size_bytes))
    assert lease.path.read_bytes() == data
    with pytest.raises(NotFound):
        await cache.obtain(Artifact("0" * 64, 1))
    cache.close()
