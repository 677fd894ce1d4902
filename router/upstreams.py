"""The connections to replicas: opened when first needed, closed when no table and no request needs them any more.

A pool belongs to one process of a replica: a restarted one (a new incarnation) gets a new pool, so that no request
waits on the connections of the dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from berth.model import ReplicaAddress
from router.call import OpenUpstream, Upstream, Wire
from router.core.selection import Place

log = structlog.get_logger(__name__)

_CLOSE_TIMEOUT = 5.0


@dataclass(slots=True)
class _Pool:
    upstream: Upstream
    users: int = 0
    retired: bool = False


class Upstreams:
    """Pools by wire and place. Changes are synchronous; `run` owns the closing, which has to wait for sockets."""

    def __init__(self, openers: Mapping[Wire, OpenUpstream]) -> None:
        self._openers = openers
        # A pool is here from its first use until it is retired; then only its users hold it.
        self._pools: dict[tuple[Wire, Place], _Pool] = {}
        self._places: frozenset[Place] = frozenset()
        self._to_close: asyncio.Queue[Upstream] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<Upstreams pools={len(self._pools)} closing={self._to_close.qsize()}>"

    @contextmanager
    def use(self, wire: Wire, address: ReplicaAddress) -> Iterator[Upstream]:
        """The pool of a replica; it stays open while the context is open."""
        place = Place.of(address)
        pool = self._pools.get((wire, place))
        if pool is None:
            # A request resolved by the previous table may come for a place that has just left: used once, then closed.
            pool = _Pool(self._openers[wire](address), retired=place not in self._places)
            if not pool.retired:
                self._pools[wire, place] = pool
        pool.users += 1
        try:
            yield pool.upstream
        finally:
            pool.users -= 1
            if pool.retired and not pool.users:
                self._to_close.put_nowait(pool.upstream)

    def retain(self, places: Collection[Place]) -> None:
        """Retire the pools of all other places."""
        self._places = frozenset(places)
        for key in [key for key in self._pools if key[1] not in self._places]:
            pool = self._pools.pop(key)
            pool.retired = True
            if not pool.users:
                self._to_close.put_nowait(pool.upstream)

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
