"""What a synchronizer keeps on disk, so that it can be restarted while no controller is there.

    desired     the last desired state that it acted on
    leadership  the epoch it leads (absent when it led no more at its end), and the generations it may have given out

Both are written whole: a draft, fsync, rename, fsync of the folder. Generations are reserved in blocks. The number on
disk is above all that were given out, so a restart goes on above them. One write lasts for a hundred thousand sets. A
file that cannot be read is logged and ignored: the controller's feed replaces it. The folder is locked, because two
processes that believe they led the same epoch could not be told apart by anyone.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from berth.model import DesiredState
from berth.settings import SettingsError
from berth.wire import convert
from berth.wire.v1 import desired_pb2

log = structlog.get_logger(__name__)


class KeptState(Protocol):
    """What survives the process. Writing raises OSError; reading what was never written gives None, or zeros."""

    async def read_desired(self, cell: str) -> DesiredState | None: ...

    async def write_desired(self, desired: DesiredState) -> None: ...

    async def read_leadership(self) -> tuple[int, int]:
        """The epoch that the predecessor led in when it ended, 0 if none; and a bound of the generations it gave."""

    async def write_leadership(self, epoch: int, reserved: int) -> None: ...


class StateDir:
    """The folder at `path`, created for its owner only: the desired state contains hashes of API keys."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises `SettingsError` if another process does; a killed one lets go by itself."""
        with (self._path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SettingsError(f"{self._path} is used by another synchronizer") from None
            yield

    async def read_desired(self, cell: str) -> DesiredState | None:
        return await asyncio.to_thread(self._read_desired, cell)

    async def write_desired(self, desired: DesiredState) -> None:
        await asyncio.to_thread(self._write_desired, desired)

    async def read_leadership(self) -> tuple[int, int]:
        return await asyncio.to_thread(self._read_leadership)

    async def write_leadership(self, epoch: int, reserved: int) -> None:
        content = json.dumps({"epoch": epoch, "reserved": reserved}).encode()
        await asyncio.to_thread(self._write, "leadership", content)

    async def read_epoch(self) -> int:
        """The highest epoch seen in a Lease of Kubernetes, 0 if none."""
        content = await asyncio.to_thread(self._read, "epoch")
        return int(content) if content is not None and content.isdigit() else 0

    async def write_epoch(self, epoch: int) -> None:
        await asyncio.to_thread(self._write, "epoch", str(epoch).encode())

    def _read_desired(self, cell: str) -> DesiredState | None:
        content = self._read("desired")
        if content is None:
            return None
        digest, body = content[:32], content[32:]
        try:
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("the checksum does not match")
            desired = convert.desired_from_wire(desired_pb2.DesiredState.FromString(body))
        except (ValueError, DecodeError) as error:
            log.error("desired state on disk is ignored", path=str(self._path / "desired"), error=str(error))
            return None
        if desired.cell != cell:
            log.error("desired state on disk is of another cell", cell=desired.cell)
            return None
        return desired

    def _write_desired(self, desired: DesiredState) -> None:
        body = convert.desired_to_wire(desired).SerializeToString()
        self._write("desired", hashlib.sha256(body).digest() + body)

    def _read_leadership(self) -> tuple[int, int]:
        content = self._read("leadership")
        if content is None:
            return 0, 0
        try:
            fields = json.loads(content)
            return int(fields["epoch"]), int(fields["reserved"])
        except (ValueError, KeyError, TypeError) as error:
            log.error("leadership on disk is ignored", path=str(self._path / "leadership"), error=str(error))
            return 0, 0

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("state on disk cannot be read", path=str(self._path / name), error=str(error))
            return None

    def _write(self, name: str, content: bytes) -> None:
        draft = self._path / f"{name}.draft"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, for its mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path / name)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
