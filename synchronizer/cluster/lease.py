"""The lease of the cell as a Lease of coordination.k8s.io, with the same answers as a controller's.

For a cell whose controllers are far away: who leads is then decided inside the cluster. Every write is based on the
version that was read, so of two candidates the API lets one through.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from berth.errors import Unavailable
from synchronizer.cluster.api import ApiFailure, KubernetesApi
from synchronizer.core.tenure import CreateRecord, HoldRecord, Record, Tenure, WaitForHolder
from synchronizer.surroundings.ports import Lease

log = structlog.get_logger(__name__)

_TRIES = 3
_DNS_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")
_DIGITS = 10


class EpochFile(Protocol):
    """The highest epoch seen, on disk. Writing raises OSError."""

    async def read_epoch(self) -> int: ...

    async def write_epoch(self, epoch: int) -> None: ...


def lease_name(cell: str) -> str:
    """The Lease of `cell`, and of no other. Objects have DNS names: a cell whose name is none gets its digest appended.

    The chart takes only cells whose names are, and names the same Lease in its Role.
    """
    if _DNS_NAME.fullmatch(cell):
        return f"berth-synchronizer-{cell}"
    digest = hashlib.sha256(cell.encode()).hexdigest()[:_DIGITS]
    return f"berth-synchronizer-{re.sub('[^a-z0-9-]', '-', cell)}-{digest}"


class KubernetesLease:
    """`floor` gives the highest epoch known outside the Lease: a new one must be above it."""

    def __init__(
        self, api: KubernetesApi, namespace: str, disk: EpochFile, floor: Callable[[], Awaitable[int]]
    ) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._disk = disk
        self._floor = floor
        self._tenure: Tenure | None = None
        self._kept = 0
        # The object as it was read or written last; None if it is not there, or may have changed since.
        self._raw: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<KubernetesLease {self._tenure!r}>"

    async def lease(self, cell: str, holder: str, ttl: float, *, release: bool, timeout: float) -> Lease:
        """Acquire, renew or release. Raises `Unavailable` when the API does not answer in time."""
        try:
            async with asyncio.timeout(timeout):
                tenure = await self._seen(cell, anew=not self._is_mine(holder))
                if release:
                    return await self._release(cell, holder, tenure)
                return await self._ask(cell, holder, ttl, tenure)
        except TimeoutError:
            self._raw = None
            raise Unavailable("the Lease: no answer in time") from None

    async def _ask(self, cell: str, holder: str, ttl: float, tenure: Tenure) -> Lease:
        for _ in range(_TRIES):
            step = tenure.next_step(holder, 0, _now())
            if not isinstance(step, WaitForHolder) and not self._is_mine(holder):
                # It begins a new epoch: only now it matters what the rest of the world has seen.
                step = tenure.next_step(holder, await self._floor(), _now())
            if isinstance(step, WaitForHolder):
                return Lease(False, step.epoch, step.left)
            if await self._write(cell, holder, ttl, step, tenure):
                return Lease(True, step.epoch, ttl)
            tenure = await self._seen(cell, anew=True)
        raise Unavailable("the Lease: others write to it all the time")

    async def _release(self, cell: str, holder: str, tenure: Tenure) -> Lease:
        if self._is_mine(holder) and self._raw is not None:
            spec = {**self._raw["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _stamp()}
            await self._put(cell, {**self._raw, "spec": spec}, tenure)
        return Lease(False, tenure.known, 0.0)

    async def _write(self, cell: str, holder: str, ttl: float, step: CreateRecord | HoldRecord, tenure: Tenure) -> bool:
        """Write ourselves in; False if the record is not what we thought any more."""
        stamp = _stamp()
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            # Whole seconds: rounded up, so that others wait for at least as long as we count on it.
            "leaseDurationSeconds": max(1, math.ceil(ttl)),
            "leaseTransitions": step.epoch,
            "renewTime": stamp,
        }
        if isinstance(step, CreateRecord):
            metadata = {"name": lease_name(cell), "labels": {"app.kubernetes.io/name": "berth"}}
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": {**spec, "acquireTime": stamp},
            }
            done = await self._attempt("POST", self._folder, lease, tenure)
        else:
            raw = self._raw or {}
            before = raw.get("spec") or {}
            acquired = before.get("acquireTime") if self._is_mine(holder) else stamp
            spec = {**before, **spec, "acquireTime": acquired or stamp}
            done = await self._put(cell, {**raw, "spec": spec}, tenure)
        if done and not await self._remember(tenure):
            log.warning("the epoch could not be kept on disk", epoch=step.epoch)
        return done

    async def _put(self, cell: str, lease: dict[str, Any], tenure: Tenure) -> bool:
        return await self._attempt("PUT", f"{self._folder}/{lease_name(cell)}", lease, tenure)

    async def _attempt(self, method: str, path: str, lease: dict[str, Any], tenure: Tenure) -> bool:
        # Whether a write that is not answered was done, only reading shows.
        self._raw = None
        try:
            raw = await self._api.call(method, path, body=lease)
        except ApiFailure as error:
            if error.code in (404, 409):
                return False
            raise
        self._see(raw, tenure)
        return True

    async def _seen(self, cell: str, *, anew: bool) -> Tenure:
        """What is known of the record; `anew` reads it first."""
        if self._tenure is None:
            self._tenure = Tenure(await self._disk.read_epoch())
            self._kept = self._tenure.known
        if anew or self._raw is None:
            try:
                self._see(await self._api.call("GET", f"{self._folder}/{lease_name(cell)}"), self._tenure)
            except ApiFailure as error:
                if error.code != 404:
                    raise
                self._see(None, self._tenure)
        return self._tenure

    def _see(self, raw: dict[str, Any] | None, tenure: Tenure) -> None:
        self._raw = raw
        tenure.see(None if raw is None else _record(raw), _now())

    def _is_mine(self, holder: str) -> bool:
        return self._raw is not None and (self._raw.get("spec") or {}).get("holderIdentity") == holder

    async def _remember(self, tenure: Tenure) -> bool:
        if tenure.known > self._kept:
            try:
                await self._disk.write_epoch(tenure.known)
            except OSError:
                return False
            self._kept = tenure.known
        return True


def _record(raw: Mapping[str, Any]) -> Record:
    spec, metadata = raw.get("spec") or {}, raw.get("metadata") or {}
    return Record(
        holder=str(spec.get("holderIdentity") or ""),
        epoch=int(spec.get("leaseTransitions") or 0),
        lasts=float(spec.get("leaseDurationSeconds") or 0),
        renewed=str(spec.get("renewTime") or ""),
        version=str(metadata.get("resourceVersion") or ""),
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
