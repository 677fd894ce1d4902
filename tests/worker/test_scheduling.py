"""Runs of a version in this process, by a version that does as the test says: on the loop, watched, or in the pool."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest

from berth.errors import InvalidArgument
from berth.ids import VersionKey
from berth.model import Artifact, Signature, VersionSpec
from berth.resources import Resources
from worker.core.pace import INLINE_BYTES
from worker.runtimes.local import RunStopped
from worker.runtimes.protocol import Array
from worker.scheduling.local import ScheduledRuntime, ScheduledVersion
from worker.scheduling.watchdog import Watchdog

SMALL = {"x": np.zeros(INLINE_BYTES, np.uint8)}
LARGE = {"x": np.zeros(INLINE_BYTES + 1, np.uint8)}
TEXT = {"x": np.array([b"a"], object)}
WAIT_S = 10.0


class StoppableRun:
    """A run that does `work`, and can be waited for and stopped."""

    def __init__(self, work: Callable[[StoppableRun], None]) -> None:
        self._work = work
        self.stopped = threading.Event()
        self.thread = ""

    def compute(self) -> dict[str, Array]:
        self.thread = threading.current_thread().name
        self._work(self)
        if self.stopped.is_set():
            raise RunStopped
        return {"y": np.ones(1)}

    def stop(self) -> None:
        self.stopped.set()


def at_once(_: StoppableRun) -> None:
    """Quick."""


def until_stopped(run: StoppableRun) -> None:
    run.stopped.wait(WAIT_S)


def rejects(_: StoppableRun) -> None:
    raise InvalidArgument("no")


class LocalModel:
    """Implements `LocalVersion` and `LocalRuntime`: one version, whose next runs do what `works` say."""

    signature = Signature((), ())
    on_gpu = False

    def __init__(self, *works: Callable[[StoppableRun], None], warm_s: float = 0.0) -> None:
        self._works = list(works)
        self._warm_s = warm_s
        self.runs: list[StoppableRun] = []
        self.closed = False

    def prepare(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> StoppableRun:
        self.runs.append(StoppableRun(self._works.pop(0) if self._works else at_once))
        return self.runs[-1]

    async def warm_up(self) -> float:
        return self._warm_s

    async def measure(self) -> int:
        return 7

    async def unload(self) -> None:
        """Nothing to free."""

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def load(self, spec: VersionSpec, path: Path) -> LocalModel:
        return self

    async def close(self) -> None:
        self.closed = True


@contextlib.asynccontextmanager
async def warm(model: LocalModel) -> AsyncIterator[ScheduledVersion]:
    runtime = ScheduledRuntime(model, threads=1)
    spec = VersionSpec(VersionKey("acme", "m", 1), Artifact("a" * 64, 10), Resources.host(100))
    loaded = await runtime.load(spec, Path("/nowhere"))
    await loaded.warm_up()
    async with asyncio.timeout(WAIT_S):
        yield loaded
    await runtime.close()
    assert model.closed


async def test_a_quick_version_with_small_inputs_runs_where_it_is_asked() -> None:
    model = LocalModel()
    async with warm(model) as loaded:
        assert loaded.infer_now(SMALL, []) is not None
    assert [run.thread for run in model.runs] == [threading.current_thread().name]


@pytest.mark.parametrize("inputs", [LARGE, TEXT], ids=["too large", "strings, whose size is not known"])
async def test_other_inputs_go_to_the_pool(inputs: dict[str, Array]) -> None:
    model = LocalModel()
    async with warm(model) as loaded:
        assert loaded.infer_now(inputs, []) is None
        assert model.runs == [], "it is not even prepared"
        assert await loaded.infer(inputs, []) == {"y": 1.0}
    assert [run.thread for run in model.runs] == ["infer_0"]


async def test_a_version_that_is_not_quick_runs_in_the_pool_until_it_was_seen_to_be() -> None:
    model = LocalModel(warm_s=1.0)
    async with warm(model) as loaded:
        assert loaded.infer_now(SMALL, []) is None
        begun: list[str] = []
        # However busy the machine is, one of many runs of nothing takes less than 100 µs.
        for _ in range(1000):
            await loaded.infer(SMALL, [], lambda: begun.append(threading.current_thread().name))
            if loaded.infer_now(SMALL, []) is not None:
                break
        assert loaded.infer_now(SMALL, []) is not None
    assert set(begun) == {"infer_0"}, "whoever asks is told when the run begins, where it begins"


async def test_a_run_that_holds_up_the_loop_is_ended_and_begun_again_in_the_pool() -> None:
    model = LocalModel(until_stopped)
    async with warm(model) as loaded:
        assert await loaded.infer(SMALL, []) == {"y": 1.0}
    assert [run.thread for run in model.runs[:2]] == [threading.current_thread().name, "infer_0"]
    assert [run.stopped.is_set() for run in model.runs[:2]] == [True, False]


@pytest.mark.parametrize("inputs", [SMALL, LARGE], ids=["on the loop", "in the pool"])
async def test_what_a_run_raises_is_raised(inputs: dict[str, Array]) -> None:
    async with warm(LocalModel(rejects)) as loaded:
        with pytest.raises(InvalidArgument):
            await loaded.infer(inputs, [])
        assert await loaded.infer(inputs, []) == {"y": 1.0}


async def test_cancelling_stops_the_run_under_way_and_drops_the_one_that_waits() -> None:
    model = LocalModel(until_stopped)
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    async with warm(model) as loaded:

        def started() -> None:
            loop.call_soon_threadsafe(begun.set)

        running = asyncio.create_task(loaded.infer(LARGE, [], started))
        await begun.wait()
        waiting = asyncio.create_task(loaded.infer(LARGE, []))
        await asyncio.sleep(0)
        for task in (waiting, running):
            task.cancel()
        await asyncio.wait([waiting, running])
        assert waiting.cancelled()
        assert running.cancelled()
    first, second = model.runs
    assert first.stopped.is_set()
    assert second.thread == "", "it never began"


def test_the_watchdog_stops_what_is_over_its_time_and_nothing_else() -> None:
    watchdog = Watchdog()
    over, in_time, disarmed = (StoppableRun(at_once) for _ in range(3))
    watchdog.arm(disarmed, 3600.0)
    watchdog.arm(in_time, 3600.0)
    watchdog.disarm(disarmed)
    watchdog.arm(over, 0.0)
    assert over.stopped.wait(WAIT_S)
    assert watchdog.armed == 2
    watchdog.close()
    assert not in_time.stopped.is_set()
