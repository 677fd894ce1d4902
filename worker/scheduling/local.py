"""Runs of versions in this process: each on the event loop, watched, or in the pool, as `worker.core.pace` says.

Cancelling a request that waits for the pool drops it; cancelling its run ends that within a millisecond, except inside
a single operator.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from berth.model import Signature, VersionSpec
from berth.settling import settle
from worker.cgroup import cores
from worker.core.pace import INLINE_BYTES, INLINE_LIMIT_S, Pace
from worker.runtimes.local import LocalRuntime, LocalVersion, PreparedRun, RunStopped
from worker.runtimes.protocol import Array, nobody
from worker.scheduling.watchdog import Watchdog
from worker.threads import in_thread

# How long a run that was asked to stop is waited for.
_STOP_S = 1.0


class ScheduledRuntime:
    """Implements `ModelRuntime`: `runtime`, which it closes, and the threads in which its versions run.

    `threads` runs take place at once in the pool; 0: one for each core that this process may use.
    """

    in_container = True
    trouble = None

    def __init__(self, runtime: LocalRuntime, *, threads: int = 0) -> None:
        self._runtime = runtime
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or cores(), thread_name_prefix="infer")
        self._watchdog = Watchdog()

    def __repr__(self) -> str:
        return f"<ScheduledRuntime {self._runtime!r} {self._watchdog!r}>"

    @property
    def on_gpu(self) -> bool:
        return self._runtime.on_gpu

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        return self._runtime.turn(spec)

    async def load(self, spec: VersionSpec, path: Path) -> ScheduledVersion:
        return ScheduledVersion(await self._runtime.load(spec, path), self._pool, self._watchdog)

    async def close(self) -> None:
        """End the threads. Runs under way are waited for: what could end them, cancelling, is their owner's to do."""
        await settle(asyncio.to_thread(self._pool.shutdown))
        await self._runtime.close()
        await settle(asyncio.to_thread(self._watchdog.close))


class ScheduledVersion:
    """Implements `Loaded`: a version, and where its runs take place."""

    def __init__(self, version: LocalVersion, pool: concurrent.futures.Executor, watchdog: Watchdog) -> None:
        self.signature: Signature = version.signature
        self._version = version
        self._pool = pool
        self._watchdog = watchdog
        self._pace = Pace()

    def __repr__(self) -> str:
        return f"<ScheduledVersion {self._version!r} {self._pace!r}>"

    async def warm_up(self) -> float:
        seconds = await self._version.warm_up()
        self._pace.ran_apart(seconds)
        return seconds

    async def measure(self) -> int:
        return await self._version.measure()

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array] | None:
        if not self._pace.inline or not _is_small(inputs):
            return None
        return self._run_inline(self._version.prepare(inputs, outputs))

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        at_once = self.infer_now(inputs, outputs)
        if at_once is not None:
            started()
            return at_once
        run = self._version.prepare(inputs, outputs)

        def timed() -> tuple[dict[str, Array], float]:
            started()
            began = time.monotonic()
            answer = run.compute()
            return answer, time.monotonic() - began

        answer, seconds = await in_thread(self._pool, timed, stop=run.stop, patience=_STOP_S)
        self._pace.ran_apart(seconds)
        return answer

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Never: it is lost with the process only."""

    async def unload(self) -> None:
        await self._version.unload()

    def _run_inline(self, run: PreparedRun) -> dict[str, Array] | None:
        """The outputs, or None if the run was ended for holding up the loop."""
        began, cpu_began = time.monotonic(), time.thread_time()
        self._watchdog.arm(run, INLINE_LIMIT_S)
        try:
            answer = run.compute()
        except RunStopped:
            self._pace.overran(time.thread_time() - cpu_began)
            return None
        finally:
            self._watchdog.disarm(run)
        self._pace.ran_inline(time.monotonic() - began)
        return answer


def _is_small(inputs: Mapping[str, Array]) -> bool:
    """Whether the inputs are few enough for the loop. The size of an array of strings says nothing of theirs."""
    size = 0
    for array in inputs.values():
        if array.dtype.hasobject:
            return False
        size += array.nbytes
    return size <= INLINE_BYTES
