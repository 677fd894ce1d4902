"""Kubernetes' external metrics API over real TLS, and who may read it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.settings import SettingsError
from berth.testing.certificates import Authority, Files
from controller import service
from controller.api import external_metrics
from controller.api.external_metrics import BadSelector, selector
from controller.api.server import ServerTls, bind, serve
from controller.settings import ControllerSettings
from controller.store import jobs
from controller.store.transaction import Transactions, Tx

ROOT = "/apis/external.metrics.k8s.io/v1beta1"


@pytest.fixture
def proxy(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "proxy", "front proxy")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
async def port(transactions: Transactions, proxy: Authority, ours: Authority) -> AsyncIterator[int]:
    async def prepare(tx: Tx) -> None:
        await jobs.ensure_cell(tx, "local")
        for name, desired in (("gpu", 7), ("cpu", 2), ("manual", None)):
            values = {"cell": "local", "runtime": "triton", "hardware": "cpu", "replicas": 1}
            values |= {"memory_per_replica": 1 << 30, "service_class": "prod", "desired_replicas": desired}
            await jobs.add(tx, name, values)

    await transactions.run(prepare, fleet=True)
    files = ours.issue("metrics")
    tls = ServerTls(files.cert, files.key, proxy.issue("unused").ca)
    listener, stop = bind("127.0.0.1:0"), asyncio.Event()
    serving = asyncio.create_task(serve(external_metrics.build(transactions), listener, stop, tls))
    yield listener.getsockname()[1]
    stop.set()
    await serving
    listener.close()


def client(port: int, ours: Authority, shown: Files | None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=ours.issue("ca-only").ca)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=10)


async def test_hpa_reads_what_the_autoscaler_decided(port: int, ours: Authority, proxy: Authority) -> None:
    async with client(port, ours, proxy.issue("front-proxy-client")) as api:
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


async def test_strangers_are_not_answered(port: int, ours: Authority) -> None:
    for shown in (None, ours.issue("worker")):
        async with client(port, ours, shown) as api:
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await api.get(ROOT)


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
