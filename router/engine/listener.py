"""Listens for clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from berth.settings import SettingsError
from router.engine.attached import Attached
from router.engine.client import ClientConnection
from router.engine.service import Service

_BACKLOG = 1024


@asynccontextmanager
async def listen(
    service: Service, address: str, *, tls: ssl.SSLContext | None = None, shared: bool = False
) -> AsyncIterator[tuple[int, asyncio.Server]]:
    """Accept clients on `host:port`; yield the port and the server. `shared`: other processes listen there as well.

    Raises `SettingsError` if the port cannot be had.
    """
    host, _, port = address.rpartition(":")
    try:
        server = await service.common.loop.create_server(
            lambda: Attached(ClientConnection(service, is_tls=tls is not None)),
            host.strip("[]") or None,
            int(port),
            ssl=tls,
            backlog=_BACKLOG,
            reuse_port=shared or None,
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    try:
        yield server.sockets[0].getsockname()[1], server
    finally:
        server.close()


def client_tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The context of the clients' ports, or None where they speak cleartext. Raises `SettingsError`."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise SettingsError("BERTH_CLIENT_TLS_CERT and BERTH_CLIENT_TLS_KEY go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"cannot use {cert} and {key}: {error}") from None
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
