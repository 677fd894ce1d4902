"""One pod on a fake node: volumes, containers, status, and its end, from the object that the API server has."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import structlog
import yaml

from e2e.kubernetes.api import Api, Object, Refused, key_of
from e2e.kubernetes.container import Container, now
from e2e.kubernetes.names import Resolve
from e2e.kubernetes.pod_spec import Command, NotYet, Sources, command_of, mounts_of
from e2e.kubernetes.volumes import materialise, refresh

log = structlog.get_logger(__name__)

_TRY_AGAIN_S = 0.5
_LONGEST_TRY_AGAIN_S = 2.0


@dataclass(slots=True)
class PodRun:
    """A pod from its arrival at the node to its end. `address` is its IP, `host` its node's."""

    api: Api
    pod: Object
    address: str
    host: str
    root: Path
    sources: Callable[[str], Sources]
    """Config maps and secrets of a namespace, as of now."""
    resolve: Resolve
    ready_at: float | None = None
    """When it was last found ready, on time.monotonic()'s clock."""
    containers: list[Container] = field(default_factory=list)
    _init: list[Container] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _volumes: dict[str, Path] = field(default_factory=dict)
    _account: dict[str, str] = field(default_factory=dict, repr=False)
    _failed: bool = False
    _began: str = field(default_factory=now)

    @property
    def name(self) -> str:
        return key_of(self.pod)[1]

    @property
    def namespace(self) -> str:
        return key_of(self.pod)[0]

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def ready(self) -> bool:
        return bool(self.containers) and all(each.ready for each in self.containers)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by container, of those that run."""
        return {each.name: each.pid for each in (*self._init, *self.containers) if each.pid is not None}

    @property
    def folder(self) -> Path:
        return self.root / "pods" / f"{self.name}-{self.uid[:8]}"

    def observe(self, pod: Object | None) -> None:
        """What the API server has of this pod now; None: nothing any more."""
        if pod is None:
            self._gone.set()
            self._leaving.set()
            return
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._leaving.set()
        if _says_ready(pod) != self.ready:
            # Somebody else wrote it: the control plane says of pods whose node was silent that they are not ready.
            self._changed.set()

    def refresh(self) -> None:
        """Bring mounted config maps and secrets up to date."""
        if self._volumes:
            refresh(self.pod, self.folder / "volumes", self.sources(self.namespace))

    def kill(self) -> None:
        """SIGKILL to every process, as when the node is lost."""
        for container in (*self._init, *self.containers):
            container.signal(signal.SIGKILL)

    async def run(self) -> None:
        """Run until the pod is over and the API server knows it. Cancelled: its processes are killed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._report()), tasks.create_task(self._kill_when_gone())]
                ending = tasks.create_task(self._end_when_asked())
                await self._live()
                # Completed by itself, it stays until someone deletes it.
                await ending
                for task in beside:
                    task.cancel()
            await self._persist(self._tell)
            await self._persist(self._remove)
        finally:
            self.kill()
            await asyncio.gather(*(each.reap() for each in (*self._init, *self.containers)))

    # --- processes --------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Volumes, init containers in order, then all containers until they are over; sidecars as long as these."""
        await self._prepare()
        spec = self.pod["spec"]
        async with asyncio.TaskGroup() as sidecars:
            for each in spec.get("initContainers") or ():
                if not self._leaving.is_set() and not self._failed:
                    await self._initialise(each, sidecars)
            if not self._leaving.is_set() and not self._failed:
                policy = spec.get("restartPolicy", "Always")
                self.containers = [self._container(each, policy) for each in spec["containers"]]
                async with asyncio.TaskGroup() as mains:
                    for container in self.containers:
                        mains.create_task(container.run())
            for container in reversed(self._init):
                await container.stop(self._grace())

    async def _initialise(self, spec: Object, sidecars: asyncio.TaskGroup) -> None:
        sidecar = spec.get("restartPolicy") == "Always"
        ordinary = "Never" if self.pod["spec"].get("restartPolicy") == "Never" else "OnFailure"
        container = self._container(spec, "Always" if sidecar else ordinary)
        self._init.append(container)
        if sidecar:
            sidecars.create_task(container.run())
            await container.wait_started()
        else:
            await container.run()
            self._failed = container.exit_code != 0

    async def _end_when_asked(self) -> None:
        """End the containers in the grace that the deletion gives; sidecars after the others."""
        await self._leaving.wait()
        deadline = time.monotonic() + self._grace()
        async with asyncio.TaskGroup() as tasks:
            for container in self.containers:
                tasks.create_task(container.stop(max(0.0, deadline - time.monotonic())))
        for container in reversed(self._init):
            await container.stop(max(0.0, deadline - time.monotonic()))

    async def _kill_when_gone(self) -> None:
        await self._gone.wait()
        self.kill()

    def _grace(self) -> float:
        default = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(self.pod["metadata"].get("deletionGracePeriodSeconds", default))

    async def _prepare(self) -> None:
        """Volumes and credentials, tried again until all is there."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        claims = self.root / "claims" / self.namespace
        self._changed.set()
        while not self._leaving.is_set():
            try:
                sources = self.sources(self.namespace)
                self._volumes = await materialise(self.pod, self.folder / "volumes", claims, sources, self._token)
                self._account = await self._service_account()
            except (NotYet, Refused, aiohttp.ClientError, TimeoutError) as reason:
                log.info("pod waits", pod=self.name, reason=str(reason))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TRY_AGAIN_S):
                        await self._leaving.wait()
            else:
                return

    async def _service_account(self) -> dict[str, str]:
        """Variables that stand for the credentials in a container: those lie at a path that no process here has."""
        if self.pod["spec"].get("automountServiceAccountToken") is False:
            return {}
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(self.api.access.document(await self._token(""), self.namespace)))
        path.chmod(0o600)
        return {
            "KUBECONFIG": str(path),
            "BERTH_KUBERNETES_CONFIG": str(path),
            "BERTH_KUBERNETES_NAMESPACE": self.namespace,
        }

    async def _token(self, audience: str) -> str:
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}
        asked: Object = {
            "expirationSeconds": 3600,
            "boundObjectRef": bound,
            "audiences": [audience] if audience else [],
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
        account = self.pod["spec"].get("serviceAccountName") or "default"
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        return str((await self.api.create(path, request))["status"]["token"])

    def _container(self, spec: Object, policy: str) -> Container:
        mounts = mounts_of(spec, self._volumes)
        for path in mounts.values():
            if not path.is_file():
                path.mkdir(parents=True, exist_ok=True)

        def make() -> Command:
            addresses = {"podIP": self.address, "hostIP": self.host}
            pod = {**self.pod, "status": {**(self.pod.get("status") or {}), **addresses}}
            command = command_of(spec, pod, self.sources(self.namespace), mounts, self.resolve)
            return Command(command.argv, {"HOME": str(self.folder), **self._account, **command.environ})

        log_file = self.folder / "logs" / f"{spec['name']}.log"
        return Container(spec, self.address, self.folder, log_file, policy, make, self._changed.set)

    # --- status -----------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        """Tell the API server of each change, one at a time."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._persist(self._tell)

    async def _tell(self) -> None:
        if self.ready and self.ready_at is None:
            self.ready_at = time.monotonic()
        elif not self.ready:
            self.ready_at = None
        await self.api.patch(f"{self._path}/status", {"status": self._status()})

    async def _remove(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        await self.api.delete(self._path, {"apiVersion": "v1", "kind": "DeleteOptions", **body})

    async def _persist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a request until it is answered: the API server may be away for a while."""
        for attempt in itertools.count(1):
            try:
                return await step()
            except Refused as refusal:
                if refusal.code in (404, 409):
                    return None  # another pod has the name by now, or none has
                log.warning("refused", pod=self.name, error=str(refusal))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.debug("API server is away", pod=self.name, error=str(error))
            await asyncio.sleep(min(_TRY_AGAIN_S * attempt, _LONGEST_TRY_AGAIN_S))
        return None

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def _status(self) -> Object:
        initialised = bool(self.containers) or not self.pod["spec"].get("initContainers")
        verdicts = {"Initialized": initialised, "ContainersReady": self.ready, "Ready": self.ready}
        present = {each["type"]: each for each in (self.pod.get("status") or {}).get("conditions") or ()}
        conditions = {
            **present,
            **{kind: _condition(kind, value, present.get(kind)) for kind, value in verdicts.items()},
        }
        return {
            "phase": self._phase(),
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": self.host,
            "startTime": self._began,
            "conditions": list(conditions.values()),
            "containerStatuses": [each.status() for each in self.containers],
            "initContainerStatuses": [each.status() for each in self._init],
        }

    def _phase(self) -> str:
        over = bool(self.containers) and all(each.done for each in self.containers)
        if self._leaving.is_set():
            over = not self.pids
        if self._failed or (over and any(each.exit_code for each in self.containers)):
            return "Failed"
        if over and self.containers:
            return "Succeeded"
        return "Running" if any(each.pid or each.restarts for each in self.containers) else "Pending"


def _says_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _condition(kind: str, value: bool, before: Object | None) -> Object:
    """A condition; the time of its last transition stays while its status does."""
    status = str(value)
    since = before["lastTransitionTime"] if before and before["status"] == status else now()
    return {"type": kind, "status": status, "lastTransitionTime": since}
