"""One stream to each replica: aspired sets out, reports in.

If a stream breaks, or is silent for longer than a worker may be, its replica is lost at once: routes to it are
withdrawn, and routers send elsewhere what they had sent there. The worker itself may be alive, and keeps serving then.
When the link comes back, its own report says what it holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import structlog

from berth.errors import Unavailable
from berth.model import AspiredSet, ReplicaAddress, ReplicaStatus
from berth.race import first_of
from berth.reconcile import Backoff, Done, Outcome, Repeater, Retry
from berth.wake import Wake
from synchronizer.core.events import CellEvent, Lost, Push, Reported

_RECONNECT = Backoff(first=0.05, most=1.0)

log = structlog.get_logger(__name__)


class WorkerStream(Protocol):
    """Both methods raise `Unavailable` when the stream is broken."""

    async def send(self, aspired: AspiredSet) -> None: ...

    async def receive(self) -> tuple[ReplicaStatus, bool]:
        """The next report, and whether the last set was refused."""


class Workers(Protocol):
    def connect(self, address: ReplicaAddress) -> AbstractAsyncContextManager[WorkerStream]:
        """Open a stream to the replica at `address`; leaving the context closes it."""


class WorkerLinks:
    """The streams to all registered replicas, while this synchronizer leads. Times are in seconds."""

    def __init__(
        self,
        workers: Workers,
        post: Callable[[CellEvent], None],
        *,
        silence: float = 3.0,
        backoff: Backoff = _RECONNECT,
        rng: random.Random | None = None,
    ) -> None:
        self._workers = workers
        self._post = post
        self._silence = silence
        self._backoff = backoff
        self._rng = rng or random.Random()
        self._leading = False
        self._addresses: Mapping[str, ReplicaAddress] = {}
        self._links: dict[str, _Link] = {}
        self._changed = Wake()

    def __repr__(self) -> str:
        live = sum(link.live for link in self._links.values())
        return f"<WorkerLinks leading={self._leading} links={len(self._links)} live={live}>"

    @property
    def live(self) -> int:
        """How many replicas have reported on a stream that is open."""
        return sum(link.live for link in self._links.values())

    def set_addresses(self, addresses: Mapping[str, ReplicaAddress]) -> None:
        self._addresses = addresses
        self._changed.up()

    def lead(self) -> None:
        self._leading = True
        self._changed.up()

    def stand_by(self) -> None:
        """Send nothing more; the streams are closed."""
        self._leading = False
        for link in self._links.values():
            link.drop()
        self._changed.up()

    def send(self, push: Push) -> None:
        """Send a set, instead of one that still waits. Dropped without a stream: a new stream is sent its set anew."""
        link = self._links.get(push.replica)
        if link is not None and link.live and self._leading:
            link.queue(push.aspired)

    async def run(self) -> None:
        """Keep the streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await Repeater(partial(self._look, tasks), wake=self._changed).run()

    async def _look(self, tasks: asyncio.TaskGroup) -> Outcome:
        """End the streams that are not wanted any more, and begin those that are missing."""
        wanted = self._addresses if self._leading else {}
        ended = [name for name, link in self._links.items() if self._has_ended(link, wanted.get(name))]
        for name in ended:
            await self._end(self._links.pop(name))
        for name, address in wanted.items():
            if name not in self._links:
                link = self._links[name] = _Link(address)
                link.task = tasks.create_task(self._keep(link), name=f"worker:{name}")
        return Done()

    def _has_ended(self, link: _Link, wanted: ReplicaAddress | None) -> bool:
        if wanted is None:
            # A worker that leaves withdraws its entry first and still has versions to unload: its stream decides.
            return not self._leading or not link.live
        return wanted != link.address

    async def _end(self, link: _Link) -> None:
        if link.task is not None:
            link.task.cancel()
            await asyncio.wait([link.task])
        self._post(Lost(link.address.replica))

    async def _keep(self, link: _Link) -> None:
        await Repeater(partial(self._visit, link), backoff=self._backoff, rng=self._rng).run()

    async def _visit(self, link: _Link) -> Outcome:
        reason = await self._converse(link)
        was_live, link.live = link.live, False
        if was_live:
            log.info("replica lost", replica=link.address.replica, reason=reason)
        link.drop()
        self._post(Lost(link.address.replica))
        if link.address.replica not in self._addresses:
            self._changed.up()
        return Retry(reason, anew=was_live)

    async def _converse(self, link: _Link) -> str:
        """Hold one stream for as long as it lives, and say why it ended."""
        try:
            async with self._workers.connect(link.address) as stream:
                sending = asyncio.create_task(self._send(link, stream))
                receiving = asyncio.create_task(self._receive(link, stream))
                await first_of(sending, receiving)
        except (Unavailable, TimeoutError) as error:
            return str(error) or "silent for too long"
        return ""

    async def _receive(self, link: _Link, stream: WorkerStream) -> None:
        name = link.address.replica
        opened = True
        while True:
            async with asyncio.timeout(self._silence):
                status, refused = await stream.receive()
            if status.address.replica != name:
                raise Unavailable(f"{status.address.replica} answers at the address of {name}")
            if not link.live:
                log.info("replica connected", replica=name, incarnation=status.address.incarnation)
                link.live = True
            self._post(Reported(status, refused, opened))
            opened = False

    async def _send(self, link: _Link, stream: WorkerStream) -> None:
        filled = link.filled.waiter()
        while True:
            aspired = link.next_to_send()
            if aspired is not None:
                async with asyncio.timeout(self._silence):
                    await stream.send(aspired)
            else:
                await filled.wait()


class _Link:
    """A replica's stream and the one set that waits to be sent on it: a newer set replaces an older one."""

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.task: asyncio.Task[None] | None = None
        self.live = False
        self.filled = Wake()
        self._waiting: AspiredSet | None = None

    def queue(self, aspired: AspiredSet) -> None:
        self._waiting = aspired
        self.filled.up()

    def drop(self) -> None:
        """Send nothing of what waits."""
        self._waiting = None

    def next_to_send(self) -> AspiredSet | None:
        """The set that waits, which waits no more."""
        aspired, self._waiting = self._waiting, None
        return aspired
