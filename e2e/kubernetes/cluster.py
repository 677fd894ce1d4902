"""The clusters that the scenarios run on: the fake API server, a control plane of our own, or one that
KUBECONFIG names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from doubles.kubernetes.server import FakeKubernetes
from e2e.kubernetes.api import Api
from e2e.kubernetes.container import now
from e2e.kubernetes.controlplane.plane import ControlPlane

_LOST_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, and what only its kind can do."""

    kind: str
    """fake, real or given."""
    kubeconfig: Path
    api: Api
    fake: FakeKubernetes | None = None
    plane: ControlPlane | None = None

    def notice_loss(self, node: str) -> None:
        """A node's heartbeats have ended. Kubernetes notices by itself, after a while; the fake one is told."""
        if self.fake is None:
            return
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": now()}
        self.fake.patch("Node", "", node, {"status": {"conditions": [unknown]}}, "status")

    @asynccontextmanager
    async def api_server_away(self) -> AsyncIterator[None]:
        """The API server answers nobody while the context is open."""
        if self.fake is not None:
            self.fake.fault("status", code=503, times=0)
            self.fake.reset_watches()
            try:
                yield
            finally:
                self.fake.faults.clear()
        else:
            assert self.plane is not None, "somebody else's API server is not ours to stop"
            self.plane.halt("kube-apiserver")
            try:
                yield
            finally:
                self.plane.launch("kube-apiserver")
                await asyncio.to_thread(self.plane.wait_ready)


@asynccontextmanager
async def fake_cluster(folder: Path) -> AsyncIterator[FakeKubernetes]:
    """An API server of our own with the controllers that make pods; RBAC is enforced for whoever brings a token."""
    async with FakeKubernetes(workloads=True, lost_after_s=_LOST_AFTER_S, enforce_rbac=True) as fake:
        fake.kubeconfig(folder / "kubeconfig")
        yield fake
