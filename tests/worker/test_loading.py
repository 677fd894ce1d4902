"""One load, stage by stage: what it reports, and that nothing is left when it fails or is cancelled in any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import Artifact, VersionSpec
from berth.resources import Resources
from doubles.scripted_runtime import Script, ScriptedArtifacts, ScriptedLease, ScriptedRuntime, ScriptedServable
from worker.core.stages import LoadReport, Stage, StageClock, StageFailure
from worker.keeping.loading import LoadOutcome, load, unload
from worker.runtimes.protocol import LoadFailed

T = TypeVar("T")

SPEC = VersionSpec(VersionKey("acme", "m", 1), Artifact("a" * 64, 10), Resources.host(1000))
# Powers of two, so that sums are exact.
SECONDS = {Stage.FETCH: 1.0, Stage.LOAD: 2.0, Stage.WARM: 4.0, Stage.MEASURE: 8.0}
WITHIN = 100.0

pytestmark = pytest.mark.looptime


class Trial(ScriptedRuntime):
    """A runtime and an artifact store, each of whose stages takes its time, and fails if it is the one that should."""

    def __init__(self, failing: Stage | None = None, error: Exception | None = None) -> None:
        super().__init__(default=Script(measured_bytes=700))
        self._failing = failing
        self._error = error
        self.artifacts = ScriptedArtifacts()
        self.reached: list[Stage] = []
        self.turns = 0

    async def stage(self, stage: Stage, work: Callable[[], Awaitable[T]]) -> T:
        self.reached.append(stage)
        await asyncio.sleep(SECONDS[stage])
        if stage is self._failing and self._error is not None:
            raise self._error
        return await work()

    async def obtain(self, artifact: Artifact) -> ScriptedLease:
        return await self.stage(Stage.FETCH, lambda: self.artifacts.obtain(artifact))

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        @contextlib.asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            self.turns += 1
            try:
                yield
            finally:
                self.turns -= 1

        return turn()

    async def load(self, spec: VersionSpec, path: Path) -> TrialServable:
        loaded = await self.stage(Stage.LOAD, lambda: ScriptedRuntime.load(self, spec, path))
        return TrialServable(self, loaded)

    async def run(self, within: float = WITHIN) -> LoadOutcome:
        return await load(self, self, SPEC, within)

    def assert_nothing_is_left(self) -> None:
        assert self.held == {}
        assert self.artifacts.leased == []
        assert not self.loading


class TrialServable(ScriptedServable):
    def __init__(self, trial: Trial, loaded: ScriptedServable) -> None:
        super().__init__(trial, SPEC.key, trial.default)
        self._trial = trial
        trial.held[SPEC.key] = self

    async def warm_up(self) -> float:
        return await self._trial.stage(Stage.WARM, self._quickest)

    async def measure(self) -> int:
        assert self._trial.turns == 1, "nobody else loads meanwhile"
        return await self._trial.stage(Stage.MEASURE, super().measure)

    async def _quickest(self) -> float:
        return 0.25


async def test_every_stage_is_accounted_for() -> None:
    trial = Trial()
    outcome = await trial.run()
    assert outcome.report == LoadReport(
        SECONDS, signature=trial.default.signature, measured_bytes=700, quickest_run_s=0.25
    )
    assert outcome.report.seconds == 15.0
    assert trial.reached == list(Stage)
    assert trial.turns == 0
    assert outcome.held is not None
    await unload(outcome.held, 1.0)
    trial.assert_nothing_is_left()


@pytest.mark.parametrize("failing", Stage)
@pytest.mark.parametrize(
    ("error", "permanent", "words"),
    [
        (LoadFailed("for good", permanent=True), True, "for good"),
        (LoadFailed("for now", permanent=False), False, "for now"),
        (OSError(28, "No space left on device"), False, "stored: No space left"),
        (RuntimeError("nobody thought of this"), False, "internal error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_stage_that_fails_says_so_and_leaves_nothing(
    failing: Stage, error: Exception, permanent: bool, words: str
) -> None:
    trial = Trial(failing, error)
    outcome = await trial.run()
    assert outcome.held is None
    failure = outcome.report.failure
    assert failure is not None
    assert (failure.stage, failure.permanent) == (failing, permanent)
    assert words in failure.reason
    reached = list(Stage)[: list(Stage).index(failing) + 1]
    assert outcome.report.stages == {stage: SECONDS[stage] for stage in reached}
    assert trial.reached == reached
    trial.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("failing", "words"), [(Stage.FETCH, "could not be fetched: the store is away"), (Stage.LOAD, "internal error")]
)
async def test_only_a_fetch_is_the_stores_fault(failing: Stage, words: str) -> None:
    failure = (await Trial(failing, Unavailable("the store is away")).run()).report.failure
    assert failure is not None
    assert words in failure.reason


@pytest.mark.parametrize(
    ("within", "stage"), [(0.5, Stage.FETCH), (2, Stage.LOAD), (6, Stage.WARM), (14, Stage.MEASURE)]
)
async def test_time_runs_out_in_any_stage(within: float, stage: Stage) -> None:
    trial = Trial()
    outcome = await trial.run(within)
    assert outcome.report.failure == StageFailure(stage, f"loading took longer than {within:g} s")
    assert outcome.report.seconds == within
    trial.assert_nothing_is_left()


@pytest.mark.parametrize("after", [0.5, 2.0, 6.0, 14.0])
async def test_cancelled_in_any_stage_it_leaves_nothing(after: float) -> None:
    trial = Trial()
    task = asyncio.create_task(trial.run())
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    trial.assert_nothing_is_left()
    assert trial.turns == 0


async def test_an_unload_that_fails_still_gives_the_artifact_back() -> None:
    trial = Trial()
    trial.default.unload_error = RuntimeError("no")
    outcome = await trial.run()
    assert outcome.held is not None
    await unload(outcome.held, 1.0)
    trial.assert_nothing_is_left()


@given(st.lists(st.tuples(st.sampled_from(Stage), st.integers(0, 1000))), st.integers(0, 1000))
def test_the_stages_add_up_to_the_time_that_passed(steps: list[tuple[Stage, int]], last: int) -> None:
    now = 5
    clock = StageClock(float(now))
    for stage, seconds in steps:
        now += seconds
        clock.enter(stage, float(now))
    stages = clock.stages(float(now + last))
    assert sum(stages.values()) == now + last - 5
    assert set(stages) == {Stage.FETCH, *(stage for stage, _ in steps)}
