"""Replicas by the pods of the cell's workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import structlog

from synchronizer.cluster.reflector import Reflector
from synchronizer.core.events import Discovered
from synchronizer.core.pods import Pod

log = structlog.get_logger(__name__)


class KubernetesDiscovery:
    """`Discovery` over a reflector of pods. While the API is away, what was known stays known."""

    def __init__(self, pods: Reflector[Pod]) -> None:
        self._pods = pods
        self._faults: dict[str, str] = {}

    async def watch(self) -> AsyncIterator[Discovered]:
        """The complete set, and which of them leave: a pod that is being deleted is there until it is gone."""
        known: Discovered | None = None
        async for pods in self._pods.watch():
            self._complain(pods)
            addresses = {name: pod.address for name, pod in pods.items() if pod.address is not None}
            found = Discovered(addresses, frozenset(name for name in addresses if pods[name].leaving))
            if found != known:
                known = found
                yield found

    def _complain(self, pods: Mapping[str, Pod]) -> None:
        faults = {name: pod.fault for name, pod in pods.items() if pod.fault}
        for name, fault in faults.items():
            if self._faults.get(name) != fault:
                log.error("pod cannot be a replica", pod=name, reason=fault)
        self._faults = faults
