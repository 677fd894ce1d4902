"""The worker's side of `WorkerControl`: aspired sets come in, complete reports go out.

Any number of synchronizers may be connected, a deposed one among them. The newest order wins, whoever sends it. The
sender of an older order is told that it is older. Losing all of them changes nothing here; the worker goes on with what
it was told last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from berth.auth.peer import PeerCredential
from berth.errors import InvalidArgument
from berth.model import ReplicaAddress, ReplicaStatus, ServableLoad
from berth.race import first_of
from berth.wake import Wake
from berth.wire.convert import aspired_from_wire, replica_load_to_wire, replica_status_to_wire, servable_load_to_wire
from berth.wire.v1 import common_pb2, worker_pb2, worker_pb2_grpc
from worker.core.lifecycle import Acceptance
from worker.core.loads import Loads
from worker.keeping.keeper import Keeper

log = structlog.get_logger(__name__)

_SIGN_OF_LIFE_S = 1.0
# Changes that come within this time go out in one report...
_COALESCE_S = 0.005
# ... and reports take at most a fifth of the loop: with 20,000 versions one takes 50 ms to write.
_PAUSE_PER_WORK = 4.0


class WorkerControl(worker_pb2_grpc.WorkerControlServicer):
    """Reports what `keeper` holds; `in_flight` counts the requests under way, `loads` sums those that are over."""

    def __init__(self, keeper: Keeper, in_flight: Callable[[], int], loads: Loads) -> None:
        self._keeper = keeper
        self._in_flight = in_flight
        self._loads = loads
        self._address: ReplicaAddress | None = None
        self._draining = False
        # One for each connection: its next report is due.
        self._nudges: set[Wake] = set()
        self._made = common_pb2.ReplicaStatus()
        self._made_at = -1
        self.synchronizers = 0

    def __repr__(self) -> str:
        return f"<WorkerControl synchronizers={self.synchronizers}{' draining' if self._draining else ''}>"

    def announce(self, address: ReplicaAddress) -> None:
        """Open the channel: all ports listen, and this is where."""
        self._address = address

    def drain(self) -> None:
        """Say in every report from now on that this replica is about to go."""
        self._draining = True
        for nudge in self._nudges:
            nudge.up()

    def report(self) -> ReplicaStatus:
        """The complete report at this moment."""
        assert self._address is not None, "nobody can ask before it is announced"
        return ReplicaStatus(
            self._address,
            self._keeper.order,
            self._keeper.statuses(),
            self._keeper.memory_limit,
            self._keeper.memory_used,
            self._in_flight(),
            self._draining,
            self._loads.total,
        )

    async def Sync(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the name is the protocol's
        """One synchronizer, from connect to disconnect."""
        if self._address is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is still starting")
        nudge = Wake()
        session = _Session(nudge)
        self._nudges.add(nudge)
        self.synchronizers += 1
        log.info("synchronizer connected", peer=context.peer(), connected=self.synchronizers)
        try:
            await first_of(
                asyncio.create_task(self._read(request_iterator, session)),
                asyncio.create_task(self._write(context, session)),
                asyncio.create_task(self._watch(session)),
            )
        except InvalidArgument as error:
            session.complaint = str(error)
        finally:
            self._nudges.discard(nudge)
            self.synchronizers -= 1
            log.info("synchronizer disconnected", peer=context.peer(), connected=self.synchronizers)
        if session.complaint:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, session.complaint)

    async def _read(self, requests: AsyncIterator[worker_pb2.AspiredSet], session: _Session) -> None:
        async for message in requests:
            try:
                aspired = aspired_from_wire(message)
            except ValueError as error:  # a format that this release does not know
                raise InvalidArgument(f"the aspired set cannot be read: {error}") from None
            session.refused = self._keeper.aspire(aspired) is Acceptance.REFUSED
            session.nudge.up()

    async def _watch(self, session: _Session) -> None:
        revision = self._keeper.revision
        while True:
            revision = await self._keeper.changed(revision)
            session.nudge.up()

    async def _write(self, context: Any, session: _Session) -> None:
        loop = asyncio.get_running_loop()
        loads_due = loop.time()
        with self._loads.reader() as reader:
            while True:
                # What comes from here on wants a report of its own.
                due_again = session.nudge.waiter()
                started = loop.time()
                # What changes does not wait for the versions' loads, nor do these come with each change.
                due = started >= loads_due
                if due:
                    loads_due = started + _SIGN_OF_LIFE_S
                reply = worker_pb2.SyncReply(
                    status=self._message(reader.collect() if due else ()), refused=session.refused
                )
                worked = loop.time() - started
                await context.write(reply)
                if await due_again.wait(loads_due - loop.time()):
                    await asyncio.sleep(max(_COALESCE_S, _PAUSE_PER_WORK * worked))

    def _message(self, loads: tuple[ServableLoad, ...]) -> common_pb2.ReplicaStatus:
        """The report as a message. Its long part is made once per change, whoever asks."""
        if self._made_at != self._keeper.revision:
            self._made_at = self._keeper.revision
            self._made = replica_status_to_wire(self.report())
            self._loads.retain(self._keeper.lending.held())
        self._made.memory_used = self._keeper.memory_used
        self._made.in_flight = self._in_flight()
        self._made.draining = self._draining
        self._made.load.CopyFrom(replica_load_to_wire(self._loads.total))
        del self._made.loads[:]
        self._made.loads.extend(map(servable_load_to_wire, loads))
        return self._made


@dataclass(slots=True)
class _Session:
    """One connection: what its next report must say, and whether one is due."""

    nudge: Wake
    refused: bool = False
    complaint: str = ""


@asynccontextmanager
async def serve_control(control: WorkerControl, credential: PeerCredential, address: str) -> AsyncIterator[int]:
    """Listen on `host:port` while the context is open, and yield the port. Raises `SettingsError`."""
    server = credential.grpc_server()
    worker_pb2_grpc.add_WorkerControlServicer_to_server(control, server)
    port = credential.add_port(server, address)
    await server.start()
    try:
        yield port
    finally:
        # The streams have no end of their own to wait for.
        await server.stop(grace=None)
