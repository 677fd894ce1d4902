from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.resources import Resources
from berth.states import Runtime, ScalingMode, ServiceClass
from controller.core.jobs import JobChange
from controller.core.pools import CreateJob, DeleteJob, PoolSpec, StoredPool, UpdateJob, compare
from controller.core.scaling import ScalingPolicy

POOL = PoolSpec("gpu", "local", Runtime.TRITON, "cpu", 8 << 30, ServiceClass.PROD, None, None)
STORED = StoredPool(POOL, True, "", Resources(), 0)
AUTO = ScalingPolicy(ScalingMode.BERTH)
# Another owner of the number of replicas: the old one has nothing to say any more.
TAKEN = JobChange(scaling=AUTO, scaling_from_file=True, wished_replicas=None, decision=None)
KEPT = JobChange(scaling=AUTO, scaling_from_file=True)
LEFT = JobChange(scaling_from_file=False)
OF_THE_FILE = ("cell", "runtime", "hardware", "memory_per_replica", "service_class", "dedicated_tenant", "scaling")


@pytest.mark.parametrize(
    ("pools", "stored", "steps"),
    [
        ([], [], []),
        ([POOL], [], [CreateJob(POOL)]),
        ([POOL], [STORED], []),
        ([POOL], [replace(STORED, from_file=False)], [UpdateJob("gpu", JobChange(from_file=True), "", False)]),
        ([], [STORED], [DeleteJob("gpu")]),
        ([], [replace(STORED, from_file=False)], []),
        (
            [replace(POOL, scaling=AUTO)],
            [STORED],
            [
                UpdateJob(
                    "gpu",
                    JobChange(scaling=AUTO, scaling_from_file=True, wished_replicas=None, decision=None),
                    "",
                    False,
                )
            ],
        ),
        (
            [POOL],
            [replace(STORED, pool=replace(POOL, scaling=AUTO))],
            [UpdateJob("gpu", LEFT, "", False)],
        ),
        ([replace(POOL, cell="eu")], [STORED], [UpdateJob("gpu", JobChange(cell="eu"), "", False)]),
        (
            [replace(POOL, hardware="h100", memory_per_replica=1 << 30)],
            [replace(STORED, assignments=3, reserved=Resources.host(1 << 20))],
            [UpdateJob("gpu", JobChange(hardware="h100", memory_per_replica=1 << 30), "", False)],
        ),
        ([POOL], [replace(STORED, problem="was bad")], [UpdateJob("gpu", JobChange(), "", True)]),
    ],
)
def test_steps(pools: list[PoolSpec], stored: list[StoredPool], steps: list[object]) -> None:
    assert compare(pools, stored) == steps


def test_what_is_assigned_is_not_moved_or_taken_away() -> None:
    full = replace(STORED, assignments=3, reserved=Resources.host(5 << 30))
    wanted = replace(POOL, cell="eu", runtime=Runtime.ONNXRUNTIME, memory_per_replica=1 << 30, hardware="h100")
    (step,) = compare([wanted], [full])
    assert isinstance(step, UpdateJob)
    assert step.change == JobChange(hardware="h100")
    for piece in ("cell stays local instead of eu", "runtime stays triton", "5368709120 bytes are reserved"):
        assert piece in step.problem
    # It is told once.
    told = replace(full, problem=step.problem, pool=replace(full.pool, hardware="h100"))
    assert step.told
    assert compare([wanted], [told]) == []
    (left,) = compare([], [full])
    assert isinstance(left, UpdateJob)
    assert "no longer in the pools file, but 3 versions" in left.problem


pools = st.builds(
    PoolSpec,
    st.sampled_from("abc"),
    st.sampled_from(["x", "y"]),
    st.sampled_from(Runtime),
    st.sampled_from(["cpu", "h100"]),
    st.integers(1, 10),
    st.sampled_from(ServiceClass),
    st.sampled_from([None, "t"]),
    st.sampled_from([None, AUTO, ScalingPolicy()]),
)
stored = st.builds(
    StoredPool,
    pools,
    st.booleans(),
    st.sampled_from(["", "bad"]),
    st.integers(0, 10).map(Resources.host),
    st.integers(0, 2),
)


@given(st.lists(pools, unique_by=lambda pool: pool.job), st.lists(stored, unique_by=lambda entry: entry.pool.job))
def test_its_own_outcome_needs_nothing_more(wanted: list[PoolSpec], before: list[StoredPool]) -> None:
    after = {entry.pool.job: entry for entry in before}
    for step in compare(wanted, before):
        match step:
            case CreateJob(pool):
                after[pool.job] = StoredPool(pool, True, "", Resources(), 0)
            case UpdateJob(job, change, problem, _):
                entry, values = after[job], change.members()
                assert not entry.assignments or not {"cell", "runtime", "dedicated_tenant"} & values.keys()
                own = {name: values[name] for name in OF_THE_FILE if name in values}
                if values.get("scaling_from_file") is False:
                    own["scaling"] = None
                after[job] = replace(
                    entry,
                    pool=replace(entry.pool, **own),
                    problem=problem,
                    from_file=entry.from_file or "from_file" in values,
                    scaling=values.get("scaling", entry.scaling),
                )
            case DeleteJob(job):
                assert not after[job].assignments
                del after[job]
    assert compare(wanted, after.values()) == []
