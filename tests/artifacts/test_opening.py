from __future__ import annotations

import resource
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from berth.artifacts.opening import open_store
from berth.errors import Unavailable
from berth.settings import SettingsError


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * (1 << 20)


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "url", ["", "/tmp/x", "file://host/x", "file:relative", "s3://", "s3:bucket", "ftp://x/y", "memory", "memory://x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="artifact store"):
        open_store(url)


def test_settings_that_s3_does_not_know_are_refused() -> None:
    with pytest.raises(SettingsError, match="bucket"):
        open_store("s3://bucket/x", {"AWS_NO_SUCH_THING": "1"})


async def test_a_folder_is_kept_between_opens_and_private(tmp_path: Path) -> None:
    root = tmp_path / "with space"

    async def chunks() -> AsyncIterator[bytes]:
        yield b"kept"

    stored = await open_store(root.as_uri()).put(chunks(), expected_sha256=None, max_bytes=4)
    again = open_store(root.as_uri())
    path = again.local_path(stored.sha256)
    assert path is not None
    assert path.read_bytes() == b"kept"
    assert path.stat().st_mode & 0o777 == 0o400
    assert root.stat().st_mode & 0o777 == 0o700


async def test_putting_again_heals_a_damaged_object(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"good"

    stored = await store.put(chunks(), expected_sha256=None, max_bytes=4)
    path = store.local_path(stored.sha256)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"evil")
    await store.put(chunks(), expected_sha256=None, max_bytes=4)
    assert path.read_bytes() == b"good"


async def test_a_folder_that_fails_is_unavailable(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    shutil.rmtree(tmp_path / "tmp")
    with pytest.raises(Unavailable):
        await store.put(endless(), expected_sha256=None, max_bytes=1 << 40)
    with pytest.raises(Unavailable):
        await store.sweep(0.0)


async def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    # The limit on a process's file sizes fails a write as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, before[1]))
    try:
        with pytest.raises(Unavailable):
            await store.put(endless(), expected_sha256=None, max_bytes=1 << 40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert files_below(tmp_path) == []


async def test_an_s3_that_does_not_answer_is_unavailable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = bound.getsockname()[1]
        store = open_store(
            "s3://bucket/x",
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_REGION": "us-east-1",
            },
        )
        with pytest.raises(Unavailable):
            await store.put(endless(), expected_sha256=None, max_bytes=1 << 40)
        with pytest.raises(Unavailable):
            await store.exists("ab" * 32)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    open_store(tmp_path.as_uri())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        open_store(tmp_path.as_uri())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
