"""Both protocols of the worker's inference, started and drained together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from worker.inference.answering import Answering
from worker.inference.grpc_server import serve_grpc
from worker.inference.metrics import InferenceMetrics
from worker.inference.rest_server import serve_rest
from worker.runtime import Servables

# Room for a batch of 100 images of 224 x 224 x 3 floats; a router sets its own, lower or equal, limit.
DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class InferenceServer:
    """The running servers, as the worker announces and reports them."""

    grpc_port: int
    http_port: int
    answering: Answering

    @property
    def in_flight(self) -> int:
        return self.answering.in_flight


@contextlib.asynccontextmanager
async def serve_inference(
    servables: Servables,
    *,
    credential: PeerCredential,
    grpc_address: str,
    http_address: str,
    replica: str,
    registry: CollectorRegistry,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    body_timeout_s: float = 30.0,
    drain_s: float = 10.0,
) -> AsyncIterator[InferenceServer]:
    """Answer inference on `servables` while the context is open.

    `max_body_bytes` bounds a REST body and the tensors of a gRPC message; `body_timeout_s` bounds how long a REST
    body may take to arrive. Leaving the context stops accepting and gives requests under way `drain_s` seconds.
    Raises `SettingsError` if an address is not loopback without TLS, or a gRPC port cannot be had.
    """
    answering = Answering(servables, replica, InferenceMetrics(registry))
    async with contextlib.AsyncExitStack() as stack:
        http_port = await stack.enter_async_context(
            serve_rest(
                answering,
                credential,
                http_address,
                max_body_bytes=max_body_bytes,
                body_timeout_s=body_timeout_s,
                drain_s=drain_s,
            )
        )
        grpc_port = await stack.enter_async_context(
            serve_grpc(answering, credential, grpc_address, max_body_bytes=max_body_bytes, drain_s=drain_s)
        )
        yield InferenceServer(grpc_port, http_port, answering)
