"""A few numbers that router processes on one pair of ports tell each other, in memory that they share.

Each process has a seat, and nobody else writes there while it lives. The numbers are aligned, eight bytes each: a
reader sees one as it was before a write or after it. The parent makes the memory, says who sits where, and clears a
seat when its process is dead.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

from router.core.turns import ProcessState, allowance

# A seat has a cache line of its own: when it was written (ns; 0: nobody sits there), readiness, and the connections.
_CELLS, _BYTES = 8, 8
_SEEN, _READY, _CONNECTIONS = 0, 1, 2
# Often enough that a process is not taken for frozen when one turn of its loop takes long.
_BEAT = 1.0 / 16


class Port(IntEnum):
    """One of the two sockets that clients come to."""

    REST = 0
    GRPC = 1


class Seats:
    """All of them, in the memory that `fd` stands for."""

    def __init__(self, fd: int) -> None:
        self._cells = memoryview(mmap.mmap(fd, 0)).cast("q")

    def __len__(self) -> int:
        return len(self._cells) // _CELLS

    def __repr__(self) -> str:
        taken = {seat: self._cells[seat * _CELLS : (seat + 1) * _CELLS].tolist() for seat in range(len(self))}
        return f"<Seats {taken}>"

    def clear(self, seat: int) -> None:
        for cell in range(_CELLS):
            self._cells[seat * _CELLS + cell] = 0

    def say(self, seat: int, now_ns: int, *, ready: bool) -> None:
        """Who sits there is there, and can serve or not."""
        self._cells[seat * _CELLS + _READY] = ready
        self._cells[seat * _CELLS + _SEEN] = now_ns

    def count(self, seat: int, port: Port, connections: int) -> None:
        self._cells[seat * _CELLS + _CONNECTIONS + port] = connections

    def standing(self, seat: int, port: Port) -> ProcessState | None:
        """Of who sits there, if anybody does."""
        cells, first = self._cells, seat * _CELLS
        seen = cells[first + _SEEN]
        if not seen:
            return None
        return ProcessState(bool(cells[first + _READY]), seen / 1e9, cells[first + _CONNECTIONS + port])


@contextmanager
def seats_memory(count: int) -> Iterator[int]:
    """A descriptor of memory for so many seats, all empty. Processes that inherit it share them."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("berth-router-seats")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, count * _CELLS * _BYTES)
        yield fd
    finally:
        os.close(fd)


class Seat:
    """This process's own: says again and again that it is there, until it `leave`s."""

    def __init__(self, seats: Seats, number: int, ready: Callable[[], bool]) -> None:
        self._seats = seats
        self._number = number
        self._ready = ready
        self._connections = [0] * len(Port)
        self._away_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._seats.clear(number)
        self._beat()

    def took(self, port: Port) -> None:
        self._connections[port] += 1
        self._seats.count(self._number, port, self._connections[port])

    def ended(self, port: Port) -> None:
        """One of those that it took."""
        self._connections[port] -= 1
        self._seats.count(self._number, port, self._connections[port])

    def allowance(self, port: Port) -> int:
        """How many of the connections that wait at that port this process may take."""
        self._say()
        own = self._seats.standing(self._number, port)
        if own is None:
            return 0
        others = [
            standing
            for seat in range(len(self._seats))
            if seat != self._number and (standing := self._seats.standing(seat, port)) is not None
        ]
        return allowance(own, others, own.seen)

    def step_away(self, seconds: float) -> None:
        """Take no connection for so long, and have nobody wait for that."""
        self._away_until = self._loop.time() + seconds
        self._say()

    def leave(self) -> None:
        """For good."""
        if self._timer is not None:
            self._timer.cancel()
        self._seats.clear(self._number)
        self._away_until = float("inf")

    def _beat(self) -> None:
        self._timer = self._loop.call_later(_BEAT, self._beat)
        self._say()

    def _say(self) -> None:
        away = self._loop.time() < self._away_until
        self._seats.say(self._number, 0 if away else time.monotonic_ns(), ready=self._ready())
