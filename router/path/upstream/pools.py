"""The connections to replicas: opened when first needed, closed when no table and no request needs them any more.

A pool belongs to one process of a replica. A restarted replica (a new incarnation) gets a new pool, so that no request
waits on the connections of the dead process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog

from berth.model import ReplicaAddress
from router.core.selection import ReplicaPlace
from router.path.meeting import OpenUpstream, Upstream, UpstreamPool
from router.path.request import Wire

log = structlog.get_logger(__name__)

_CLOSE_TIMEOUT = 5.0


class Upstreams:
    """Pools by wire and place. Changes are synchronous; `run` owns the closing, which has to wait for sockets."""

    def __init__(self, openers: Mapping[Wire, OpenUpstream]) -> None:
        self._openers = openers
        # A pool is here from its first use until it is retired; then only its users hold it. Keys are plain tuples
        # equal to a `ReplicaPlace`, quicker to make; and the wires are apart because an enum's hash is not quick.
        self._rest: dict[tuple[str, str], UpstreamPool] = {}
        self._grpc: dict[tuple[str, str], UpstreamPool] = {}
        self._places: frozenset[ReplicaPlace] = frozenset()
        self._to_close: asyncio.Queue[Upstream] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<Upstreams pools={len(self._rest) + len(self._grpc)} closing={self._to_close.qsize()}>"

    def borrow(self, wire: Wire, address: ReplicaAddress) -> UpstreamPool:
        """The pool of a replica; it stays open until it is given back."""
        pools = self._rest if wire is Wire.REST else self._grpc
        place = (address.replica, address.incarnation)
        pool = pools.get(place)
        if pool is None:
            # A request resolved by the previous table may come for a place that has just left: used once, then closed.
            pool = UpstreamPool(self._openers[wire](address), retired=place not in self._places)
            if not pool.retired:
                pools[place] = pool
        pool.users += 1
        return pool

    def give_back(self, pool: UpstreamPool) -> None:
        pool.users -= 1
        if pool.retired and not pool.users:
            self._to_close.put_nowait(pool.upstream)

    def retain(self, places: Collection[ReplicaPlace]) -> None:
        """Retire the pools of all other places."""
        self._places = frozenset(places)
        for pools in (self._rest, self._grpc):
            for place in [place for place in pools if place not in self._places]:
                pool = pools.pop(place)
                pool.retired = True
                if not pool.users:
                    self._to_close.put_nowait(pool.upstream)

    def tick(self, now: float) -> None:
        """About once a second."""
        for pools in (self._rest, self._grpc):
            for pool in list(pools.values()):
                pool.upstream.tick(now)

    async def run(self) -> None:
        """Close what has been retired, until cancelled; then close everything."""
        try:
            while True:
                await self._close(await self._to_close.get())
        finally:
            self.retain(())
            while not self._to_close.empty():
                await self._close(self._to_close.get_nowait())

    @staticmethod
    async def _close(upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await upstream.close()
        except Exception as error:
            # A named boundary: a pool that does not close cleanly must not keep the others open.
            log.warning("connections did not close cleanly", error=repr(error))
