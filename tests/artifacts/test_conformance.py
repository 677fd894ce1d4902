"""What every artifact store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest

from berth.artifacts.store import ArtifactStore, StoredArtifact
from berth.errors import DigestMismatch, InvalidArgument, NotFound, PayloadTooLarge
from tests.artifacts.conftest import Subject

MIB = 1 << 20
PLENTY = 1 << 40


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def name(data: bytes) -> str:
    return f"sha256/{digest(data)[:2]}/{digest(data)}"


async def chunked(data: bytes, size: int = 100_003) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(store: ArtifactStore, sha256: str) -> bytes:
    return b"".join([block async for block in store.open(sha256)])


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 8 * MIB, 8 * MIB + 1, 20 * MIB + 3])
async def test_what_is_put_can_be_read(subject: Subject, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    stored = await subject.store.put(chunked(data), expected_sha256=digest(data), max_bytes=size)
    assert stored == StoredArtifact(digest(data), size)
    assert subject.names() == {name(data)}
    assert await read(subject.store, stored.sha256) == data
    assert await subject.store.exists(stored.sha256)
    path = subject.store.local_path(stored.sha256)
    assert path is None or path.read_bytes() == data


async def test_one_large_chunk_and_empty_ones(subject: Subject) -> None:
    data = b"x" * (3 * MIB)

    async def chunks() -> AsyncIterator[bytes]:
        yield b""
        yield data
        yield b""

    stored = await subject.store.put(chunks(), expected_sha256=None, max_bytes=PLENTY)
    assert await read(subject.store, stored.sha256) == data


async def test_putting_again_is_a_success(subject: Subject) -> None:
    first = await subject.store.put(chunked(b"same"), expected_sha256=None, max_bytes=4)
    assert await subject.store.put(chunked(b"same"), expected_sha256=first.sha256, max_bytes=4) == first
    assert subject.names() == {name(b"same")}


async def test_many_at_once(subject: Subject) -> None:
    bodies = [b"a" * 70_000, b"b" * (2 * MIB), b"", b"a" * 70_000]
    async with asyncio.TaskGroup() as tasks:
        for body in bodies:
            tasks.create_task(subject.store.put(chunked(body), expected_sha256=None, max_bytes=PLENTY))
    assert subject.names() == {name(body) for body in bodies}
    for body in bodies:
        assert await read(subject.store, digest(body)) == body


async def test_a_wrong_digest_leaves_nothing(subject: Subject) -> None:
    with pytest.raises(DigestMismatch) as error:
        await subject.store.put(chunked(b"bytes"), expected_sha256=digest(b"other"), max_bytes=PLENTY)
    assert error.value.fields == {"sha256": digest(b"bytes"), "expected_sha256": digest(b"other")}
    assert subject.names() == set()


async def test_an_announced_digest_must_be_earned_even_if_the_object_exists(subject: Subject) -> None:
    await subject.store.put(chunked(b"secret"), expected_sha256=None, max_bytes=PLENTY)
    with pytest.raises(DigestMismatch):
        await subject.store.put(chunked(b""), expected_sha256=digest(b"secret"), max_bytes=PLENTY)
    assert subject.names() == {name(b"secret")}


@pytest.mark.parametrize(("size", "limit"), [(1, 0), (101, 100), (12 * MIB, 11 * MIB)])
async def test_too_large_leaves_nothing(subject: Subject, size: int, limit: int) -> None:
    with pytest.raises(PayloadTooLarge):
        await subject.store.put(chunked(b"x" * size), expected_sha256=None, max_bytes=limit)
    assert subject.names() == set()


class Cut(Exception):
    pass


@pytest.mark.parametrize("error", [Cut("gone"), FileNotFoundError("gone"), ConnectionResetError("gone")])
@pytest.mark.parametrize("before", [0, 100, 20 * MIB])
async def test_a_source_that_fails_leaves_nothing_and_is_heard(subject: Subject, before: int, error: Exception) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in chunked(b"x" * before, MIB):
            yield chunk
        raise error

    with pytest.raises(type(error), match="gone"):
        await subject.store.put(chunks(), expected_sha256=None, max_bytes=PLENTY)
    assert subject.names() == set()


@pytest.mark.parametrize("before", [0, 100, 3 * MIB, 20 * MIB])
async def test_a_cancelled_put_leaves_nothing(subject: Subject, before: int) -> None:
    stalled = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in chunked(b"x" * before, MIB):
            yield chunk
        stalled.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(subject.store.put(chunks(), expected_sha256=None, max_bytes=PLENTY))
    await asyncio.wait_for(stalled.wait(), 20)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert subject.names() == set()


@pytest.mark.parametrize("at", range(0, 24, 2))
async def test_a_put_cancelled_anywhere_leaves_all_or_nothing(subject: Subject, at: int) -> None:
    data = b"y" * (2 * MIB)
    put = asyncio.create_task(subject.store.put(chunked(data, MIB), expected_sha256=None, max_bytes=PLENTY))
    turns = iter(range(at))
    turned = asyncio.Event()

    def turn() -> None:
        if next(turns, None) is None:
            put.cancel()
            turned.set()
        else:
            asyncio.get_running_loop().call_soon(turn)

    turn()
    await turned.wait()
    # It may have been done already.
    outcome = (await asyncio.gather(put, return_exceptions=True))[0]
    assert isinstance(outcome, StoredArtifact | asyncio.CancelledError)
    names = subject.names()
    assert names in (set(), {name(data)})
    if isinstance(outcome, StoredArtifact) or names:
        assert await read(subject.store, digest(data)) == data


async def test_what_is_not_there(subject: Subject) -> None:
    missing = digest(b"missing")
    assert not await subject.store.exists(missing)
    assert subject.store.local_path(missing) is None
    with pytest.raises(NotFound, match=missing):
        await read(subject.store, missing)
    await subject.store.delete(missing)


async def test_delete(subject: Subject) -> None:
    for body in (b"goes", b"stays"):
        await subject.store.put(chunked(body), expected_sha256=None, max_bytes=PLENTY)
    await subject.store.delete(digest(b"goes"))
    assert not await subject.store.exists(digest(b"goes"))
    assert subject.names() == {name(b"stays")}


@pytest.mark.parametrize(
    "text", ["", "..", "../../etc/passwd", "AB" * 32, "ab" * 31 + "a/", "ab" * 33, "ab" * 32 + "\n"]
)
async def test_only_digests_are_names(subject: Subject, text: str) -> None:
    with pytest.raises(InvalidArgument):
        await subject.store.put(chunked(b""), expected_sha256=text, max_bytes=PLENTY)
    with pytest.raises(InvalidArgument):
        await read(subject.store, text)
    with pytest.raises(InvalidArgument):
        await subject.store.exists(text)
    with pytest.raises(InvalidArgument):
        await subject.store.delete(text)
    with pytest.raises(InvalidArgument):
        subject.store.local_path(text)
    assert subject.names() == set()


async def test_sweep_removes_old_drafts_only(subject: Subject) -> None:
    await subject.store.put(chunked(b"kept"), expected_sha256=None, max_bytes=PLENTY)
    for draft in ("a", "b"):
        subject.plant(draft, b"half")
    assert await subject.store.sweep(time.time(), older_than_s=3_600) == 0
    assert subject.names() == {name(b"kept"), "tmp/a", "tmp/b"}
    assert await subject.store.sweep(time.time() + 7_200, older_than_s=3_600) == 2
    assert subject.names() == {name(b"kept")}
