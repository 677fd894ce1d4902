"""The clients that people have, unmodified: tritonclient in its four forms, curl, and the SDK."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from e2e.conftest import Tenant
from e2e.stack import Stack

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def inputs(module: Any, **options: Any) -> list[Any]:
    tensor = module.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X, **options)
    return [tensor]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_http(stack: Stack, multiplying: Tenant, binary: bool) -> None:
    headers = {"authorization": f"Bearer {multiplying.key}"}
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{stack.http_port}")
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("times", headers=headers)
        metadata = client.get_model_metadata("times", headers=headers)
        assert (metadata["name"], metadata["inputs"][0]["datatype"]) == ("times", "FP32")
        wanted = [tritonclient.http.InferRequestedOutput("product", binary_data=binary)]
        result = client.infer(
            "times", inputs(tritonclient.http, binary_data=binary), outputs=wanted, request_id="r-7", headers=headers
        )
    finally:
        client.close()
    assert result.as_numpy("product").tolist() == (X * 3).tolist()
    assert result.as_numpy("again") is None
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("times", "1", "r-7")


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_http_aio(stack: Stack, multiplying: Tenant, binary: bool) -> None:
    headers = {"authorization": f"Bearer {multiplying.key}"}
    module = tritonclient.http.aio
    async with module.InferenceServerClient(f"127.0.0.1:{stack.http_port}") as client:
        assert await client.is_model_ready("times", "1", headers=headers)
        result = await client.infer(
            "times", inputs(tritonclient.http, binary_data=binary), model_version="1", headers=headers
        )
    assert result.as_numpy("again").tolist() == (X * 3).tolist()


def test_tritonclient_grpc(stack: Stack, multiplying: Tenant) -> None:
    headers = {"authorization": f"Bearer {multiplying.key}"}
    with tritonclient.grpc.InferenceServerClient(stack.router_grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("times", headers=headers)
        metadata = client.get_model_metadata("times", headers=headers)
        assert (metadata.name, list(metadata.versions)) == ("times", ["1"])
        result = client.infer("times", inputs(tritonclient.grpc), request_id="r-8", headers=headers, client_timeout=20)
    assert result.as_numpy("product").tolist() == (X * 3).tolist()
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("times", "1", "r-8")


async def test_tritonclient_grpc_aio(stack: Stack, multiplying: Tenant) -> None:
    headers = {"authorization": f"Bearer {multiplying.key}"}
    async with tritonclient.grpc.aio.InferenceServerClient(stack.router_grpc) as client:
        assert await client.is_model_ready("times", "1", headers=headers)
        result = await client.infer("times", inputs(tritonclient.grpc), model_version="1", headers=headers)
    assert result.as_numpy("product").tolist() == (X * 3).tolist()


def test_curl(stack: Stack, multiplying: Tenant) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    command = ["curl", "-sS", "-i", f"{stack.router_url}/v2/models/times/infer", "-d", json.dumps(body)]
    done = subprocess.run(
        [*command, "-H", f"Authorization: Bearer {multiplying.key}", "-H", "x-request-id: mine-1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    head, _, answer = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-request-id: mine-1" in head.lower()
    assert json.loads(answer)["outputs"][0]["data"] == [3.0, 6.0, 9.0, 12.0]


def test_the_sdk(multiplying: Tenant) -> None:
    answer = multiplying.client.infer_traced("times", {"x": X}, timeout=10, request_id="mine-2")
    assert answer.outputs["product"].tolist() == (X * 3).tolist()
    assert (answer.version, answer.request_id) == ("1", "mine-2")
    assert answer.replica
