"""Services as forwarders on loopback: each port of a service listens on the service's address and passes connections on
to ready pods in turn.

They follow the pods themselves, not EndpointSlices: Kubernetes refuses loopback addresses in those. As with kube-proxy,
a connection that a pod refuses is not tried elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from e2e.kubernetes.api import Key, Object, key_of
from e2e.kubernetes.pod_spec import port_of

log = structlog.get_logger(__name__)

_CONNECT_LIMIT_S = 5.0
_CHUNK = 1 << 16


def endpoints(service: Object, port: Object, pods: Mapping[Key, Object]) -> list[tuple[str, int]]:
    """Where a port of a service leads: pods that its selector means, that are ready and are not being deleted."""
    selector = service["spec"].get("selector")
    if not selector:
        return []
    namespace, _ = key_of(service)
    found = []
    for key, pod in sorted(pods.items()):
        labels = pod["metadata"].get("labels") or {}
        if key[0] != namespace or any(labels.get(name) != value for name, value in selector.items()):
            continue
        number = port_of(pod["spec"]["containers"], port.get("targetPort") or port["port"])
        if number is not None and _serves(pod, publish_unready=service["spec"].get("publishNotReadyAddresses", False)):
            found.append((str(pod["status"]["podIP"]), number))
    return found


def _serves(pod: Object, *, publish_unready: bool) -> bool:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or not status.get("podIP"):
        return False
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    return ready or publish_unready


@dataclass(slots=True)
class Forwarder:
    """One port of one service. `choose` gives its endpoints as of now."""

    address: str
    port: int
    choose: Callable[[], Sequence[tuple[str, int]]]
    _turns: Iterator[int] = field(default_factory=itertools.count)
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.address, self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._forward(reader, writer)
        except asyncio.CancelledError:
            # Cancelled by `close` only; asyncio's stream server would log it as an error.
            return
        finally:
            self._connections.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backends = self.choose()
        if not backends:
            return
        address, port = backends[next(self._turns) % len(backends)]
        try:
            async with asyncio.timeout(_CONNECT_LIMIT_S):
                back_reader, back_writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, back_writer))
                tasks.create_task(_pump(back_reader, writer))
        finally:
            back_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side ends; the other end is told so."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof() if writer.can_write_eof() else writer.close()
