"""Keeps jobs as the pools file has them. The file is read again every few seconds: on Kubernetes it is a ConfigMap.

A file that cannot be read or makes no sense changes nothing: the jobs stay as the last good one left them.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Gauge
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from berth.api.schemas import Name, Scaling
from berth.errors import PreconditionFailed
from berth.states import Runtime, ServiceClass
from controller.core.pools import PoolSpec
from controller.core.scaling import policy_of
from controller.leadership import SoleLeadership
from controller.store.transaction import Transactions, Tx
from controller.usecases import pools
from controller.usecases.pools import PoolsSettled

log = structlog.get_logger(__name__)

EVERY_S = 3.0
_MOST_BYTES = 4 << 20
_LEAST_MEMORY = 1 << 20


class BadPoolsFile(Exception):
    """The file makes no sense. Its text names the pool, the member and what is wrong."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    job: Name
    cell: Name = "local"
    runtime: Runtime = Runtime.ONNXRUNTIME
    hardware: Name | Literal[""] = ""
    memory_per_replica: ByteSize = Field(ge=_LEAST_MEMORY, le=1 << 50)
    service_class: ServiceClass = ServiceClass.PROD
    dedicated_tenant: Name | None = None
    scaling: Scaling | None = None

    def pool(self) -> PoolSpec:
        return PoolSpec(
            job=self.job,
            cell=self.cell,
            runtime=self.runtime,
            hardware=self.hardware or "cpu",
            memory_per_replica=int(self.memory_per_replica),
            service_class=self.service_class,
            dedicated_tenant=self.dedicated_tenant,
            scaling=None if self.scaling is None else policy_of(self.scaling.model_dump()),
        )


def parse(content: bytes) -> tuple[PoolSpec, ...]:
    """The pools of a file `{"pools": [{"job": …}, …]}`. Raises `BadPoolsFile`."""
    if len(content) > _MOST_BYTES:
        raise BadPoolsFile(f"it has more than {_MOST_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadPoolsFile(f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("pools"), list) or len(document) != 1:
        raise BadPoolsFile('it is not {"pools": […]}')
    found: dict[str, PoolSpec] = {}
    for index, raw in enumerate(document["pools"]):
        pool = _parse_one(index, raw)
        if pool.job in found:
            raise BadPoolsFile(f"pool {pool.job!r} is there twice")
        found[pool.job] = pool
    return tuple(found.values())


def _parse_one(index: int, raw: Any) -> PoolSpec:
    name = raw.get("job") if isinstance(raw, dict) else None
    try:
        return _Entry.model_validate(raw).pool()
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'pool'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise BadPoolsFile(f"pool {name!r}: {said}" if isinstance(name, str) else f"pool {index + 1}: {said}") from None


class PoolsFile:
    """`tick` is one look. The last good content is in `_pools`; what is wrong with the newest in `problem`."""

    def __init__(
        self, path: Path, transactions: Transactions, leadership: SoleLeadership, registry: CollectorRegistry
    ) -> None:
        self._path = path
        self._transactions = transactions
        self._leadership = leadership
        self._content: bytes | None = None
        self._pools: tuple[PoolSpec, ...] | None = None
        self._refused: dict[str, str] = {}
        self.problem = ""
        ok = Gauge("berth_pools_file_ok", "Whether the pools file could be read and made sense", registry=registry)
        ok.set_function(lambda: 0.0 if self.problem else 1.0)
        refused = Gauge(
            "berth_pools_refused", "Pools of the file that name a tenant who does not exist", registry=registry
        )
        refused.set_function(lambda: float(len(self._refused)))
        self._conflicts = Gauge(
            "berth_pool_conflicts", "Jobs that cannot be made as the pools file has them", registry=registry
        )

    def __repr__(self) -> str:
        return f"<PoolsFile {self._path} pools={None if self._pools is None else len(self._pools)} {self.problem!r}>"

    async def run(self) -> None:
        """Until cancelled."""
        await self._leadership.repeat(self.tick, EVERY_S)

    async def tick(self) -> None:
        """Read the file, and make jobs match it if this controller is the one to do so."""
        await self._read()
        wanted = self._pools
        if await self._leadership.renew() is None or wanted is None:
            # Whoever tries again will say what is wrong.
            self._refused = {}
            self._conflicts.set(0)
            return
        # Most looks find nothing to do: they must not take the lock.
        if await self._transactions.read(lambda tx: pools.survey(tx, wanted)):
            await self._settle(wanted)
        else:
            self._refused = {}
        self._conflicts.set(await self._transactions.read(pools.count_conflicts))

    async def _settle(self, wanted: tuple[PoolSpec, ...]) -> None:
        async def use_case(tx: Tx) -> PoolsSettled:
            await self._leadership.check(tx)
            return await pools.settle(tx, wanted)

        try:
            outcome = await self._transactions.run(use_case, fleet=True)
        except PreconditionFailed as error:
            log.info("another controller reads the pools file now", reason=error.detail)
            return
        for job, reason in outcome.refused.items():
            if self._refused.get(job) != reason:
                log.error("a pool is refused", pool=job, reason=reason)
        self._refused = outcome.refused

    async def _read(self) -> None:
        try:
            content = await asyncio.to_thread(self._path.read_bytes)
        except OSError as error:
            self._complain(f"it cannot be read: {error.strerror}")
            self._content = None
            return
        if content == self._content:
            return
        self._content = content
        try:
            self._pools = parse(content)
        except BadPoolsFile as error:
            self._complain(str(error))
            return
        self.problem = ""
        log.info("pools file read", pools=len(self._pools))

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.error("the pools file is not used", path=str(self._path), problem=problem)
        self.problem = problem
