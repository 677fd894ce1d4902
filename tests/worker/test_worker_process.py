"""The whole worker process: from its settings to its end, with a model served in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.artifacts.opening import open_store
from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import Artifact, AspiredSet, Order, ReplicaAddress, ReplicaStatus, VersionSpec
from berth.registry import LocalRegistry
from berth.resources import Resources
from berth.settings import SettingsError, environment
from berth.states import ServableState as S
from berth.wire.convert import aspired_to_wire, replica_status_from_wire
from berth.wire.v1 import worker_pb2_grpc
from doubles import onnx_models
from doubles.certificates import Authority
from worker.service import run
from worker.settings import WorkerSettings

TOKEN = "t" * 40
CREDENTIAL = PeerCredential.from_token(TOKEN)
KEY = VersionKey("acme", "m", 1)
BROKEN = VersionKey("acme", "broken", 1)
WAIT_S = 60.0


class Process:
    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.registry = LocalRegistry(folder / "registry")

    async def address(self) -> ReplicaAddress:
        """Where it listens, once it does: every line of its log is a reason to look."""
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            lines = []
            while line := await self.process.stderr.readline():
                lines.append(line.decode())
                if '"ready"' in lines[-1]:
                    return self.registry.read()["w-1"]
        raise AssertionError("".join(lines))

    async def said(self, words: str) -> str:
        """The rest of its log until a line has `words` in it."""
        assert self.process.stderr is not None
        lines = []
        async with asyncio.timeout(WAIT_S):
            while line := await self.process.stderr.readline():
                lines.append(line.decode())
                if words in lines[-1]:
                    return lines[-1]
        raise AssertionError("".join(lines))

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(WAIT_S):
            _, log = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, log.decode()


@asynccontextmanager
async def worker(folder: Path, **more: str) -> AsyncIterator[Process]:
    others = {name: value for name, value in environment().items() if not name.startswith("BERTH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", env={**others, **variables(folder, **more)}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Process(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def variables(folder: Path, **more: str) -> dict[str, str]:
    (folder / "token").write_text(TOKEN)
    return {
        "BERTH_INSTANCE": "w-1",
        "BERTH_JOB": "default",
        "BERTH_MEMORY_LIMIT": "64MiB",
        "BERTH_CREDENTIAL_FILE": str(folder / "token"),
        "BERTH_REGISTRY_DIR": str(folder / "registry"),
        "BERTH_ARTIFACT_STORE": (folder / "store").as_uri(),
        "BERTH_CACHE_DIR": str(folder / "cache"),
        **more,
    }


async def store(folder: Path, data: bytes) -> Artifact:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    await open_store((folder / "store").as_uri()).put(chunks(), expected_sha256=None, max_bytes=2**30)
    return Artifact(hashlib.sha256(data).hexdigest(), len(data))


@asynccontextmanager
async def synchronizer(address: ReplicaAddress) -> AsyncIterator[Any]:
    channel = CREDENTIAL.grpc_channel(address.control)
    stub = worker_pb2_grpc.WorkerControlStub(channel)
    stream = stub.Sync(metadata=CREDENTIAL.metadata())
    yield stream
    stream.cancel()
    await channel.close()


async def until(stream: Any, states: Mapping[VersionKey, S], *, draining: bool = False) -> ReplicaStatus:
    async with asyncio.timeout(WAIT_S):
        while True:
            status = replica_status_from_wire((await stream.read()).status)
            if {one.key: one.state for one in status.servables} == states and status.draining is draining:
                return status


async def ask(address: ReplicaAddress) -> Any:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    async with httpx.AsyncClient(base_url=f"http://{address.http}", headers=CREDENTIAL.headers()) as client:
        reply = await client.post(f"/v2/models/{KEY.servable}/infer", json=body)
    assert reply.status_code == 200, reply.text
    return {output["name"]: output["data"] for output in reply.json()["outputs"]}


async def probe(admin: str, path: str) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=f"http://{admin}") as client:
        reply = await client.get(path)
    return reply.status_code, reply.text.strip()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def test_from_start_to_end(tmp_path: Path) -> None:
    spec = VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000))
    async with worker(tmp_path) as process:
        address = await process.address()
        assert (address.replica, address.job, address.cell) == ("w-1", "default", "local")
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), (spec,))))
            status = await until(stream, {KEY: S.AVAILABLE})
            assert status.memory_limit == 64 * 2**20
            assert 0 < status.memory_used < status.memory_limit
            assert await ask(address) == {"y": [2.0, 4.0], "z": [-1.0, -2.0]}
            process.process.send_signal(signal.SIGTERM)
            await until(stream, {KEY: S.AVAILABLE}, draining=True)
            assert await ask(address) == {"y": [2.0, 4.0], "z": [-1.0, -2.0]}, "it serves on until the routes are gone"
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 2), ())))
            code, log = await process.ended()
        assert code == 0, log
        assert "routes may be left" not in log
        assert process.registry.read() == {}


async def test_asked_to_stop_with_nobody_connected_it_ends_soon_and_unloads(tmp_path: Path) -> None:
    spec = VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000))
    async with worker(tmp_path, BERTH_DRAIN_GRACE_S="30") as process:
        address = await process.address()
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), (spec,))))
            await until(stream, {KEY: S.AVAILABLE})
        loop = asyncio.get_running_loop()
        started = loop.time()
        process.process.send_signal(signal.SIGTERM)
        code, log = await process.ended()
        assert code == 0, log
        assert loop.time() - started < 15, "not the grace of a connected synchronizer"
        assert '"unloaded"' in log
        assert process.registry.read() == {}


async def test_probes_tell_the_truth_from_start_to_end(tmp_path: Path) -> None:
    specs = (
        VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000)),
        VersionSpec(BROKEN, await store(tmp_path, b"no model at all"), Resources.host(200_000)),
    )
    admin = f"127.0.0.1:{free_port()}"
    async with worker(tmp_path, BERTH_ADMIN_ADDRESS=admin) as process:
        address = await process.address()
        assert await probe(admin, "/healthz") == (200, "ok")
        assert await probe(admin, "/readyz") == (503, "not told yet what to hold")
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), specs)))
            await until(stream, {KEY: S.AVAILABLE, BROKEN: S.ERROR})
            assert await probe(admin, "/readyz") == (200, "ok"), "what cannot be loaded is waited for by nobody"
            metrics = (await probe(admin, "/metrics"))[1]
            assert "berth_worker_loop_late_seconds" in metrics
            process.process.send_signal(signal.SIGTERM)
            await until(stream, {KEY: S.AVAILABLE, BROKEN: S.ERROR}, draining=True)
            assert await probe(admin, "/readyz") == (503, "asked to stop")
            assert await probe(admin, "/healthz") == (200, "ok"), "it drains, and must not be killed for that"
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 2), ())))
            code, log = await process.ended()
        assert code == 0, log


async def test_a_synchronizer_that_goes_away_while_it_drains_is_not_waited_for(tmp_path: Path) -> None:
    spec = VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000))
    async with worker(tmp_path, BERTH_DRAIN_GRACE_S="60") as process:
        address = await process.address()
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), (spec,))))
            await until(stream, {KEY: S.AVAILABLE})
            process.process.send_signal(signal.SIGTERM)
            await until(stream, {KEY: S.AVAILABLE}, draining=True)
        started = asyncio.get_running_loop().time()
        code, log = await process.ended()
        assert code == 0, log
        assert "routes may be left" in log
        assert asyncio.get_running_loop().time() - started < 20


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    spec = VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000))
    async with worker(tmp_path, BERTH_DRAIN_GRACE_S="600") as process:
        address = await process.address()
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), (spec,))))
            await until(stream, {KEY: S.AVAILABLE})
            process.process.send_signal(signal.SIGTERM)
            await until(stream, {KEY: S.AVAILABLE}, draining=True)
            process.process.send_signal(signal.SIGTERM)
            code, log = await process.ended()
    assert code == 1
    assert "asked to stop twice" in log


async def test_without_a_registry_it_listens_where_it_is_told(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("CONTROL", "GRPC", "HTTP")}
    addresses = {f"BERTH_{name}_ADDRESS": f"127.0.0.2:{port}" for name, port in ports.items()}
    async with worker(tmp_path, BERTH_REGISTRY_DIR="", BERTH_ADVERTISE_HOST="127.0.0.2", **addresses) as process:
        line = json.loads(await process.said('"ready"'))
        assert line["control"] == f"127.0.0.2:{ports['CONTROL']}"
        assert line["http"] == f"127.0.0.2:{ports['HTTP']}"
        address = ReplicaAddress("w-1", "default", "local", "?", line["control"], line["grpc"], line["http"])
        async with synchronizer(address) as stream:
            assert (await until(stream, {})).address.grpc == line["grpc"]
        process.process.send_signal(signal.SIGTERM)
        code, log = await process.ended()
    assert code == 0, log
    assert process.registry.read() == {}


async def test_without_its_triton_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    admin = f"127.0.0.1:{free_port()}"
    triton = {
        "BERTH_RUNTIME": "triton",
        "BERTH_TRITON_ADDRESS": f"127.0.0.1:{free_port()}",
        "BERTH_TRITON_REPOSITORY": str(tmp_path / "repository"),
    }
    spec = VersionSpec(KEY, await store(tmp_path, onnx_models.double()), Resources.host(200_000))
    async with worker(tmp_path, BERTH_ADMIN_ADDRESS=admin, **triton) as process:
        address = await process.address()
        async with synchronizer(address) as stream:
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 1), (spec,))))
            await until(stream, {KEY: S.LOADING})
            status, reason = await probe(admin, "/readyz")
            assert (status, "Triton" in reason) == (503, True)
            assert await probe(admin, "/healthz") == (200, "ok")
            await stream.write(aspired_to_wire(AspiredSet(Order(1, 2), ())))
            await until(stream, {})
        process.process.send_signal(signal.SIGTERM)
        code, log = await process.ended()
    assert code == 0, log


async def test_everywhere_is_no_address_to_be_reached_at(tmp_path: Path) -> None:
    files = Authority(tmp_path / "pki").issue("worker", names=["berth.internal"], addresses=[])
    tls = {"BERTH_TLS_CERT": str(files.cert), "BERTH_TLS_KEY": str(files.key), "BERTH_TLS_CA": str(files.ca)}
    settings = WorkerSettings.load(variables(tmp_path, **tls, BERTH_CONTROL_ADDRESS="0.0.0.0:0"))
    with pytest.raises(SettingsError, match="BERTH_ADVERTISE_HOST"):
        await run(settings, asyncio.Event())


async def test_a_container_that_is_too_small_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.opening.memory_limit", lambda: 2**30)
    settings = WorkerSettings.load(variables(tmp_path, BERTH_LOAD_HEADROOM="1GiB"))
    with pytest.raises(SettingsError, match="the container has"):
        await run(settings, asyncio.Event())


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BERTH_JOB", "", "BERTH_JOB"),
        ("BERTH_JOB", "No Name", "BERTH_JOB"),
        ("BERTH_MEMORY_LIMIT", "much", "BERTH_MEMORY_LIMIT"),
        ("BERTH_INSTANCE", "../w", "BERTH_INSTANCE"),
        ("BERTH_CREDENTIAL_FILE", "/nonexistent", "/nonexistent"),
        ("BERTH_ARTIFACT_STORE", "ftp://x", "ftp://x"),
        ("BERTH_HTTP_ADDRESS", "192.0.2.1:0", "not loopback"),
        ("BERTH_RUNTIME", "triton", "BERTH_TRITON_HOME or BERTH_TRITON_ADDRESS"),
        ("BERTH_TRITON_ADDRESS", "127.0.0.1:8001", "go together"),
        ("BERTH_TRITON_BACKEND", "tensorrt", "BERTH_TRITON_BACKEND"),
    ],
)
async def test_wrong_settings_are_named(tmp_path: Path, variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        await run(WorkerSettings.load(variables(tmp_path, **{variable: value})), asyncio.Event())


async def test_a_wrong_setting_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    async with worker(tmp_path, BERTH_HTTP_ADDRESS="192.0.2.1:0") as process:
        code, log = await process.ended()
    assert code == 64
    assert "192.0.2.1:0 is not loopback" in log
    assert "Traceback" not in log
