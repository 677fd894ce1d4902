"""A whole controller in this process: real PostgreSQL, real HTTP and gRPC on loopback, real artifacts in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import (
    NEVER,
    ObservedCell,
    ObservedReplica,
    ReplicaAddress,
    ReplicaStatus,
    ServableStatus,
)
from berth.states import ServableState
from berth.wire import convert
from berth.wire.v1 import desired_pb2, desired_pb2_grpc
from controller import service
from controller.settings import ControllerSettings
from controller.store.transaction import Transactions
from doubles.committed import Committed, listening, tell_of_commits
from doubles.onnx_models import identity

TOKEN = "c" * 43
ADMIN = "berth_" + "a" * 43
OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture
async def transactions(database_url: str) -> AsyncIterator[Transactions]:
    transactions = Transactions(database_url, CollectorRegistry())
    yield transactions
    await transactions.close()


@dataclass
class Controller:
    """Handles of a running one; `lead`, `desired` and `report` play the synchronizer."""

    api: httpx.AsyncClient
    feed: Any
    credential: PeerCredential
    settings: ControllerSettings
    feed_target: str
    metrics_port: int
    stop: Callable[[], Awaitable[None]]
    epochs: dict[str, int] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Of the cell `local`."""
        return self.epochs.get("local", 0)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.epochs["local"] = value

    def as_key(self, secret: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secret}"}

    async def tenant(self, name: str, role: str = "developer") -> dict[str, str]:
        """Make a tenant, unless it is there, and a key of it; returns the headers that carry the key."""
        made = await self.api.post("/v1/tenants", json={"name": name})
        assert made.status_code in (201, 409), made.text
        key = await self.api.post(f"/v1/tenants/{name}/keys", json={"role": role})
        assert key.status_code == 201, key.text
        return self.as_key(key.json()["secret"])

    async def job(self, name: str = "pool", **values: Any) -> None:
        made = await self.api.post("/v1/jobs", json={"name": name, **values})
        assert made.status_code == 201, made.text

    async def upload(self, path: str, content: bytes | None = None, **headers: str) -> httpx.Response:
        """Upload to `path`, such as `acme/digits`."""
        tenant, model = path.split("/")
        return await self.api.post(
            f"/v1/tenants/{tenant}/models/{model}/versions",
            content=identity() if content is None else content,
            headers=OCTETS | headers,
        )

    async def get(self, path: str) -> Any:
        answer = await self.api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Read `path`, and again after each commit, until `condition` holds; for at most ten seconds."""
        async with asyncio.timeout(10), self.listening() as committed:
            while not condition(found := await self.get(path)):
                await committed()
        return found

    def listening(self) -> AbstractAsyncContextManager[Committed]:
        """Tells of commits to the controller's database."""
        return listening(self.settings.database_url)

    async def lead(self, holder: str = "sync-1", cell: str = "local") -> None:
        reply = await self.feed.Lease(
            desired_pb2.LeaseRequest(cell=cell, holder=holder, ttl_seconds=30),
            metadata=self.credential.metadata(),
        )
        assert reply.granted
        self.epochs[cell] = reply.epoch

    async def desired(self, cell: str = "local") -> desired_pb2.DesiredState:
        """The cell's desired state now."""
        call = self.feed.WatchDesired(desired_pb2.WatchDesiredRequest(cell=cell), metadata=self.credential.metadata())
        state = await call.read()
        call.cancel()
        assert isinstance(state, desired_pb2.DesiredState)
        return state

    async def report(self, *replicas: ObservedReplica, generation: int | None = None, cell: str = "local") -> None:
        """Report the cell as a synchronizer that has acted on `generation`, the newest if none is given."""
        if generation is None:
            generation = (await self.desired(cell)).generation
        observed = ObservedCell(cell, self.epochs.get(cell, 0), generation, replicas, ("router-1",))
        await self.feed.ReportObserved(iter([convert.observed_to_wire(observed)]), metadata=self.credential.metadata())


def replica(
    name: str,
    *servables: tuple[VersionKey, ServableState],
    job: str = "pool",
    routed: bool = True,
    reason: str = "",
    cell: str = "local",
) -> ObservedReplica:
    """What a synchronizer says of a replica; available servables are routed."""
    statuses = tuple(
        ServableStatus(key, state, reason, since=1_700_000_000.0, measured_bytes=200_000) for key, state in servables
    )
    address = ReplicaAddress(name, job, cell, "1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    available = frozenset(key for key, state in servables if state is ServableState.AVAILABLE)
    status = ReplicaStatus(address, NEVER, statuses, memory_limit=1 << 30, memory_used=1 << 20, in_flight=3)
    return ObservedReplica(status, connected=True, routed=available if routed else frozenset(), seen_at=1_700_000_001.0)


@pytest.fixture
def observed_replica() -> Callable[..., ObservedReplica]:
    return replica


Start = Callable[..., Awaitable[Controller]]


@pytest.fixture
async def start_controller(database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts controllers on the test's database; they stop with the test."""
    async with AsyncExitStack() as stack:

        async def start(**values: Any) -> Controller:
            credential_file, key_file = tmp_path / "credential", tmp_path / "key"
            credential_file.write_text(TOKEN)
            key_file.write_text(ADMIN)
            settings = ControllerSettings(
                **{
                    "database_url": database_url,
                    "rest_address": "127.0.0.1:0",
                    "feed_address": "127.0.0.1:0",
                    "artifact_store": f"file://{tmp_path}/artifacts",
                    "spool_dir": tmp_path / "spool",
                    "bootstrap_key_file": key_file,
                    "credential_file": credential_file,
                    "database_connections": 4,
                    **values,
                }
            )
            stop, ports = asyncio.Event(), service.ControllerPorts()
            running = asyncio.create_task(service.run(settings, stop, ports))

            async def end() -> None:
                stop.set()
                await running

            stack.push_async_callback(end)
            ready = asyncio.create_task(ports.ready.wait())
            async with asyncio.timeout(15):
                await asyncio.wait((ready, running), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if running.done():
                running.result()
            await asyncio.to_thread(tell_of_commits, settings.database_url)
            api = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{ports.rest}", headers={"authorization": f"Bearer {ADMIN}"}, timeout=20
            )
            await stack.enter_async_context(api)
            credential = PeerCredential.from_token(TOKEN)
            target = f"127.0.0.1:{ports.feed}"
            channel = credential.grpc_channel(target)
            await stack.enter_async_context(channel)
            return Controller(
                api, desired_pb2_grpc.DesiredFeedStub(channel), credential, settings, target, ports.metrics, end
            )

        yield start


@pytest.fixture
async def controller(start_controller: Start) -> Controller:
    """One with a job named `pool`."""
    started = await start_controller()
    await started.job("pool")
    return started
