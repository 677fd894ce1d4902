"""The cluster that scenarios run on, and Berth installed in it once for all of them.

BERTH_E2E_CLUSTERS chooses: fake (the default), real (a control plane of our own, after `make kube`), or given (the
cluster of KUBECONFIG); several separated by commas run everything on each. A scenario leaves Berth as it found it: two
workers ready and routed, every node in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from berth.demo.load import SteadyLoad
from berth.settings import environment
from e2e.conftest import Tenant, upload
from e2e.kubernetes.api import open_api
from e2e.kubernetes.cluster import Cluster, fake_cluster
from e2e.kubernetes.controlplane.binaries import missing
from e2e.kubernetes.controlplane.plane import ControlPlane, running
from e2e.kubernetes.installation import Installation, installed
from e2e.load import account, failures
from e2e.models import multiplier

MODEL = "times"
REPLICAS = 2
KINDS = [kind.strip() for kind in (environment().get("BERTH_E2E_CLUSTERS") or "fake").split(",")]
_FIGURES = pytest.StashKey[list[str]]()


@dataclass(frozen=True, slots=True)
class Serving:
    """Berth with a tenant whose model multiplies by three, on two replicas."""

    berth: Installation
    tenant: Tenant
    figures: list[str]

    async def settle(self) -> None:
        """Two workers, ready and routed."""
        await self.berth.scale(REPLICAS)
        names = await self.berth.ready("worker", REPLICAS)
        async with self.berth.routes(MODEL) as routes:
            await routes.until(lambda now: now == set(names), 30, "two replicas are routed, and no other")

    def check(self, what: str, load: SteadyLoad) -> None:
        """No request failed. Notes how many there were, and how many needed another connection."""
        self.note(f"{what}: {account(load)}")
        assert failures(load.samples) == []

    def note(self, text: str) -> None:
        """A figure for the end of the run."""
        self.figures.append(f"{self.berth.cluster.kind}: {text}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []
    config.addinivalue_line("markers", "long: takes too long for `make test`; runs with a real control plane")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if KINDS != ["fake"]:
        return
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_FIGURES, [])
    if figures:
        terminalreporter.section("measured on Kubernetes")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane of `make kube`, started once."""
    absent = missing(environment())
    assert not absent, f"{', '.join(absent)} not built: run `make kube`"
    with running(tmp_path_factory.mktemp("plane"), environment()) as plane:
        yield plane


@asynccontextmanager
async def open_cluster(kind: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster of one kind."""
    async with AsyncExitStack() as stack:
        fake = plane = None
        if kind == "fake":
            fake = await stack.enter_async_context(fake_cluster(folder))
            kubeconfig = folder / "kubeconfig"
        elif kind == "real":
            plane = request.getfixturevalue("control_plane")
            kubeconfig = plane.kubeconfig
        else:
            kubeconfig = Path(environment()["KUBECONFIG"])
        api = await stack.enter_async_context(open_api(kubeconfig))
        yield Cluster(kind, kubeconfig, api, fake, plane)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=KINDS)
async def serving_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Serving]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "real":
        request.getfixturevalue("control_plane")

    async def serve(ready: asyncio.Future[Serving], over: asyncio.Event) -> None:
        # Entered and left by one task, which the set-up and the tear-down of a fixture are not.
        async with (
            open_cluster(request.param, folder, request) as cluster,
            installed(cluster, folder, "berth-e2e") as berth,
        ):
            tenant = await asyncio.to_thread(berth.make_tenant, "steady")
            serving = Serving(berth, tenant, request.config.stash[_FIGURES])
            await berth.scale(REPLICAS)
            await berth.ready("worker", REPLICAS)
            await asyncio.to_thread(upload, tenant, MODEL, multiplier(3), folder)
            ready.set_result(serving)
            await over.wait()

    ready: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()
    task = asyncio.create_task(serve(ready, over))
    task.add_done_callback(lambda _: over.set() if ready.done() else ready.cancel())
    try:
        serving = await ready
    except asyncio.CancelledError:
        task.result()  # why it did not come up
        raise
    yield serving
    over.set()
    await task


@pytest_asyncio.fixture(loop_scope="session")
async def serving(serving_once: Serving) -> Serving:
    """Berth as every scenario finds it."""
    await serving_once.settle()
    return serving_once
