"""Inside the deployment: every internal port asks for the credential, by token on loopback or by mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from berth.wire.v1 import desired_pb2, desired_pb2_grpc, routes_pb2, routes_pb2_grpc, worker_pb2_grpc
from doubles.certificates import Authority
from e2e.conftest import Tenant, make_tenant, upload
from e2e.models import multiplier
from e2e.stack import Stack

StackMaker = Callable[..., Stack]


def replicas(stack: Stack) -> list[dict[str, str]]:
    """What the workers announced of themselves."""
    return [json.loads(path.read_text()) for path in sorted((stack.home / "run" / "replicas").glob("*.json"))]


def doors(stack: Stack) -> list[tuple[str, Callable[[grpc.Channel], Any]]]:
    """Every internal gRPC port, and a call that a peer makes on it."""

    def lease(channel: grpc.Channel) -> Any:
        return desired_pb2_grpc.DesiredFeedStub(channel).Lease(desired_pb2.LeaseRequest(cell="local"), timeout=5)

    def routes(channel: grpc.Channel) -> Any:
        return next(
            routes_pb2_grpc.RouteFeedStub(channel).WatchRoutes(iter([routes_pb2.RouteAck(router="x")]), timeout=5)
        )

    def sync(channel: grpc.Channel) -> Any:
        return next(worker_pb2_grpc.WorkerControlStub(channel).Sync(iter(()), timeout=5))

    def live(channel: grpc.Channel) -> Any:
        return channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)

    processes = stack.processes()
    worker = replicas(stack)[0]
    return [
        (f"127.0.0.1:{processes['controller-0'].ports['feed']}", lease),
        (f"127.0.0.1:{processes['synchronizer-0'].ports['route_feed']}", routes),
        (worker["control"], sync),
        (worker["grpc"], live),
    ]


def test_a_token_guards_every_internal_port(stack: Stack, multiplying: Tenant) -> None:
    for address, call in doors(stack):
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
            call(channel)
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, address
    for path in ("/v2/health/live", "/v2/models/plain~times~1", "/v2/models/plain~times~1/infer"):
        assert httpx.get(f"http://{replicas(stack)[0]['http']}{path}").status_code == 401


def test_a_tenants_key_is_no_credential(stack: Stack, multiplying: Tenant) -> None:
    headers = {"authorization": f"Bearer {multiplying.key}", "berth-credential": multiplying.key}
    url = f"http://{replicas(stack)[0]['http']}/v2/models/plain~times~1"
    assert httpx.get(url, headers=headers).status_code == 401


def test_mutual_tls(own_stack: StackMaker, tmp_path: Path) -> None:
    files = Authority(tmp_path / "authority").issue("berth")
    settings = {"BERTH_TLS_CERT": str(files.cert), "BERTH_TLS_KEY": str(files.key), "BERTH_TLS_CA": str(files.ca)}
    stack = own_stack("--workers", "1", "--memory-per-worker", "256MiB", **settings)
    tenant = make_tenant(stack, "sealed")
    upload(tenant, "times", multiplier(3), tmp_path)
    assert tenant.client.infer("times", {"x": np.ones((1, 4), np.float32)})["product"].tolist() == [[3.0] * 4]
    stranger = Authority(tmp_path / "other").issue("stranger")
    theirs = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), private_key=stranger.key.read_bytes(), certificate_chain=stranger.cert.read_bytes()
    )
    token = (("berth-credential", (stack.home / "run" / "credential").read_text().strip()),)
    for address, call in doors(stack):
        for channel in (grpc.insecure_channel(address), grpc.secure_channel(address, theirs)):
            with channel, pytest.raises(grpc.RpcError) as refused:
                call(grpc.intercept_channel(channel, _Sending(token)))
            error: Any = refused.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE, address
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://{replicas(stack)[0]['http']}/v2/health/live", verify=False)
    assert stack.stop() == 0, stack.said()


class _Sending(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds metadata to every call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)
