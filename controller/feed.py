"""The gRPC service for synchronizers: leases, desired states down, observations up. desired.proto is its contract."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from berth.errors import BerthError, InvalidArgument
from berth.ids import ModelKey, check_name
from berth.wire import convert
from berth.wire.v1 import desired_pb2, desired_pb2_grpc
from controller.desired_hub import DesiredHub
from controller.store import cells
from controller.store.transaction import Transactions, Tx
from controller.usecases import observe, scaling

T = TypeVar("T")

log = structlog.get_logger(__name__)


class DesiredFeed(desired_pb2_grpc.DesiredFeedServicer):
    """`on_change(models)` is called after a report that changed what is known of these models."""

    def __init__(
        self,
        transactions: Transactions,
        hub: DesiredHub,
        on_change: Callable[[set[ModelKey]], None],
        registry: CollectorRegistry,
    ) -> None:
        self._transactions = transactions
        self._hub = hub
        self._on_change = on_change
        self._reports = Counter("berth_observed_reports", "Reports of cells", ["outcome"], registry=registry)
        watchers = Gauge("berth_feed_watchers", "Synchronizers that watch the desired state", registry=registry)
        watchers.set_function(lambda: hub.watchers)
        self._known_cells: set[str] = set()

    async def Lease(  # noqa: N802 — named by the protocol
        self, request: desired_pb2.LeaseRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> desired_pb2.LeaseReply:
        async def use_case(tx: Tx) -> desired_pb2.LeaseReply:
            lease = await observe.lease(tx, request.cell, request.holder, request.ttl_seconds, release=request.release)
            return desired_pb2.LeaseReply(
                granted=lease.granted, epoch=lease.epoch, expires_in_seconds=lease.expires_in_seconds
            )

        return await _answer(context, self._transactions.run(use_case))

    async def WatchDesired(  # noqa: N802
        self, request: desired_pb2.WatchDesiredRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[desired_pb2.DesiredState]:
        await _answer(context, self._ensure_cell(request.cell))
        states = self._hub.watch(request.cell, request.known_generation)
        try:
            async with contextlib.aclosing(states):
                async for state in states:
                    yield state
        except BerthError as error:
            await _abort(context, error)

    async def ReportObserved(  # noqa: N802
        self,
        request_iterator: AsyncIterator[desired_pb2.ObservedCell],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> desired_pb2.ReportSummary:
        count = 0
        generations: dict[str, int] = {}
        async for message in request_iterator:
            try:
                report = convert.observed_from_wire(message)
            except ValueError as error:
                await _abort(context, InvalidArgument(f"the report cannot be read: {error}"))
            changed = await _answer(context, self._store(report))
            # A cell that has acted on a newer generation may have let go of versions without anything else changing.
            if changed or generations.get(report.cell) != report.desired_generation:
                self._on_change(changed)
            generations[report.cell] = report.desired_generation
            count += 1
        return desired_pb2.ReportSummary(reports=count)

    async def _store(self, report: Any) -> set[ModelKey]:
        async def use_case(tx: Tx) -> tuple[set[ModelKey], dict[str, int]]:
            return await observe.report(tx, report), await scaling.granted(tx, report.cell, report.pools)

        try:
            changed, granted = await self._transactions.run(use_case)
            if granted:
                # At once: until it is forgotten, a wish overrules whoever scales the workload next.
                await self._transactions.run(lambda tx: scaling.forget(tx, granted), fleet=True)
        except BerthError:
            self._reports.labels("refused").inc()
            raise
        self._reports.labels("changed" if changed else "same").inc()
        return changed

    async def _ensure_cell(self, cell: str) -> None:
        """A cell exists as soon as someone watches it: it has keys and limits before it has jobs."""
        check_name("cell", cell)
        if cell in self._known_cells or cell in await self._transactions.read(cells.generations):
            self._known_cells.add(cell)
            return
        await self._transactions.run(lambda tx: cells.ensure(tx, cell), fleet=True)
        self._known_cells.add(cell)


async def _answer(context: grpc.aio.ServicerContext[Any, Any], work: Awaitable[T]) -> T:
    try:
        return await work
    except BerthError as error:
        await _abort(context, error)
        raise  # not reached: abort raises


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: BerthError) -> None:
    await context.abort(grpc.StatusCode[error.status.grpc], error.detail)
