"""One container as a process: started, probed, started again when it ends, ended with grace."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from e2e.kubernetes.api import Object
from e2e.kubernetes.pod_spec import Command, NotYet
from e2e.kubernetes.probes import Probe
from e2e.kubernetes.tether import tethered

log = structlog.get_logger(__name__)

# Kubernetes waits 10 s to 5 min; what a test wants to see is that it comes back.
_FIRST_BACK_OFF_S = 0.2
_LONGEST_BACK_OFF_S = 5.0


@dataclass(slots=True)
class Container:
    """The state of one container of a pod. `make` builds its command anew for each start and may raise `NotYet`."""

    spec: Object
    address: str
    folder: Path
    log_file: Path
    policy: str
    """The pod's restartPolicy, or Always for a sidecar."""
    make: Callable[[], Command]
    changed: Callable[[], None]
    ready: bool = False
    started: bool = False
    restarts: int = 0
    exit_code: int | None = None
    waiting: str = "ContainerCreating"
    since: str = ""
    _process: asyncio.subprocess.Process | None = None
    _environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def done(self) -> bool:
        """Whether it has ended and will not be started again."""
        return self.exit_code is not None and not self._restartable(self.exit_code)

    async def wait_started(self) -> None:
        """Return when its start-up probe was content, or when it is to leave."""
        await self._up.wait()

    async def run(self) -> None:
        """Keep it running as its policy says; returns when it is not to run any more."""
        back_off = _FIRST_BACK_OFF_S
        while not self._leaving.is_set():
            try:
                code = await self._live()
            except NotYet as reason:
                self.waiting = f"CreateContainerConfigError: {reason}"
                self.changed()
            else:
                self.ready = self.started = False
                self.exit_code, self.waiting, self.since = code, "CrashLoopBackOff", now()
                self.changed()
                if self._leaving.is_set() or not self._restartable(code):
                    return
                self.restarts += 1
                log.info("container ended", container=self.name, code=code, restarts=self.restarts)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(back_off):
                    await self._leaving.wait()
            back_off = min(2 * back_off, _LONGEST_BACK_OFF_S)

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when `grace_s` is over. Returns when the process is gone."""
        self._leaving.set()
        self._up.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._before_stop()
                self.signal(signal.SIGTERM)
                await process.wait()
        except TimeoutError:
            log.warning("killed after its grace", container=self.name, address=self.address)
            self.signal(signal.SIGKILL)
            await process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def reap(self) -> None:
        """Wait for the end of a process that was killed."""
        if self._process is not None:
            await self._process.wait()

    async def execute(self, command: list[str]) -> int:
        """Run a command in the container's environment."""
        with self.log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *tethered(command), env=dict(self._environ), cwd=self.folder, stdout=output, stderr=output
            )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    def status(self) -> Object:
        """Its entry in the pod's status."""
        ended = {
            "exitCode": self.exit_code,
            "finishedAt": self.since,
            "reason": "Error" if self.exit_code else "Completed",
        }
        if self.pid is not None:
            state: Object = {"running": {"startedAt": self.since}}
        elif self.done or (self._leaving.is_set() and self.exit_code is not None):
            state = {"terminated": ended}
        else:
            reason, _, message = self.waiting.partition(": ")
            state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        last = {"lastState": {"terminated": ended}} if self.restarts and self.exit_code is not None else {}
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            **last,
        }

    async def _live(self) -> int:
        """One life of the process, and its exit code: 128 and the number where a signal ended it."""
        command = self.make()
        self._environ = command.environ
        with self.log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *tethered(command.argv),
                env=command.environ,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._process, self.since = process, now()
        self._set_started("startupProbe" not in self.spec)
        self.ready = self.started and "readinessProbe" not in self.spec
        self.changed()
        probes = asyncio.create_task(self._probe())
        try:
            code = await process.wait()
        finally:
            probes.cancel()
            await asyncio.gather(probes, return_exceptions=True)
        return code if code >= 0 else 128 - code

    async def _probe(self) -> None:
        if "startupProbe" in self.spec:
            await self._start_up()
        async with asyncio.TaskGroup() as tasks:
            if "readinessProbe" in self.spec:
                watching = self._look("readinessProbe").watch(self._set_ready, eager=lambda: not self.ready)
                tasks.create_task(watching)
            if "livenessProbe" in self.spec:
                tasks.create_task(self._look("livenessProbe").watch(self._live_or_die, eager=lambda: False))

    async def _start_up(self) -> None:
        decided = asyncio.Event()

        def say(well: bool) -> None:
            self._set_started(well)
            if not well:
                self._live_or_die(False)
            decided.set()

        watching = asyncio.create_task(self._look("startupProbe").watch(say, eager=lambda: True))
        try:
            await decided.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self.ready = "readinessProbe" not in self.spec
        self.changed()

    def _set_started(self, started: bool) -> None:
        self.started = started
        if started:
            self._up.set()

    def _look(self, kind: str) -> Probe:
        return Probe(self.spec[kind], self.spec, self.address, self.execute)

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self.changed()

    def _live_or_die(self, alive: bool) -> None:
        if not alive and not self._leaving.is_set():
            log.warning("killed by a probe", container=self.name, address=self.address)
            self.signal(signal.SIGTERM)

    async def _before_stop(self) -> None:
        action = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        if "sleep" in action:
            await asyncio.sleep(float(action["sleep"]["seconds"]))
        elif action:
            await Probe({**action, "timeoutSeconds": 3600}, self.spec, self.address, self.execute).ask()

    def _restartable(self, code: int) -> bool:
        return self.policy == "Always" or (self.policy == "OnFailure" and code != 0)


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
