"""The synchronizer as a whole on Kubernetes: pods for replicas, workloads for pools, a Lease for leadership."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import Artifact, DesiredJob, DesiredModel, DesiredState, ObservedPool, RouteTable, Serving, VersionSpec
from berth.resources import Resources
from berth.settings import SettingsError
from berth.states import Runtime
from doubles.kubernetes.server import FakeKubernetes
from doubles.scripted_controller import ScriptedController, serve_controller
from doubles.scripted_router import ScriptedRouter, follow_routes
from doubles.scripted_worker import ScriptedWorker, serve_worker
from doubles.worker_pods import worker_pod, worker_pool
from synchronizer.__main__ import serve
from synchronizer.settings import SynchronizerSettings

V1 = VersionKey("t", "m", 1)
CREDENTIAL = PeerCredential.from_token(secrets.token_urlsafe(32))

# All that the synchronizer may do in its namespace. The chart's Role is to be the same.
ROLE = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"], "verbs": ["patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
]


def desired(generation: int, replicas: int | None = None) -> DesiredState:
    job = DesiredJob(
        "j", Runtime.ONNXRUNTIME, (VersionSpec(V1, Artifact("0" * 64, 10), Resources.host(100)),), replicas
    )
    return DesiredState("c", generation, (job,), (DesiredModel(V1.model_key, Serving.only(1)),))


class Stage:
    """One cell: an API that allows what the Role does, a controller, a router, and workers in pods."""

    def __init__(self, folder: Path, api: FakeKubernetes, controller: ScriptedController, address: str) -> None:
        self.api, self.controller, self.router = api, controller, ScriptedRouter("r1")
        self._folder = folder
        self._address = address
        self._config = api.kubeconfig(folder / "kubeconfig", token=api.grant("berth", "sync", ROLE), namespace="berth")
        self._token = folder / "token"
        self._token.write_text(next(iter(CREDENTIAL.headers().values())))
        self.ports: dict[str, int] = {}

    @asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[ScriptedWorker]:
        worker = ScriptedWorker(name, "j")
        async with serve_worker(worker, CREDENTIAL) as address:
            port = int(address.control.rpartition(":")[2])
            self.ports[name] = port
            self.api.put(worker_pod(name, control=port, namespace="berth"))
            yield worker

    @asynccontextmanager
    async def process(self, name: str, **more: Any) -> AsyncIterator[SynchronizerSettings]:
        feed, admin = _free_port(), _free_port()
        settings = SynchronizerSettings(
            instance=name,
            cell="c",
            controllers=self._address,
            route_feed_address=f"127.0.0.1:{feed}",
            admin_address=f"127.0.0.1:{admin}",
            state_dir=self._folder / name,
            credential_file=self._token,
            discovery="kubernetes",
            kubernetes_config=self._config,
            lease_ttl_s=0.9,
            router_grace_s=0.5,
            **more,
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            process = tasks.create_task(serve(settings, stop))
            follower = tasks.create_task(follow_routes(self.router, settings.route_feed_address, CREDENTIAL))
            try:
                yield settings
            finally:
                stop.set()
                await asyncio.wait([process])
                follower.cancel()

    async def routed(self, *replicas: str) -> None:
        await self.router.news.until(lambda: self.router.replicas(V1) == set(replicas))

    async def reported(self, *pools: ObservedPool) -> None:
        controller = self.controller
        await controller.news.until(lambda: controller.observed is not None and controller.observed.pools == pools)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    controller = ScriptedController(desired(1))
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeKubernetes(enforce_rbac=True))
        address = await stack.enter_async_context(serve_controller(controller, CREDENTIAL))
        yield Stage(tmp_path, api, controller, address)


@pytest.mark.parametrize("lease", ["controller", "kubernetes"])
async def test_pods_are_routed_to_and_left_and_pools_scaled(stage: Stage, lease: str) -> None:
    stage.api.put(worker_pool("pool-j", replicas=2, ready=2, namespace="berth"))
    async with stage.worker("w1"), stage.worker("w2") as leaver, stage.process("s1", lease=lease) as settings:
        await stage.routed("w1", "w2")
        await stage.reported(ObservedPool("j", "deployment/pool-j", 2, 2))
        async with stage.worker("w3"):
            await stage.routed("w1", "w2", "w3")
            stage.api.delete("Pod", "berth", "w3", grace_s=0)
        await stage.routed("w1", "w2")
        # It is told to end, and does not know yet: its routes are withdrawn before what it holds is.
        wrong: list[str] = []
        leaver.before_unload = lambda _: wrong.extend({"w2"} & stage.router.replicas(V1))
        stage.api.delete("Pod", "berth", "w2", grace_s=30)
        await stage.routed("w1")
        await leaver.news.until(lambda: not leaver.states)
        assert wrong == []
        stage.controller.desire(desired(2, replicas=4))
        await stage.reported(ObservedPool("j", "deployment/pool-j", 4, 2))
        async with aiohttp.ClientSession(f"http://{settings.admin_address}") as http, http.get("/metrics") as answer:
            text = await answer.text()
    assert 'berth_pool_scalings_total{job="j"} 1.0' in text
    assert 'berth_discovery_objects{collection="pods"} 2.0' in text
    assert "berth_discovery_age_seconds" in text
    assert 'code="403"' not in text


async def test_every_verb_of_the_role_is_used_and_no_other_needed(stage: Stage) -> None:
    stage.api.put(worker_pool("pool-j", namespace="berth"))
    stage.api.put(worker_pool("pool-k", "k", kind="StatefulSet", namespace="berth"))
    first = desired(1, replicas=3)
    stage.controller.desire(replace(first, jobs=(*first.jobs, DesiredJob("k", Runtime.ONNXRUNTIME, (), 5))))
    async with stage.worker("w1"), stage.process("s1", lease="kubernetes"):
        await stage.routed("w1")
        await stage.reported(
            ObservedPool("j", "deployment/pool-j", 3, 0), ObservedPool("k", "statefulset/pool-k", 5, 0)
        )
        await stage.api.until(lambda: bool(stage.api.calls_of("update", "leases")))
    used = {
        (call.group, call.resource + (f"/{call.subresource}" if call.subresource else ""), call.verb)
        for call in stage.api.calls
    }
    allowed = {
        (group, resource, verb)
        for rule in ROLE
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used == allowed


async def test_a_standby_takes_over_by_the_lease_of_the_cluster(stage: Stage) -> None:
    async with stage.worker("w1"), AsyncExitStack() as second:
        async with stage.process("s1", lease="kubernetes"):
            await stage.routed("w1")
            assert stage.router.table.order.epoch == 1
            await second.enter_async_context(stage.process("s2", lease="kubernetes"))
            await stage.api.until(lambda: len(stage.api.calls_of("get", "leases")) >= 3)
        # It gave the Lease up, and the other one leads in the next epoch.
        await stage.router.news.until(lambda: stage.router.table.order.epoch == 2)
        await stage.routed("w1")
    assert stage.controller.holder == "", "the controllers are asked for no lease"


async def test_the_first_epoch_is_past_what_controllers_gave(stage: Stage) -> None:
    stage.controller.epoch = 17
    async with stage.worker("w1"), stage.process("s1", lease="kubernetes"):
        await stage.routed("w1")
        assert stage.router.table.order.epoch > 17


async def test_the_controllers_number_of_replicas_is_not_taken_from_the_disk(stage: Stage) -> None:
    """What a restarted process remembers may have been taken back: only what a controller says now is done."""
    stage.api.put(worker_pool("pool-j", namespace="berth"))
    async with stage.worker("w1"):
        stage.controller.desire(desired(2, replicas=3))
        async with stage.process("s1", lease="kubernetes"):
            await stage.reported(ObservedPool("j", "deployment/pool-j", 3, 0))
        stage.api.patch("Deployment", "berth", "pool-j", {"spec": {"replicas": 1}})
        stage.controller.away = True
        stage.router.table = RouteTable()
        listed = len(stage.api.calls_of("list", "deployments"))
        async with stage.process("s1", lease="kubernetes"):
            await stage.routed("w1")
            await stage.api.until(lambda: len(stage.api.calls_of("list", "deployments")) > listed)
            found = stage.api.get("Deployment", "berth", "pool-j")
            assert found is not None
            assert found["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "BERTH_REGISTRY_DIR"),
        ({"BERTH_DISCOVERY": "dns"}, "BERTH_DISCOVERY"),
        ({"BERTH_DISCOVERY": "kubernetes", "BERTH_LEASE": "etcd"}, "BERTH_LEASE"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SynchronizerSettings.load({"BERTH_CONTROLLERS": "c:1", "BERTH_STATE_DIR": "s", **given})


def test_on_kubernetes_no_folder_is_needed() -> None:
    given = {"BERTH_CONTROLLERS": "c:1", "BERTH_STATE_DIR": "s", "BERTH_DISCOVERY": "kubernetes"}
    settings = SynchronizerSettings.load(given)
    assert settings.registry_dir is None
    assert (settings.lease, settings.kubernetes_scale) == ("controller", True)


@pytest.mark.parametrize("content", [None, "", "{}", "not: [yaml"])
async def test_a_kubeconfig_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    config = tmp_path / "kubeconfig"
    if content is not None:
        config.write_text(content)
    token = tmp_path / "token"
    token.write_text(secrets.token_urlsafe(32))
    settings = SynchronizerSettings(
        cell="c",
        controllers="127.0.0.1:1",
        state_dir=tmp_path / "state",
        credential_file=token,
        discovery="kubernetes",
        kubernetes_config=config,
    )
    with pytest.raises(SettingsError, match="Kubernetes"):
        await serve(settings, asyncio.Event())


async def test_outside_a_cluster_and_without_a_kubeconfig_it_says_so(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_urlsafe(32))
    settings = SynchronizerSettings(
        cell="c", controllers="127.0.0.1:1", state_dir=tmp_path / "s", credential_file=token, discovery="kubernetes"
    )
    with pytest.raises(SettingsError, match="Kubernetes"):
        await serve(settings, asyncio.Event())
