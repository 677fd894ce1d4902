"""Listens for clients, alone or together with other processes."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from berth.auth.certificates import Certificates, TlsFiles
from berth.auth.contexts import RotatingContext
from berth.http_shell import listening
from berth.settings import SettingsError
from router.listening.acceptor import Acceptor
from router.listening.seats import Port, Seat, Seats
from router.path.inbound.clients import Clients
from router.settings import Inherited


class Listening(NamedTuple):
    """The ports, and what to call to take no more connections. Those that there are go on."""

    rest: int
    grpc: int
    close: Callable[[], None]


@asynccontextmanager
async def listen(
    clients: Clients, rest: str, grpc: str, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listening]:
    """Accept clients on two addresses, `host:port`. Raises `SettingsError` if a port cannot be had."""
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(listening.listen(address, clients.links, clients.accept, tls=tls))
            for address in (rest, grpc)
        ]

        def close() -> None:
            for port in ports:
                port.close()

        yield Listening(ports[0].port, ports[1].port, close)


@asynccontextmanager
async def share(
    clients: Clients, inherited: Inherited, ready: Callable[[], bool], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listening]:
    """Accept clients, in turn with other processes, from the sockets that their parent listens on."""
    # Mapped for as long as connections are counted, which is until this process ends.
    seats = Seats(inherited.seats)
    os.close(inherited.seats)
    seat = Seat(seats, inherited.seat, ready)
    sockets = {Port.REST: socket.socket(fileno=inherited.rest), Port.GRPC: socket.socket(fileno=inherited.grpc)}
    rest, grpc = (held.getsockname()[1] for held in sockets.values())
    acceptors = [Acceptor(clients, held, seat, port, tls) for port, held in sockets.items()]

    def close() -> None:
        seat.leave()
        for acceptor in acceptors:
            acceptor.close()

    try:
        yield Listening(rest, grpc, close)
    finally:
        close()
        for acceptor in acceptors:
            acceptor.cancel()


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
    context.set_alpn_protocols(list(listening.ALPN))
    return context
