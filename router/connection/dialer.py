"""Makes connections to replicas and to other cells' routers; the only part of the data path that needs a task, once a
connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from berth.http_shell.attached import Attached
from berth.http_shell.link import Link
from berth.model import ReplicaAddress
from router.connection.common import Common
from router.core.routes import is_router

# For a host that does not answer SYN: one that is up answers at once. TLS to another region is some round trips more.
_CONNECT_TIMEOUT = 1.0
_FAR_CONNECT_TIMEOUT = 2.0
# A network between cells may lose a connection and tell nobody. After so many seconds of silence the kernel asks; after
# twice as long without an acknowledgement it gives the connection up.
_SILENCE = 5


class Trust(Protocol):
    """Who is dialled, and how each side knows the other; `PeerCredential` within a deployment, `Strangers` beyond."""

    @property
    def scheme(self) -> str:
        """http or https."""

    def headers(self) -> Mapping[str, str]:
        """What every request carries."""

    def client_tls(self) -> ssl.SSLContext | None:
        """The context of connections; None for cleartext."""


class Dialer:
    """`tasks` owns the attempts, and is set before the first. `credential_fields` go with every request, `scheme` is
    http or https; `sender` is the cell that requests come from, for a dialer of other cells."""

    def __init__(self, common: Common, credential: Trust, sender: str = "") -> None:
        self.common = common
        self.sender = sender.encode()
        self.tasks: asyncio.TaskGroup
        self._credential = credential
        self._contexts: dict[str, ssl.SSLContext | None] = {}
        self.scheme = credential.scheme.encode()
        self.credential_fields = tuple((name.encode(), value.encode()) for name, value in credential.headers().items())

    def dial(
        self, address: str, protocol: str, make: Callable[[], Link], on_failure: Callable[[str], None]
    ) -> asyncio.Task[None]:
        """Connect to `host:port`; `protocol` is ALPN's name. The connection made says so itself."""
        return self.tasks.create_task(self._dial(address, protocol, make, on_failure), name=f"connect to {address}")

    async def _dial(
        self, address: str, protocol: str, make: Callable[[], Link], on_failure: Callable[[str], None]
    ) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            context = self._context(protocol)
            async with asyncio.timeout(_FAR_CONNECT_TIMEOUT if self.sender else _CONNECT_TIMEOUT):
                transport, _ = await self.common.loop.create_connection(
                    lambda: Attached(make()),
                    host,
                    int(port),
                    ssl=context,
                    server_hostname=host if context is not None else None,
                )
            if self.sender:
                _watch_over(transport.get_extra_info("socket"))
        except (OSError, TimeoutError, ValueError) as error:
            on_failure(f"no connection to {address}: {error!r}")

    def _context(self, protocol: str) -> ssl.SSLContext | None:
        """Made once: reading certificates takes milliseconds."""
        if protocol not in self._contexts:
            context = self._credential.client_tls()
            if context is not None:
                context.set_alpn_protocols([protocol])
            self._contexts[protocol] = context
        return self._contexts[protocol]


def _watch_over(connection: socket.socket) -> None:
    """Have the kernel notice the silent loss of a connection, as far as this kernel can."""
    with suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", _SILENCE),
            ("TCP_KEEPINTVL", _SILENCE),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", 2_000 * _SILENCE),
        ):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def dialer_for(address: ReplicaAddress, replicas: Dialer, beyond: Dialer | None) -> Dialer:
    """The dialer for `address`: `beyond` for routers of other cells, else the other one."""
    return beyond if beyond is not None and is_router(address) else replicas
