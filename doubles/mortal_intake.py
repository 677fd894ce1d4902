"""The intake of a controller that is lost at a chosen moment: here, or with its process (`python -m` it).

Lost here, it raises `Lost` and gets nothing through from then on, neither to the database nor to the store: its own
clearing up fails as that of a killed process would not even begin.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry

from berth.artifacts.local import LocalArtifacts
from berth.artifacts.store import StoredArtifact
from berth.ids import ModelKey
from berth.states import Role
from controller.api.version_views import render_version
from controller.core.commands import Caller, Command
from controller.core.intake import InspectedModel, Requester, Upload, UploadStep, UploadTicket
from controller.intake.composition import compose_intake
from controller.intake.inspection import Inspector
from controller.intake.receiving import Incoming, Receiving
from controller.intake.resuming import Resuming
from controller.intake.steps import Tools
from controller.store.transaction import Transactions, Tx
from controller.usecases.requests import ApiAnswer

T = TypeVar("T")
Inspection = Callable[[Path], Awaitable[InspectedModel]]


class Lost(Exception):
    """The controller is gone."""


class Moment(StrEnum):
    """After what the controller is lost. `PUT`: the object is in the store, and nobody has recorded it."""

    BEGUN = "begun"
    RECEIVED = "received"
    PUT = "put"
    STORED = "stored"
    INSPECTED = "inspected"
    PLACED = "placed"


_BY_STEP = {
    UploadStep.RECEIVING: Moment.BEGUN,
    UploadStep.RECEIVED: Moment.RECEIVED,
    UploadStep.STORED: Moment.STORED,
    UploadStep.INSPECTED: Moment.INSPECTED,
}


class Fate:
    """Ends the controller at `moment` (None: never), by killing this process if it is `deadly`."""

    def __init__(self, moment: Moment | None, *, deadly: bool = False) -> None:
        self._moment = moment
        self._deadly = deadly
        self._over = False

    def check(self) -> None:
        if self._over:
            raise Lost

    def reach(self, moment: Moment) -> None:
        if moment is self._moment:
            if self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            self._over = True
            raise Lost


class MortalTransactions(Transactions):
    def __init__(self, url: str, fate: Fate) -> None:
        super().__init__(url, CollectorRegistry(), pool_size=2)
        self._fate = fate

    async def run(self, use_case: Callable[[Tx], Awaitable[T]], *, fleet: bool = False, uploads: bool = False) -> T:
        self._fate.check()
        result = await super().run(use_case, fleet=fleet, uploads=uploads)
        match result:
            case UploadTicket():
                self._fate.reach(Moment.BEGUN)
            case Upload(step=step):
                self._fate.reach(_BY_STEP[step])
            case ApiAnswer():
                self._fate.reach(Moment.PLACED)
        return result


class MortalArtifacts(LocalArtifacts):
    """Waits in `put` until `may_put` is set."""

    def __init__(self, root: Path, fate: Fate) -> None:
        super().__init__(root)
        self._fate = fate
        self.putting = asyncio.Event()
        self.may_put = asyncio.Event()
        self.may_put.set()

    async def put(self, chunks: AsyncIterable[bytes], *, expected_sha256: str | None, max_bytes: int) -> StoredArtifact:
        self._fate.check()
        self.putting.set()
        await self.may_put.wait()
        stored = await super().put(chunks, expected_sha256=expected_sha256, max_bytes=max_bytes)
        self._fate.reach(Moment.PUT)
        return stored

    async def delete(self, sha256: str) -> None:
        self._fate.check()
        await super().delete(sha256)


class MortalIntake:
    """Stores in `root`/artifacts, which controllers share, and spools in a folder of its own."""

    def __init__(
        self,
        url: str,
        root: Path,
        name: str,
        moment: Moment | None = None,
        *,
        deadly: bool = False,
        inspect: Inspection | None = None,
    ) -> None:
        fate = Fate(moment, deadly=deadly)
        self.spool = root / f"spool-{name}"
        self.spool.mkdir()
        self.transactions = MortalTransactions(url, fate)
        self.artifacts = MortalArtifacts(root / "artifacts", fate)
        tools = Tools(
            transactions=self.transactions,
            artifacts=self.artifacts,
            inspect=inspect or Inspector().inspect,
            render=render_version,
            placed=lambda _: None,
            spool=self.spool,
            max_artifact_bytes=64 << 20,
        )
        parts: tuple[Receiving, Resuming] = compose_intake(tools, name, CollectorRegistry())
        self.receiving, self.resuming = parts

    async def upload(
        self, content: bytes, key: str | None, model: str = "digits", *, declared: bool = True
    ) -> ApiAnswer:
        size = len(content) if declared else 0
        return await self.receiving.receive(incoming(content, key, model, size), _in_blocks(content))

    async def close(self) -> None:
        await self.transactions.close()


def incoming(content: bytes, key: str | None, model: str = "digits", declared_bytes: int = 0) -> Incoming:
    """An upload of `content` by tenant acme, under the idempotency key `key`."""
    return Incoming(
        key=ModelKey("acme", model),
        requester=Requester(Command(Caller("key-1", Role.DEVELOPER, "acme")), key),
        declared_bytes=declared_bytes,
        expected_sha256=hashlib.sha256(content).hexdigest(),
        fingerprint=lambda sha256: hashlib.sha256(f"{model}/{sha256}".encode()).digest(),
    )


async def _in_blocks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 16):
        yield content[start : start + (1 << 16)]


async def _main(url: str, root: str, moment: str, key: str) -> None:
    """Upload standard input, and be killed at `moment`."""
    intake = MortalIntake(url, Path(root), "killed", Moment(moment), deadly=True)
    await intake.upload(sys.stdin.buffer.read(), key)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
