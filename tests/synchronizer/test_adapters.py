"""The synchronizer over the real network and the real disk."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.errors import PreconditionFailed, Unavailable
from berth.ids import VersionKey
from berth.model import (
    NEVER,
    Artifact,
    DesiredJob,
    DesiredModel,
    DesiredState,
    ObservedCell,
    ObservedReplica,
    Order,
    ReplicaStatus,
    RouteDelta,
    RouteTable,
    ServableStatus,
    Serving,
    VersionSpec,
)
from berth.registry import LocalRegistry
from berth.resources import Resources
from berth.settings import SettingsError
from berth.states import Runtime, ServableState
from berth.wire import convert
from doubles.news import News
from doubles.scripted_controller import ScriptedController, serve_controller
from doubles.scripted_router import ScriptedRouter, follow_routes
from doubles.scripted_worker import ScriptedWorker, serve_worker
from synchronizer.__main__ import serve
from synchronizer.cell.loop import CellLoop
from synchronizer.cell.running import running
from synchronizer.controllers.client import GrpcControllers
from synchronizer.controllers.encoding import ObservedEncoder
from synchronizer.core.events import CellEvent, RouterGone, RouterSeen
from synchronizer.metrics import Metrics
from synchronizer.routers.feed import serve_routes
from synchronizer.routers.publisher import RoutePublisher
from synchronizer.routers.wishes import OnWanted
from synchronizer.settings import SynchronizerSettings
from synchronizer.state_dir import StateDir
from synchronizer.surroundings.ports import Surroundings
from synchronizer.surroundings.registry import RegistryDiscovery
from synchronizer.workers.streams import GrpcWorkers

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)
CREDENTIAL = PeerCredential.from_token(secrets.token_urlsafe(32))


def desired(generation: int, *keys: VersionKey) -> DesiredState:
    specs = tuple(VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100)) for key in keys)
    models = (DesiredModel(V1.model_key, Serving.only(max(key.version for key in keys))),)
    return DesiredState("c", generation, (DesiredJob("j", Runtime.ONNXRUNTIME, specs),), models)


def _unheard(_: tuple[VersionKey, ...]) -> None:
    raise AssertionError("nobody wants anything here")


@asynccontextmanager
async def following(router: ScriptedRouter, address: str) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow_routes(router, address, CREDENTIAL))
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def synchronizer(
    folder: Path,
    name: str,
    *controllers: str,
    on_wanted: OnWanted | None = None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[tuple[CellLoop, str]]:
    """A synchronizer over gRPC, and the address of its route feed."""
    settings = SynchronizerSettings(
        instance=name,
        cell="c",
        controllers=",".join(controllers),
        registry_dir=folder / "registry",
        state_dir=folder / name,
        lease_ttl_s=0.6,
    )
    async with AsyncExitStack() as stack:
        port = GrpcControllers(settings.controller_addresses, CREDENTIAL)
        stack.push_async_callback(port.close)
        state = StateDir(settings.state_dir)
        stack.enter_context(state.locked())
        loop = await stack.enter_async_context(
            running(
                settings,
                state,
                port,
                workers=GrpcWorkers(CREDENTIAL),
                around=Surroundings(RegistryDiscovery(LocalRegistry(folder / "registry"), "c", interval=0.05)),
                registry=registry or CollectorRegistry(),
                on_wanted=on_wanted,
            )
        )
        feed = await stack.enter_async_context(serve_routes(loop.publisher, "127.0.0.1:0", CREDENTIAL))
        yield loop, f"127.0.0.1:{feed}"


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[ScriptedWorker, ScriptedWorker]]:
    registry = LocalRegistry(tmp_path / "registry")
    pair = (ScriptedWorker("w1", "j"), ScriptedWorker("w2", "j"))
    async with AsyncExitStack() as stack:
        for worker in pair:
            registry.announce(await stack.enter_async_context(serve_worker(worker, CREDENTIAL)))
        yield pair


async def test_a_version_goes_live_through_grpc(tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]) -> None:
    controller, router = ScriptedController(desired(1, V1)), ScriptedRouter("r1")
    async with (
        serve_controller(controller, CREDENTIAL) as address,
        synchronizer(tmp_path, "s1", "127.0.0.1:1", address) as (_, feed),
        following(router, feed),
    ):
        await router.news.until(lambda: router.replicas(V1) == {"w1", "w2"})
        await controller.news.until(
            lambda: (
                controller.observed is not None
                and [entry.routed for entry in controller.observed.replicas] == [{V1}, {V1}]
            )
        )
        assert controller.observed is not None
        assert controller.observed.routers == ("r1",)
        workers[0].kill()
        await router.news.until(lambda: router.replicas(V1) == {"w2"}, 1.0)
    assert controller.holder == "", "released"


async def test_the_standby_takes_over_and_workers_fence_the_old_leader(
    tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    """The first leader's only way to a controller is cut; the second is granted the lease when it expires."""
    controller, router = ScriptedController(desired(1, V1)), ScriptedRouter("r1")
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(serve_controller(controller, CREDENTIAL))
        door = await stack.enter_async_context(AsyncExitStack())
        own = await door.enter_async_context(serve_controller(controller, CREDENTIAL))
        first, feed1 = await stack.enter_async_context(synchronizer(tmp_path, "s1", own))
        await stack.enter_async_context(following(router, feed1))
        await router.news.until(lambda: router.replicas(V1) == {"w1", "w2"})
        second, feed2 = await stack.enter_async_context(synchronizer(tmp_path, "s2", shared))
        await stack.enter_async_context(following(router, feed2))
        await controller.news.until(lambda: second.not_ready() is None)
        assert router.table.order.epoch == 1
        await door.aclose()
        await router.news.until(lambda: router.table.order.epoch == 2)
        await controller.news.until(lambda: first.not_ready() is not None)
        assert first.not_ready() == "standing by, and no controller answers"
        assert all(worker.accepted.epoch == 2 for worker in workers)
        controller.desire(desired(2, V1, V2))
        await router.news.until(lambda: router.replicas(V2) == {"w1", "w2"})
    assert [worker.loads[V1] for worker in workers] == [1, 1]


async def test_a_start_without_controller_uses_what_is_on_disk(
    tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    controller, router = ScriptedController(desired(1, V1)), ScriptedRouter("r1")
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(AsyncExitStack())
        address = await door.enter_async_context(serve_controller(controller, CREDENTIAL))
        _, feed = await stack.enter_async_context(synchronizer(tmp_path, "s1", address))
        await stack.enter_async_context(following(router, feed))
        await router.news.until(lambda: router.replicas(V1) == {"w1", "w2"})
        await door.aclose()
    tables = len(router.tables)
    workers[0].restart()
    LocalRegistry(tmp_path / "registry").announce(workers[0].address)
    async with synchronizer(tmp_path, "s1", address) as (_, feed), following(router, feed):
        await router.news.until(lambda: router.replicas(V1) == {"w1", "w2"} and len(router.tables) > tables)
        assert router.table.order.epoch == 1
        assert workers[0].held() == {V1}
        # The controller comes back where it was: the synchronizer gets a new epoch, and nothing moves.
        async with serve_controller(controller, CREDENTIAL, address):
            await router.news.until(lambda: router.table.order.epoch == 2)
    assert all("w2" in table.models[V1.model_key].versions[0].replicas for table in router.tables[tables:])
    assert workers[1].loads == {V1: 1}


async def test_a_router_that_missed_an_update_is_sent_a_snapshot() -> None:
    events: list[CellEvent] = []
    router = ScriptedRouter("r1")
    table = RouteTable(Order(1, 3))
    publisher = RoutePublisher(events.append, lambda: table, Metrics(CollectorRegistry()), _unheard)
    publisher.publish(RouteDelta(0, Order(1, 3)))
    async with serve_routes(publisher, "127.0.0.1:0", CREDENTIAL) as port, following(router, f"127.0.0.1:{port}"):
        await router.news.until(lambda: router.table.order == Order(1, 3))
        assert router.snapshots == 1
        publisher.publish(RouteDelta(3, Order(1, 4)))
        await router.news.until(lambda: router.table.order == Order(1, 4))
        assert router.snapshots == 1
        router.table = RouteTable(Order(1, 2))
        table = RouteTable(Order(1, 5))
        publisher.publish(RouteDelta(4, Order(1, 5)))
        await router.news.until(lambda: router.table.order == Order(1, 5))
        assert router.snapshots == 2
        seen = {event.applied for event in events if isinstance(event, RouterSeen)}
        assert seen >= {NEVER, Order(1, 3), Order(1, 4), Order(1, 2)}
        assert [event for event in events if isinstance(event, RouterGone)] == [RouterGone(1)]


async def test_a_synchronizer_that_does_not_lead_sends_nothing_and_closes_when_deposed() -> None:
    events: list[CellEvent] = []
    news = News()

    def post(event: CellEvent) -> None:
        events.append(event)
        news.tell()

    router = ScriptedRouter("r1")
    router.table = RouteTable(Order(1, 9))
    publisher = RoutePublisher(post, RouteTable, Metrics(CollectorRegistry()), _unheard)
    async with serve_routes(publisher, "127.0.0.1:0", CREDENTIAL) as port, following(router, f"127.0.0.1:{port}"):
        await news.until(lambda: RouterSeen(1, "r1", Order(1, 9)) in events)
        assert router.tables == []
        publisher.stand_by()
        await news.until(lambda: RouterSeen(2, "r1", Order(1, 9)) in events)
        assert RouterGone(1) in events
        assert router.tables == []


async def test_what_routers_want_is_heard_by_who_leads(
    tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    controller, router = ScriptedController(desired(1, V1)), ScriptedRouter("r1")
    router.wanted = (V2, V1)
    heard: list[tuple[VersionKey, ...]] = []
    registry = CollectorRegistry()
    news = News()

    def on_wanted(versions: tuple[VersionKey, ...]) -> None:
        heard.append(versions)
        news.tell()

    async with (
        serve_controller(controller, CREDENTIAL) as address,
        synchronizer(tmp_path, "s1", address, on_wanted=on_wanted, registry=registry) as (_, feed),
        following(router, feed),
    ):
        await news.until(lambda: bool(heard))
        assert heard[0] == (V2, V1)
        assert (registry.get_sample_value("berth_synchronizer_wanted_versions_total") or 0.0) >= 2.0
        assert registry.get_sample_value("berth_synchronizer_wanted_versions_now") == 2.0


async def test_routers_learn_how_many_share_the_limits(
    tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    controller, one, other = ScriptedController(desired(1, V1)), ScriptedRouter("r1"), ScriptedRouter("r2")
    async with (
        serve_controller(controller, CREDENTIAL) as address,
        synchronizer(tmp_path, "s1", address) as (_, feed),
        following(one, feed),
    ):
        await one.news.until(lambda: bool(one.tables))
        assert one.table.routers == 1
        async with following(other, feed):
            await one.news.until(lambda: one.table.routers == 2)
            await other.news.until(lambda: other.table.routers == 2)


async def test_the_route_feed_is_for_the_deployments_own_processes() -> None:
    router = ScriptedRouter("r1")
    publisher = RoutePublisher(lambda _: None, RouteTable, Metrics(CollectorRegistry()), _unheard)
    publisher.publish(RouteDelta(0, Order(1, 1)))
    stranger = PeerCredential.from_token(secrets.token_urlsafe(32))
    async with serve_routes(publisher, "127.0.0.1:0", CREDENTIAL) as port:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await follow_routes(router, f"127.0.0.1:{port}", stranger)
    assert router.tables == []


async def test_reports_of_an_epoch_that_is_over_are_refused() -> None:
    controller = ScriptedController()
    controller.epoch = 4

    async def observations() -> AsyncIterator[ObservedCell]:
        yield ObservedCell("c", 3, 1)
        await asyncio.Event().wait()

    async with serve_controller(controller, CREDENTIAL) as address:
        port = GrpcControllers([address], CREDENTIAL)
        with pytest.raises(PreconditionFailed):
            await asyncio.wait_for(port.report(observations()), 5.0)
    with pytest.raises(Unavailable):
        await port.report(observations())
    with pytest.raises(Unavailable):
        await port.lease("c", "me", 3.0, release=False, timeout=1.0)
    with pytest.raises(Unavailable):
        await anext(port.watch("c", 0))
    await port.close()


async def test_what_is_kept_on_disk(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    assert await state.read_desired("c") is None
    assert await state.read_leadership() == (0, 0)
    await state.write_desired(desired(7, V1, V2))
    await state.write_leadership(3, 100_000)
    assert await state.read_desired("c") == desired(7, V1, V2)
    assert await state.read_desired("other") is None
    assert await state.read_leadership() == (3, 100_000)
    assert (tmp_path / "state" / "desired").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: content + b"x"])
async def test_damaged_files_are_ignored(tmp_path: Path, damage: object) -> None:
    state = StateDir(tmp_path)
    await state.write_desired(desired(7, V1))
    await state.write_leadership(3, 100_000)
    for name in ("desired", "leadership"):
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert await state.read_desired("c") is None
    assert await state.read_leadership() == (0, 0)


def test_a_state_folder_has_one_user(tmp_path: Path) -> None:
    with StateDir(tmp_path).locked(), pytest.raises(SettingsError, match="another"), StateDir(tmp_path).locked():
        pass
    with StateDir(tmp_path).locked():
        pass


def test_the_encoder_encodes_what_convert_does() -> None:
    encoder = ObservedEncoder()
    address = ScriptedWorker("w1", "j").address
    servables = (ServableStatus(V1, ServableState.AVAILABLE), ServableStatus(V2, ServableState.LOADING))
    for status, connected, routed in [
        (ReplicaStatus(address, Order(1, 1), servables, 100, 10, 1), True, frozenset()),
        (ReplicaStatus(address, Order(1, 2), servables, 100, 20, 0), True, frozenset({V1})),
        (ReplicaStatus(address, Order(1, 2), servables[:1], 100, 20, 0, draining=True), True, frozenset({V1, V2})),
        (ReplicaStatus(address, Order(1, 2), servables[:1], 100, 20, 0), False, frozenset({V2})),
    ]:
        replica = ObservedReplica(status, connected=connected, routed=routed, seen_at=float(len(routed)))
        observed = ObservedCell("c", 1, 2, (replica,), ("r1",))
        assert encoder.encode(observed) == convert.observed_to_wire(observed)
    assert encoder.encode(ObservedCell("c", 1, 3)) == convert.observed_to_wire(ObservedCell("c", 1, 3))


async def test_an_unchanged_report_is_not_decoded_twice(workers: tuple[ScriptedWorker, ScriptedWorker]) -> None:
    worker = workers[0]
    worker.states = {V1: ServableStatus(V1, ServableState.AVAILABLE, measured_bytes=5)}
    async with GrpcWorkers(CREDENTIAL).connect(worker.address) as stream:
        first, _ = await stream.receive()
        worker.draining = True
        worker.news.tell()
        second, refused = await stream.receive()
        assert not refused
        assert second == worker.status()
        assert second.servables is first.servables
        worker.states[V2] = ServableStatus(V2, ServableState.LOADING)
        worker.news.tell()
        third, _ = await stream.receive()
        assert third == worker.status()


async def test_the_process_serves_until_it_is_stopped(
    tmp_path: Path, workers: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    token = tmp_path / "token"
    token.write_text(next(iter(CREDENTIAL.headers().values())))
    with socket.socket() as free_feed, socket.socket() as free_admin:
        ports = []
        for one in (free_feed, free_admin):
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    controller, router, stop = ScriptedController(desired(1, V1)), ScriptedRouter("r1"), asyncio.Event()
    async with serve_controller(controller, CREDENTIAL) as address:
        settings = SynchronizerSettings.load(
            {
                "BERTH_CELL": "c",
                "BERTH_CONTROLLERS": f"127.0.0.1:1, {address}",
                "BERTH_ROUTE_FEED_ADDRESS": f"127.0.0.1:{ports[0]}",
                "BERTH_ADMIN_ADDRESS": f"127.0.0.1:{ports[1]}",
                "BERTH_REGISTRY_DIR": str(tmp_path / "registry"),
                "BERTH_STATE_DIR": str(tmp_path / "state"),
                "BERTH_CREDENTIAL_FILE": str(token),
            }
        )
        async with asyncio.TaskGroup() as tasks:
            process = tasks.create_task(serve(settings, stop))
            async with following(router, f"127.0.0.1:{ports[0]}"):
                await router.news.until(lambda: router.replicas(V1) == {"w1", "w2"})
            async with aiohttp.ClientSession(f"http://127.0.0.1:{ports[1]}") as http:
                async with http.get("/readyz") as answer:
                    assert answer.status == 200
                async with http.get("/metrics") as answer:
                    text = await answer.text()
            stop.set()
            await process
    assert "berth_synchronizer_leading 1.0" in text
    assert "berth_synchronizer_replicas_connected 2.0" in text
    assert await StateDir(tmp_path / "state").read_leadership() == (0, 100_000)
