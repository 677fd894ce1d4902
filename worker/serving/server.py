"""The worker's two inference ports, started and drained together. Each speaks REST and gRPC, HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.http.limits import Http1Limits, Http2Limits
from berth.http_shell.link import Shared
from berth.http_shell.links import Links, ShellLimits
from berth.http_shell.listening import listen
from berth.http_shell.server import ServerLink
from berth.tracing import Tracing
from worker.core.loads import Loads
from worker.runtimes.protocol import Servables
from worker.serving.answering import Answering
from worker.serving.conversation import Conversation
from worker.serving.exchange import InferenceService
from worker.serving.metrics import InferenceMetrics

log = structlog.get_logger(__name__)

# Room for a batch of 100 images of 224 x 224 x 3 floats; a router sets its own, lower or equal, limit.
DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024

# All requests of a router share few connections, so one stream that nobody reads must not stop the others: the
# connection's window is as large as all streams' together. The router cancels what it hedged, by the thousand when it
# must.
_STREAMS = 1024
_STREAM_WINDOW = 512 * 1024
_HTTP2 = Http2Limits(
    max_streams=_STREAMS,
    stream_window=_STREAM_WINDOW,
    connection_window=_STREAMS * _STREAM_WINDOW,
    resets=10_000,
    control_frames=10_000,
)
# How much of a refused body is read and dropped, so that a client still sending it gets to see the refusal.
_DISCARD = 16 * 1024 * 1024
# Longer than a router keeps an idle connection, so that the router closes it. A connection that is closed here just as
# a request is on its way costs that request a retry.
_IDLE_S = 120.0
# While stopping, how long an idle HTTP/1.1 connection stays open for a request that is on its way.
_LAST_REQUEST_S = 0.25


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
    loads: Loads | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_connections: int = 10_000,
    head_timeout_s: float = 10.0,
    body_timeout_s: float = 30.0,
    drain_s: float = 10.0,
    tracing: Tracing | None = None,
) -> AsyncIterator[InferenceServer]:
    """Answer inference on `servables` while the context is open, and add what it takes to `loads`.

    `max_body_bytes` bounds a REST body and the tensors of a gRPC message; `max_connections` is for each port;
    `head_timeout_s` and `body_timeout_s` bound how long a request's head and body may take to arrive. Leaving the
    context stops accepting and gives requests under way `drain_s` seconds. Raises `SettingsError` if an address is not
    loopback without TLS, or cannot be had.
    """
    metrics = InferenceMetrics(registry)
    limits = ShellLimits(
        connections=max_connections,
        head_timeout_s=head_timeout_s,
        idle_timeout_s=_IDLE_S,
        stuck_timeout_s=body_timeout_s,
    )
    http1 = Http1Limits(body=max_body_bytes, discard=_DISCARD)
    async with contextlib.AsyncExitStack() as stack:
        answering = Answering(servables, replica, metrics, loads or Loads())
        stack.push_async_callback(answering.close)
        service = InferenceService(answering, credential, max_body_bytes, body_timeout_s, tracing)

        def accept(link: ServerLink) -> Conversation:
            return Conversation(service, link)

        shared = Shared(asyncio.get_running_loop())
        ports, both = [], []
        for address in (http_address, grpc_address):
            links = Links(shared, limits, http1, _HTTP2)
            stack.push_async_callback(_cut_off, links)
            tls = credential.server_tls(address)
            ports.append(await stack.enter_async_context(listen(address, links, accept, tls=tls)))
            links.start()
            both.append(links)
        metrics.gauge("connections", "Connections open.", lambda: sum(len(one) for one in both))
        metrics.gauge(
            "connections_refused",
            "Connections closed at once, because there were too many, since the start.",
            lambda: sum(one.refused for one in both),
        )
        metrics.gauge(
            "connections_timed_out",
            "Connections closed because the head of a request did not arrive, since the start.",
            lambda: sum(one.timed_out for one in both),
        )
        http, grpc = ports
        yield InferenceServer(grpc.port, http.port, answering)
        for port in ports:
            port.close()
        await asyncio.gather(*(one.drain(drain_s, _LAST_REQUEST_S) for one in both))


async def _cut_off(links: Links) -> None:
    left = links.close()
    if left:
        log.warning("connections are cut off", connections=left)
    await links.closed()
