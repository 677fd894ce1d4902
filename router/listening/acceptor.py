"""Takes connections from a listening socket that other processes accept from as well, when it is this one's turn.

The kernel keeps the connections that nobody has taken yet for all of them. So a busy, frozen or dead process holds up
no connection, and a process that has its share leaves the next one to a sibling with fewer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import structlog

from berth.http_shell.attached import Attached
from berth.http_shell.server import ServerLink
from router.core.turns import has_waited_enough, pause
from router.listening.seats import Port, Seat
from router.path.inbound.clients import Clients

log = structlog.get_logger(__name__)

# Two looks further apart are not for the same connection.
_FORGET = 0.02
# Out of descriptors or memory: the wait of asyncio's own servers in that case.
_OUT_OF = 1.0


class Acceptor:
    """Of one port."""

    def __init__(
        self, clients: Clients, listening: socket.socket, seat: Seat, port: Port, tls: ssl.SSLContext | None
    ) -> None:
        self._clients = clients
        self._loop = clients.common.loop
        self._listening = listening
        self._seat = seat
        self._port = port
        self._tls = tls
        # Those that were taken here and have not ended.
        self._connections: set[int] = set()
        self._number = 0
        self._admissions: set[asyncio.Task[None]] = set()
        # Those that no transport owns yet.
        self._bare: set[socket.socket] = set()
        self._looks = 0
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        listening.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Take no more. Those that were taken stay."""
        if not self._open:
            return
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def cancel(self) -> None:
        """Give up those that are not through with their TLS handshake."""
        for task in self._admissions:
            task.cancel()
        for taken in self._bare:
            taken.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._listening, self._look)

    def _watch_again_in(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._timer = self._loop.call_later(seconds, self._watch)

    def _look(self) -> None:
        """A connection waits, or did a moment ago."""
        allowed = self._seat.allowance(self._port)
        if allowed:
            self._looks = 0
        elif self._is_left():
            return
        for _ in range(max(1, allowed)):
            try:
                taken, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._cannot(error)
                return
            self._take(taken)

    def _is_left(self) -> bool:
        """Whether it is left to a sibling, who is about to take it. If so, or even if not, look again later."""
        now = self._loop.time()
        if now - self._looked_at > _FORGET:
            self._looks = 0
        self._looked_at = now
        self._looks += 1
        seconds = pause(self._looks)
        if seconds:
            self._watch_again_in(seconds)
        return not has_waited_enough(self._looks)

    def _cannot(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:
            # The parent has ended the listening, for all of us.
            self.close()
            return
        log.error("cannot accept connections", port=self._port.name, error=str(error))
        self._seat.step_away(_OUT_OF)
        self._watch_again_in(_OUT_OF)

    def _take(self, taken: socket.socket) -> None:
        protocol = Attached(ServerLink(self._clients.links, self._clients.accept))
        number = self._number = self._number + 1
        lost = protocol.connection_lost

        # Knows the connection by its number: a cycle would leave each one to the collector, which seldom comes.
        def connection_lost(exc: Exception | None) -> None:
            lost(exc)
            self._gone(number)

        protocol.connection_lost = connection_lost  # type: ignore[method-assign]
        self._connections.add(number)
        self._seat.took(self._port)
        self._bare.add(taken)
        task = self._clients.terms.tasks.create_task(self._admit(protocol, taken, number), name="admission")
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)

    async def _admit(self, protocol: Attached, taken: socket.socket, number: int) -> None:
        self._bare.discard(taken)
        taken.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, taken, ssl=self._tls)
        except OSError:
            # It went away, or its handshake failed: nobody is there to be told.
            self._gone(number)

    def _gone(self, number: int) -> None:
        if number in self._connections:
            self._connections.remove(number)
            self._seat.ended(self._port)
