"""Listens for clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from berth.auth.certificates import Certificates, TlsFiles
from berth.auth.contexts import RotatingContext
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


def client_certificates(cert: Path | None, key: Path | None) -> Certificates | None:
    """What the clients' ports show, or None where they speak cleartext. Raises `SettingsError`."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise SettingsError("BERTH_CLIENT_TLS_CERT and BERTH_CLIENT_TLS_KEY go together")
    return Certificates(TlsFiles(cert, key))


def client_tls(certificates: Certificates) -> ssl.SSLContext:
    """The context of the clients' ports. The files may be replaced; connections made from then on get the new ones."""
    context = RotatingContext(certificates, server_side=True)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
