"""The small HTTP port of the processes that have no REST API: /healthz, /readyz and /metrics.

These carry nothing of a tenant and no command, so they ask for no credential; probes and collectors need them bare. A
process may add JSON documents for operators. These do name tenants, so only this machine gets them (an operator comes
by `kubectl port-forward` or a shell), and only with the deployment's token where there is one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.errors import BerthError, problem
from berth.telemetry import CONTENT_TYPE_LATEST, metrics_text

# Says why the process is not ready, or None when it is.
Readiness = Callable[[], str | None]

# Makes a JSON value of a URL's query. May raise `BerthError`.
Document = Callable[[Mapping[str, str]], Any]


@asynccontextmanager
async def serve_admin(
    address: str,
    readiness: Readiness,
    registry: CollectorRegistry,
    *,
    documents: Mapping[str, Document] | None = None,
    credential: PeerCredential | None = None,
) -> AsyncIterator[int]:
    """Listen on `host:port` while the context is open, and yield the port.

    `documents` by path need a `credential` to be read with.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = readiness()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await metrics_text(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def reading(document: Document) -> Callable[[web.Request], Any]:
        async def read(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            if credential is None or not _is_here(request) or not credential.accepts(headers):
                return web.Response(status=403, text="for operators on this machine, with the deployment's token\n")
            try:
                return web.json_response(document(request.query))
            except BerthError as error:
                return web.json_response(problem(error), status=error.status.http)

        return read

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    app.add_routes([web.get(path, reading(document)) for path, document in (documents or {}).items()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _is_here(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
