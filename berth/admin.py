"""The small HTTP port of the processes that have no REST API: /healthz, /readyz and /metrics.

It carries nothing of a tenant and no command, so it asks for no credential; probes and collectors need it bare.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from berth.telemetry import CONTENT_TYPE_LATEST, metrics_text

# Says why the process is not ready, or None when it is.
Readiness = Callable[[], str | None]


@asynccontextmanager
async def serve_admin(address: str, readiness: Readiness, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Listen on `host:port` while the context is open, and yield the port."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = readiness()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics_text(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
