"""tritonclient in its four forms, unmodified, through the router to a replica that echoes."""

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from doubles.scripted_replica import ScriptedReplica

DIGITS = VersionKey("alice", "digits", 2)
ARRAYS = [
    np.arange(256, dtype=np.float32).reshape(4, 64),
    np.array([["zero", "caf\u00e9"]], dtype=np.object_),
    np.zeros((1, 300_000), dtype=np.uint8),
]


def headers() -> dict[str, str]:
    """Anew for each call: the clients write into what they are given."""
    return {"authorization": "Bearer alice-key"}


def inputs(module: Any, array: np.ndarray[Any, Any], **binary: bool) -> list[Any]:
    datatype = {"float32": "FP32", "object": "BYTES", "uint8": "UINT8"}[array.dtype.name]
    tensor = module.InferInput("x", array.shape, datatype)
    tensor.set_data_from_numpy(array, **binary)
    return [tensor]


def same(got: np.ndarray[Any, Any] | None, sent: np.ndarray[Any, Any]) -> bool:
    assert got is not None
    if sent.dtype == np.object_:
        text = [item.decode() if isinstance(item, bytes) else item for item in got.ravel()]
        return bool(got.shape == sent.shape and text == list(sent.ravel()))
    return bool(np.array_equal(got, sent))


@pytest.fixture
def replica() -> ScriptedReplica:
    return ScriptedReplica("w1", {DIGITS, VersionKey("alice", "digits", 1)})


def http_sync(address: str, array: np.ndarray[Any, Any], binary: bool) -> None:
    client = tritonclient.http.InferenceServerClient(address)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", headers=headers())
        assert not client.is_model_ready("digits")
        assert client.get_server_metadata()["name"] == "berth"
        assert client.get_model_metadata("digits", headers=headers())["versions"] == ["2"]
        wanted = [tritonclient.http.InferRequestedOutput("x", binary_data=binary)]
        for version, answered in (("", "2"), ("1", "1"), ("stable", "1")):
            result = client.infer(
                "digits",
                inputs(tritonclient.http, array, binary_data=binary),
                model_version=version,
                outputs=wanted,
                headers=headers(),
                request_id="mine",
            )
            assert same(result.as_numpy("x"), array)
            response = result.get_response()
            assert (response["model_name"], response["model_version"], response["id"]) == ("digits", answered, "mine")
        result = client.infer(
            "digits",
            inputs(tritonclient.http, array, binary_data=binary),
            headers=headers(),
            request_compression_algorithm="gzip",
            response_compression_algorithm="gzip",
        )
        assert same(result.as_numpy("x"), array)
        with pytest.raises(tritonclient.http.InferenceServerException, match="does not exist"):
            client.infer("nope", inputs(tritonclient.http, array), headers=headers())
    finally:
        client.close()


async def http_aio(address: str, array: np.ndarray[Any, Any], binary: bool) -> None:
    async with tritonclient.http.aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits", headers=headers())
        sent = inputs(tritonclient.http, array, binary_data=binary)
        result = await client.infer("digits", sent, headers=headers())
        assert same(result.as_numpy("x"), array)
        with pytest.raises(tritonclient.http.InferenceServerException, match="API key"):
            await client.infer("digits", sent)


def grpc_sync(address: str, array: np.ndarray[Any, Any], _: bool) -> None:
    client = tritonclient.grpc.InferenceServerClient(address)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", headers=headers())
        assert client.get_server_metadata().name == "berth"
        assert client.get_model_metadata("digits", headers=headers()).versions == ["2"]
        for version, answered in (("", "2"), ("1", "1"), ("stable", "1")):
            result = client.infer(
                "digits",
                inputs(tritonclient.grpc, array),
                model_version=version,
                headers=headers(),
                request_id="mine",
                client_timeout=10,
            )
            assert same(result.as_numpy("x"), array)
            response = result.get_response()
            assert (response.model_name, response.model_version, response.id) == ("digits", answered, "mine")
        result = client.infer(
            "digits", inputs(tritonclient.grpc, array), headers=headers(), compression_algorithm="gzip"
        )
        assert same(result.as_numpy("x"), array)
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="does not exist") as refused:
            client.infer("nope", inputs(tritonclient.grpc, array), headers=headers())
        assert refused.value.status() == "StatusCode.NOT_FOUND"
    finally:
        client.close()


async def grpc_aio(address: str, array: np.ndarray[Any, Any], _: bool) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        result = await client.infer("digits", inputs(tritonclient.grpc, array), headers=headers())
        assert same(result.as_numpy("x"), array)
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="API key"):
            await client.infer("digits", inputs(tritonclient.grpc, array))


@pytest.mark.parametrize("array", ARRAYS, ids=["floats", "text", "300 KB"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("client", [http_sync, http_aio, grpc_sync, grpc_aio])
async def test_triton_clients(
    *,
    client: Any,
    binary: bool,
    array: np.ndarray[Any, Any],
    replica: ScriptedReplica,
    credential: PeerCredential,
    routing: Any,
    table_of: Any,
) -> None:
    async with replica.serve(credential):
        at = [replica.address]
        async with routing(table_of({"digits": {1: at, 2: at}}, labels={"stable": 1})) as rig:
            address = rig.rest if client in (http_sync, http_aio) else rig.grpc
            if asyncio.iscoroutinefunction(client):
                await client(address, array, binary)
            else:
                await asyncio.to_thread(client, address, array, binary)
    assert {arrived.headers.get("authorization") for arrived in replica.arrived} == {None}
