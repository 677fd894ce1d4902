"""Who leads a cell: what holds of a controller's lease holds of a Lease of Kubernetes; then what is Kubernetes' own."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.errors import Unavailable
from berth.ids import NAME_PATTERN
from doubles.kubernetes.server import FakeKubernetes
from doubles.news import News
from doubles.scripted_controller import ScriptedController, serve_controller
from synchronizer.cell.lease import LeaseKeeper
from synchronizer.cluster.api import ApiFailure, KubernetesApi
from synchronizer.cluster.lease import KubernetesLease, lease_name
from synchronizer.cluster.metrics import ClusterMetrics
from synchronizer.controllers.client import GrpcControllers
from synchronizer.core.leadership import Leadership, RoleChange
from synchronizer.state_dir import StateDir
from synchronizer.surroundings.ports import Leases

CREDENTIAL = PeerCredential.from_token(secrets.token_urlsafe(32))
TTL = 0.9


class Lossy(KubernetesApi):
    """Loses the answer to one request of the method `losing`: what was asked is done."""

    losing = ""

    async def call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = await super().call(method, path, **more)
        if method == self.losing:
            self.losing = ""
            raise ApiFailure(0, "the answer is lost")
        return answer


@dataclasses.dataclass
class Service:
    """`connect` makes another candidate's way to the lease; `away` says whether anybody answers."""

    connect: Callable[[], Leases]
    away: Callable[[bool], None]


class Cluster:
    """Synchronizers of one cell, each with a connection and a disk of its own."""

    def __init__(self, api: FakeKubernetes, client: Lossy, folder: Path) -> None:
        self.api = api
        self.client = client
        self.folder = folder
        self.elsewhere = 0

    def connect(self, disk: str = "") -> KubernetesLease:
        state = StateDir(self.folder / (disk or secrets.token_hex(4)))
        return KubernetesLease(self.client, "default", state, self.floor)

    async def floor(self) -> int:
        return self.elsewhere

    def away(self, value: bool) -> None:
        self.api.faults.clear()
        if value:
            self.api.fault("status", times=0, code=503)

    @property
    def stored(self) -> dict[str, Any]:
        found = self.api.get("Lease", "default", "berth-synchronizer-c")
        assert found is not None
        spec: dict[str, Any] = found["spec"]
        return spec

    def delete(self) -> None:
        self.api.delete("Lease", "default", "berth-synchronizer-c")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeKubernetes())
        client = Lossy(api.kubeconfig(tmp_path / "kubeconfig"), ClusterMetrics(CollectorRegistry()))
        await client.open()
        stack.push_async_callback(client.close)
        yield Cluster(api, client, tmp_path)


@pytest.fixture(params=["controller", "kubernetes"])
async def service(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Service]:
    if request.param == "kubernetes":
        yield Service(cluster.connect, cluster.away)
        return
    controller = ScriptedController()
    async with serve_controller(controller, CREDENTIAL) as address:
        ports = [GrpcControllers([address], CREDENTIAL) for _ in range(3)]
        yield Service(iter(ports).__next__, lambda value: setattr(controller, "away", value))
        for port in ports:
            await port.close()


async def ask(leases: Leases, holder: str, *, release: bool = False) -> tuple[bool, int, float]:
    return await leases.lease("c", holder, TTL, release=release, timeout=5.0)


async def test_the_first_to_ask_holds_it_and_renews_in_the_same_epoch(service: Service) -> None:
    one, other = service.connect(), service.connect()
    granted, epoch, expires_in = await ask(one, "a")
    assert granted
    assert epoch == 1
    assert expires_in == pytest.approx(TTL, abs=0.2)
    denied, seen, left = await ask(other, "b")
    assert (denied, seen) == (False, 1)
    assert 0.0 < left <= 1.0
    for _ in range(3):
        assert (await ask(one, "a"))[:2] == (True, 1)


async def test_a_holder_that_went_silent_is_replaced_in_a_later_epoch(service: Service) -> None:
    one, other = service.connect(), service.connect()
    await ask(one, "a")
    async with asyncio.timeout(10.0):
        granted, epoch, left = await ask(other, "b")
        while not granted:
            await _pause(left + 0.01)
            granted, epoch, left = await ask(other, "b")
    assert epoch == 2
    assert (await ask(one, "a"))[:2] == (False, 2)


async def test_what_is_released_is_free_at_once(service: Service) -> None:
    one, other = service.connect(), service.connect()
    await ask(one, "a")
    await ask(other, "b")
    assert (await ask(one, "a", release=True))[:2] == (False, 1)
    assert (await ask(other, "b"))[:2] == (True, 2)


async def test_only_the_holder_can_release(service: Service) -> None:
    one, other = service.connect(), service.connect()
    await ask(one, "a")
    assert (await ask(other, "b", release=True))[:2] == (False, 1)
    assert (await ask(other, "b"))[:2] == (False, 1)
    assert (await ask(one, "a"))[:2] == (True, 1)


async def test_a_holder_under_another_name_is_another_holder(service: Service) -> None:
    one = service.connect()
    await ask(one, "a-1")
    await ask(one, "a-1", release=True)
    assert (await ask(one, "a-2"))[:2] == (True, 2)


async def test_of_many_who_ask_at_once_one_gets_it(service: Service) -> None:
    candidates = {name: service.connect() for name in "abc"}
    answers = await asyncio.gather(*(ask(leases, name) for name, leases in candidates.items()))
    assert sorted(granted for granted, _, _ in answers) == [False, False, True]
    assert {epoch for _, epoch, _ in answers} == {1}


async def test_nobody_answers(service: Service) -> None:
    one = service.connect()
    await ask(one, "a")
    service.away(True)
    with pytest.raises(Unavailable):
        await ask(one, "a")
    service.away(False)
    assert (await ask(one, "a"))[:2] == (True, 1)


# --- Kubernetes' own ------------------------------------------------------------------------------------------------


async def test_what_others_read_in_the_lease(cluster: Cluster) -> None:
    await ask(cluster.connect(), "a")
    spec = cluster.stored
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("a", 1, 1)
    assert spec["renewTime"].endswith("Z")


async def test_a_renewal_is_one_request(cluster: Cluster) -> None:
    one = cluster.connect()
    await ask(one, "a")
    before = len(cluster.api.calls)
    for _ in range(3):
        await ask(one, "a")
    assert [call.verb for call in cluster.api.calls[before:]] == ["update"] * 3


async def test_clocks_of_others_do_not_matter(cluster: Cluster) -> None:
    """The holder's clock is wrong by years, in either direction: as long as it writes, it is alive."""
    one, other = cluster.connect(), cluster.connect()
    await ask(one, "a")
    for stamp in ("1999-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"):
        cluster.api.patch("Lease", "default", "berth-synchronizer-c", {"spec": {"renewTime": stamp}})
        assert (await ask(other, "b"))[:2] == (False, 1)


async def test_a_write_that_somebody_came_before_is_tried_on_what_is_there_now(cluster: Cluster) -> None:
    one = cluster.connect()
    await ask(one, "a")
    cluster.api.patch("Lease", "default", "berth-synchronizer-c", {"metadata": {"labels": {"seen": "yes"}}})
    assert (await ask(one, "a"))[:2] == (True, 1)
    cluster.api.fault("conflict", "update", "leases")
    assert (await ask(one, "a"))[:2] == (True, 1)


async def test_conflicts_without_end_are_no_answer(cluster: Cluster) -> None:
    one = cluster.connect()
    await ask(one, "a")
    cluster.api.fault("conflict", "update", "leases", times=0)
    with pytest.raises(Unavailable):
        await ask(one, "a")


@pytest.mark.parametrize("losing", ["POST", "PUT"])
async def test_a_write_whose_answer_is_lost_is_found_by_reading(cluster: Cluster, losing: str) -> None:
    one = cluster.connect()
    if losing == "PUT":
        await ask(one, "a")
    cluster.client.losing = losing
    with pytest.raises(Unavailable):
        await ask(one, "a")
    assert cluster.stored["holderIdentity"] == "a", "it was done"
    before = len(cluster.api.calls)
    assert (await ask(one, "a"))[:2] == (True, 1)
    assert [call.verb for call in cluster.api.calls[before:]] == ["get", "update"]


async def test_a_write_that_did_not_arrive_is_done_again(cluster: Cluster) -> None:
    one = cluster.connect()
    cluster.api.fault("reset", "create", "leases")
    with pytest.raises(Unavailable):
        await ask(one, "a")
    assert (await ask(one, "a"))[:2] == (True, 1)


async def test_an_api_that_does_not_answer_in_time_is_away(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts for it, and nobody answers
        cluster.api.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = KubernetesApi(cluster.api.kubeconfig(cluster.folder / "silent"), ClusterMetrics(CollectorRegistry()))
        await client.open()
        leases = KubernetesLease(client, "default", StateDir(cluster.folder / "disk"), cluster.floor)
        with pytest.raises(Unavailable):
            await leases.lease("c", "a", TTL, release=False, timeout=0.05)
        await client.close()


async def test_epochs_grow_though_the_lease_is_deleted(cluster: Cluster) -> None:
    one = cluster.connect("disk-1")
    await ask(one, "a")
    cluster.delete()
    granted, second, _ = await ask(one, "a")
    assert granted
    assert second > 1
    cluster.delete()
    # Another process, with the disk of the first.
    granted, third, _ = await ask(cluster.connect("disk-1"), "b")
    assert granted
    assert third > second
    cluster.delete()
    # Another disk, and somebody who knows: a controller, or a worker that refused.
    cluster.elsewhere = third
    granted, fourth, _ = await ask(cluster.connect("disk-2"), "c")
    assert granted
    assert fourth > third


async def test_the_first_epoch_is_past_those_of_the_controllers(cluster: Cluster) -> None:
    """The mode was switched: workers and routers know the epochs that controllers gave."""
    cluster.elsewhere = 41
    granted, epoch, _ = await ask(cluster.connect(), "a")
    assert granted
    assert epoch > 41


async def test_the_keeper_leads_through_the_cluster(cluster: Cluster) -> None:
    """Fenced by an epoch that a worker shows it takes a later one; when it dies, the standby takes one later still."""
    leaders = {name: Leadership() for name in "ab"}
    turned = News()

    def keeper(name: str) -> LeaseKeeper:
        async def obey(_: RoleChange) -> None:
            turned.tell()

        async def floor() -> int:
            return leaders[name].fence

        leases = KubernetesLease(cluster.client, "default", StateDir(cluster.folder / name), floor)
        return LeaseKeeper("c", name, TTL, leases, leadership=leaders[name], obey=obey)

    first, second = keeper("a"), keeper("b")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(first.run())
        await turned.until(lambda: leaders["a"].epoch == 1)
        await first.fenced(6)
        assert leaders["a"].epoch == 0
        await turned.until(lambda: leaders["a"].epoch > 6)
        standby = tasks.create_task(second.run())
        running.cancel()
        await turned.until(lambda: leaders["b"].epoch > leaders["a"].epoch)
        assert leaders["b"].lease_left(asyncio.get_running_loop().time()) > 0.0
        standby.cancel()


async def _pause(seconds: float) -> None:
    """Until a lease of that long is over: time is what is tested."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.call_later(seconds, over.set)
    await over.wait()


CELLS = st.from_regex(NAME_PATTERN, fullmatch=True)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("eu-west", "berth-synchronizer-eu-west"),
        ("eu.west-1", "berth-synchronizer-eu.west-1"),
        ("eu_west", "berth-synchronizer-eu-west-6d0e6321e5"),
        ("eu_.west", "berth-synchronizer-eu--west-"),
        ("eu..west", "berth-synchronizer-eu--west-"),
    ],
)
def test_a_lease_is_called_after_its_cell(cell: str, name: str) -> None:
    assert lease_name(cell).startswith(name)


@given(st.lists(CELLS, min_size=2, max_size=8, unique=True))
@example(["a_b", "a-b", "a.b", "a..b", "a__b", "a-_b", "a._b"])
def test_no_two_cells_share_a_lease(cells: list[str]) -> None:
    names = {lease_name(cell) for cell in cells}
    assert len(names) == len(cells)
    # What Kubernetes says of names (RFC 1123).
    label = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    assert all(re.fullmatch(rf"{label}(\.{label})*", name) and len(name) <= 253 for name in names)
