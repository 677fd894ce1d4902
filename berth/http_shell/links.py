"""The server connections of one port or several: how many there may be, who looks at them, and how all of them end.

Shutdown without loss (`Links.drain`): GOAWAY tells HTTP/2 clients; `Connection: close` in their next answer tells
HTTP/1.1 clients, so idle connections stay open a moment for that answer. Whoever listens stops listening first.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from berth.http.http1.grammar import RequestFraming
from berth.http.http1.server import Http1Server
from berth.http.http2.server import Http2Server
from berth.http.limits import Http1Limits, Http2Limits
from berth.http.memo import Memo
from berth.http_shell.link import Link, Shared

# Looking at all connections at once would hold up the requests of that moment.
_TURNS: Final = 16


@dataclass(frozen=True, slots=True)
class ShellLimits:
    """Times are in seconds and are looked at once a second.

    `connections`: more are closed as they come. `head_timeout_s`: from the first byte of a request (or of the
    connection) to the end of its head. `idle_timeout_s`: without any request. `stuck_timeout_s`: a peer for which
    much waits takes nothing of it. `keepalive_s`: silence after which an HTTP/2 client is asked whether it is still
    there. `linger_s`: how long a connection that was ended is read on.
    """

    connections: int = 10_000
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 120.0
    stuck_timeout_s: float = 30.0
    keepalive_s: float = 30.0
    linger_s: float = 2.0


class EndableLink(Link):
    """A link that `Links` ends in order."""

    __slots__ = ()

    @abstractmethod
    def drain(self) -> None:
        """Finish the requests under way and those about to arrive, and take no others."""

    @abstractmethod
    def close_if_idle(self) -> None:
        """Close it unless a request is under way."""


class Links:
    """`draining`: each is told to take no more requests than those on their way. `refused` counts connections beyond
    the limit (`on_refused` is told of each), `timed_out` those whose client took too long for a head.
    """

    def __init__(
        self,
        shared: Shared,
        limits: ShellLimits,
        http1: Http1Limits,
        http2: Http2Limits,
        on_refused: Callable[[], None] | None = None,
    ) -> None:
        self.shared = shared
        self.limits = limits
        self.draining = False
        self._full = limits.connections
        self.refused = 0
        self.timed_out = 0
        self._http1 = http1
        self._http2 = http2
        self._memos: dict[bool, Memo[RequestFraming]] = {is_tls: Memo(http1.memo) for is_tls in (False, True)}
        self._on_refused = on_refused
        self._open: set[EndableLink] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Links {len(self._open)} of {self.limits.connections}{' draining' if self.draining else ''}>"

    def __len__(self) -> int:
        return len(self._open)

    # ── Each ───────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, link: EndableLink) -> bool:
        """Whether there is room for one more. It is to be forgotten in either case."""
        if len(self._open) >= self._full:
            self.refused += 1
            if self._on_refused is not None:
                self._on_refused()
            return False
        self._open.add(link)
        self._empty.clear()
        return True

    def forget(self, link: EndableLink) -> None:
        self._open.discard(link)
        if not self._open:
            self._empty.set()

    def http1(self, *, is_tls: bool) -> Http1Server:
        return Http1Server(self._http1, scheme=b"https" if is_tls else b"http", memo=self._memos[is_tls])

    def http2(self) -> Http2Server:
        return Http2Server(self._http2, keepalive=self.limits.keepalive_s)

    # ── All ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to look at each once a second."""
        self._timer = self.shared.loop.call_later(1.0 / _TURNS, self._tick)

    def _tick(self) -> None:
        self._timer = self.shared.loop.call_later(1.0 / _TURNS, self._tick)
        turn = self._turn = (self._turn + 1) % _TURNS
        now = self.shared.loop.time()
        for link in [one for one in self._open if (id(one) >> 6) % _TURNS == turn]:
            link.tick(now)

    async def drain(self, grace_s: float, idle_s: float) -> None:
        """Finish what is under way, for at most `grace_s` seconds. What is left then is for `close`.

        Idle HTTP/1.1 connections are closed after `idle_s`, and none is taken from then on. A client that has just sent
        a request or just connected gets its answer, and is told to send no other.
        """
        self.draining = True
        for link in tuple(self._open):
            link.drain()
        await self._until_empty(min(idle_s, grace_s))
        self._full = 0
        for link in tuple(self._open):
            link.close_if_idle()
        await self._until_empty(grace_s - idle_s)

    async def _until_empty(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            pass

    def close(self) -> int:
        """Cut off what there still is, and look at nothing any more. Returns how many there were."""
        self.draining = True
        self._full = 0
        if self._timer is not None:
            self._timer.cancel()
        left = tuple(self._open)
        for link in left:
            link.abort()
        return len(left)

    async def closed(self) -> None:
        """Until the last is gone."""
        await self._empty.wait()
