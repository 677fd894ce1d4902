"""Free ports on loopback: those that people know, and those that only our processes use.

A port is chosen once per `berth up` and kept over restarts of its process, so peers need not look for it again. The
internal ones lie below the ephemeral range, where no outgoing connection can take them between two lives.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"

_INTERNAL = range(20_000, 30_000)
_NEIGHBOURS = 200


class NoFreePort(Exception):
    pass


class PortBook:
    """Hands out ports that nobody listens on, each at most once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: set[int] = set()

    def near(self, preferred: int) -> int:
        """`preferred` if it is free, else the next free one above it. Raises `NoFreePort`."""
        for port in range(preferred, min(preferred + _NEIGHBOURS, 65_536)):
            if self._take(port):
                return port
        raise NoFreePort(f"no free port among {preferred} to {preferred + _NEIGHBOURS - 1}")

    def internal(self) -> int:
        """A port for a process of ours. Raises `NoFreePort`."""
        for port in self._rng.sample(_INTERNAL, 500):
            if self._take(port):
                return port
        raise NoFreePort(f"no free port among {_INTERNAL.start} to {_INTERNAL.stop - 1}")

    def _take(self, port: int) -> bool:
        if port in self._given or not _is_free(port):
            return False
        self._given.add(port)
        return True


def address(port: int) -> str:
    return f"{HOST}:{port}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Servers set it too: connections of a former life that are still closing must not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
