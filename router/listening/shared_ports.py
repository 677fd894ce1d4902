"""Several router processes share the sockets on which their parent listens, and memory with a seat for each."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from berth.settings import SettingsError
from router.listening.seats import seats_memory
from router.settings import RouterSettings

BACKLOG: Final = 1024
"""Connections that may wait on a port to be accepted."""
# While a process is replaced there is one more; a seat is free only when its process has ended.
_SPARE_SEATS = 2


class RouterPorts(NamedTuple):
    """Where a router, or several as one, can be reached."""

    rest: int
    grpc: int
    admin: int


class SharedPorts(NamedTuple):
    """`seats` is the memory's descriptor."""

    rest: socket.socket
    grpc: socket.socket
    seats: int

    def end_listening(self) -> None:
        """For the children too: clients are refused from now on."""
        for listening in (self.rest, self.grpc):
            # Elsewhere than on Linux it takes all of them to close it.
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RD)
            listening.close()


@contextmanager
def open_shared(settings: RouterSettings) -> Iterator[SharedPorts]:
    """Listen. Raises `SettingsError` if a port cannot be had."""
    with ExitStack() as stack:
        rest, grpc = (
            stack.enter_context(_listening(address)) for address in (settings.http_address, settings.grpc_address)
        )
        yield SharedPorts(rest, grpc, stack.enter_context(seats_memory(settings.processes + _SPARE_SEATS)))


def _listening(address: str) -> socket.socket:
    """A socket that listens on `host:port`. Raises `SettingsError` if the port cannot be had."""
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    listening = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listening.family == socket.AF_INET6:
            # As asyncio's servers do.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((bare, int(port)))
        listening.listen(BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        listening.close()
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    return listening
