"""Listens on a port, for HTTP/1.1 and HTTP/2 alike, in the clear or with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final

from berth.http_shell.attached import Attached
from berth.http_shell.links import Links
from berth.http_shell.server import Accept, ServerLink
from berth.settings import SettingsError

ALPN: Final = ("h2", "http/1.1")
BACKLOG: Final = 1024
_TLS_HANDSHAKE_S: Final = 10.0


class Listener:
    """A port that connections come to, which `links` has then."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def __repr__(self) -> str:
        return f"<Listener {self.port}{'' if self._server.is_serving() else ' closed'}>"

    def close(self) -> None:
        """Take no more connections. Those that there are go on."""
        self._server.close()


@contextlib.asynccontextmanager
async def listen(
    address: str, links: Links, accept: Accept, *, tls: ssl.SSLContext | None = None, backlog: int = BACKLOG
) -> AsyncIterator[Listener]:
    """Listen on `host:port` while the context is open. Raises `SettingsError` if the address cannot be had."""
    host, _, port = address.rpartition(":")
    if tls is not None:
        tls.set_alpn_protocols(list(ALPN))
    try:
        server = await links.shared.loop.create_server(
            lambda: Attached(ServerLink(links, accept)),
            host.strip("[]") or None,
            int(port),
            ssl=tls,
            backlog=backlog,
            ssl_handshake_timeout=None if tls is None else _TLS_HANDSHAKE_S,
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    listener = Listener(server)
    try:
        yield listener
    finally:
        listener.close()
