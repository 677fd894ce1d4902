"""Kubernetes' external metrics API over real TLS, in a whole controller: who may read it, and what it shows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.settings import SettingsError
from berth.states import Runtime
from controller import service
from controller.api.external_metrics import BadSelector, selector
from controller.core.autoscaling.scaler import Decision
from controller.core.jobs import JobChange, NewJob
from controller.settings import ControllerSettings
from controller.store import cells, jobs
from controller.store.transaction import Transactions, Tx
from doubles.certificates import Authority, Files, Mount

ROOT = "/apis/external.metrics.k8s.io/v1beta1"
FRONT_PROXY = "front-proxy-client"

Serve = Callable[..., Awaitable[int]]
"""Starts a controller whose external metrics API shows a mount's certificate and trusts its authority; the port."""


@pytest.fixture
def proxy(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "proxy", "front proxy")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def mount(tmp_path: Path, proxy: Authority, ours: Authority) -> Mount:
    return Mount(tmp_path / "mount", trusting(ours.issue("metrics"), proxy))


@pytest.fixture
def serve(start_controller: Any, mount: Mount) -> Serve:
    async def start(names: str = "") -> int:
        controller = await start_controller(
            external_metrics_address="127.0.0.1:0",
            external_metrics_cert=mount.files.cert,
            external_metrics_key=mount.files.key,
            external_metrics_client_ca=mount.files.ca,
            external_metrics_client_names=names,
        )
        return int(controller.metrics_port)

    return start


@pytest.fixture
async def known(transactions: Transactions) -> None:
    """Three jobs, of which the autoscaler has decided two."""

    async def prepare(tx: Tx) -> None:
        await cells.ensure(tx, "local")
        for name, desired in (("gpu", 7), ("cpu", 2), ("manual", None)):
            await jobs.add(tx, name, NewJob("local", Runtime.TRITON, "cpu", 1, 1 << 30))
            if desired is not None:
                await jobs.change(tx, name, JobChange(decision=Decision(desired, "")))

    await transactions.run(prepare, fleet=True)


def trusting(files: Files, authority: Authority) -> Files:
    """These, with another authority for whoever connects."""
    return files._replace(ca=authority.issue("unused").ca)


async def refused(port: int, ours: Authority, shown: Files | None) -> bool:
    """Whether whoever shows this certificate is not answered."""
    async with client(port, ours, shown) as api:
        try:
            return (await api.get(ROOT)).status_code != 200
        except (httpx.TransportError, ssl.SSLError):
            return True


def client(port: int, ours: Authority, shown: Files | None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=ours.issue("ca-only").ca)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=10)


async def test_hpa_reads_what_the_autoscaler_decided(
    serve: Serve, known: None, ours: Authority, proxy: Authority
) -> None:
    async with client(await serve(), ours, proxy.issue(FRONT_PROXY)) as api:
        resources = (await api.get(ROOT)).json()
        assert [one["name"] for one in resources["resources"]] == ["berth_job_desired_replicas"]
        assert (await api.get("/apis")).json()["groups"][0]["name"] == "external.metrics.k8s.io"
        path = f"{ROOT}/namespaces/default/berth_job_desired_replicas"
        (value,) = (await api.get(path, params={"labelSelector": "job=gpu"})).json()["items"]
        assert (value["metricName"], value["value"]) == ("berth_job_desired_replicas", "7")
        assert value["metricLabels"] == {"job": "gpu", "cell": "local"}
        found = (await api.get(path)).json()["items"]
        assert {one["metricLabels"]["job"] for one in found} == {"gpu", "cpu"}
        wrong = await api.get(path, params={"labelSelector": "team!=a"})
        assert (wrong.status_code, wrong.json()["kind"]) == (400, "Status")
        assert (await api.get(f"{ROOT}/namespaces/default/other")).status_code == 404
        assert (await api.post(path)).status_code == 405


@pytest.mark.parametrize("names", ["", FRONT_PROXY])
async def test_strangers_are_not_answered(serve: Serve, ours: Authority, proxy: Authority, names: str) -> None:
    port = await serve(names)
    assert not await refused(port, ours, proxy.issue(FRONT_PROXY))
    for shown in (None, ours.issue(FRONT_PROXY)):
        assert await refused(port, ours, shown)


async def test_only_names_that_the_cluster_allows_its_front_proxy(
    serve: Serve, ours: Authority, proxy: Authority
) -> None:
    port = await serve(f"aggregator, {FRONT_PROXY}")
    # Another holder of a certificate of the same authority, which may carry the name, but not as its own.
    assert await refused(port, ours, proxy.issue("kubelet", names=[FRONT_PROXY]))
    for name in ("aggregator", FRONT_PROXY):
        assert not await refused(port, ours, proxy.issue(name))


async def test_certificates_rotate_under_a_running_controller(
    serve: Serve, mount: Mount, ours: Authority, proxy: Authority, tmp_path: Path
) -> None:
    port = await serve(FRONT_PROXY)
    ours_next, proxy_next = Authority(tmp_path / "ours-2"), Authority(tmp_path / "proxy-2", "front proxy")
    assert not await refused(port, ours, proxy.issue(FRONT_PROXY))
    mount.swap(trusting(ours_next.issue("metrics"), proxy_next))
    assert not await refused(port, ours_next, proxy_next.issue(FRONT_PROXY))
    # The old authority is not believed any more, and the old certificate not shown.
    assert await refused(port, ours_next, proxy.issue(FRONT_PROXY))
    assert await refused(port, ours, proxy_next.issue(FRONT_PROXY))


async def test_until_when_its_certificate_is_good_can_be_scraped(start_controller: Any, mount: Mount) -> None:
    files = mount.files
    controller = await start_controller(
        external_metrics_address="127.0.0.1:0",
        external_metrics_cert=files.cert,
        external_metrics_key=files.key,
        external_metrics_client_ca=files.ca,
    )
    assert (
        'certificate_expires_timestamp_seconds{use="external-metrics"}' in (await controller.api.get("/metrics")).text
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", {"gpu", "cpu"}),
        ("job=gpu", {"gpu"}),
        ("job==gpu", {"gpu"}),
        ("job in (gpu,cpu)", {"gpu", "cpu"}),
        ("job in (tpu)", set()),
    ],
)
def test_selectors(text: str, names: set[str]) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    select: Callable[[Any], bool] = selector(text)
    assert {name for name in ("gpu", "cpu") if select(Named(name))} == names


@pytest.mark.parametrize("text", ["cell=x", "job!=gpu", "job=gpu,cell=x", "job notin (gpu)", "job"])
def test_other_selectors_are_refused(text: str) -> None:
    with pytest.raises(BadSelector):
        selector(text)


async def test_half_of_the_settings_are_refused(start_controller: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BERTH_EXTERNAL_METRICS_CLIENT_CA"):
        await service.run(
            ControllerSettings(
                database_url="postgresql://x",
                artifact_store=f"file://{tmp_path}/artifacts",
                credential_file=_credential(tmp_path),
                external_metrics_address="127.0.0.1:0",
            ),
            asyncio.Event(),
        )


def _credential(folder: Path) -> Path:
    path = folder / "credential"
    path.write_text("c" * 43)
    return path
