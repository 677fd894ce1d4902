from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.states import Runtime, ScalingMode, ServiceClass
from controller.core.pools import Create, Delete, Pool, Stored, Update, compare
from controller.core.scaling import Scaling

POOL = Pool("gpu", "local", Runtime.TRITON, "cpu", 8 << 30, ServiceClass.PROD, None, None)
STORED = Stored(POOL, True, "", 0, 0)
AUTO = Scaling(ScalingMode.BERTH)


@pytest.mark.parametrize(
    ("pools", "stored", "steps"),
    [
        ([], [], []),
        ([POOL], [], [Create(POOL)]),
        ([POOL], [STORED], []),
        ([POOL], [replace(STORED, from_file=False)], [Update("gpu", {"from_file": True}, "", False)]),
        ([], [STORED], [Delete("gpu")]),
        ([], [replace(STORED, from_file=False)], []),
        ([replace(POOL, scaling=AUTO)], [STORED], [Update("gpu", {"scaling": AUTO}, "", False)]),
        ([POOL], [replace(STORED, pool=replace(POOL, scaling=AUTO))], [Update("gpu", {"scaling": None}, "", False)]),
        ([replace(POOL, cell="eu")], [STORED], [Update("gpu", {"cell": "eu"}, "", False)]),
        (
            [replace(POOL, hardware="h100", memory_per_replica=1 << 30)],
            [replace(STORED, assignments=3, reserved_bytes=1 << 20)],
            [Update("gpu", {"hardware": "h100", "memory_per_replica": 1 << 30}, "", False)],
        ),
        ([POOL], [replace(STORED, problem="was bad")], [Update("gpu", {}, "", True)]),
    ],
)
def test_steps(pools: list[Pool], stored: list[Stored], steps: list[object]) -> None:
    assert compare(pools, stored) == steps


def test_what_is_assigned_is_not_moved_or_taken_away() -> None:
    full = replace(STORED, assignments=3, reserved_bytes=5 << 30)
    wanted = replace(POOL, cell="eu", runtime=Runtime.ONNXRUNTIME, memory_per_replica=1 << 30, hardware="h100")
    (step,) = compare([wanted], [full])
    assert isinstance(step, Update)
    assert step.values == {"hardware": "h100"}
    for piece in ("cell stays local instead of eu", "runtime stays triton", "5368709120 bytes are reserved"):
        assert piece in step.problem
    # It is told once.
    told = replace(full, problem=step.problem, pool=replace(full.pool, hardware="h100"))
    assert step.told
    assert compare([wanted], [told]) == []
    (left,) = compare([], [full])
    assert isinstance(left, Update)
    assert "no longer in the pools file, but 3 versions" in left.problem


pools = st.builds(
    Pool,
    st.sampled_from("abc"),
    st.sampled_from(["x", "y"]),
    st.sampled_from(Runtime),
    st.sampled_from(["cpu", "h100"]),
    st.integers(1, 10),
    st.sampled_from(ServiceClass),
    st.sampled_from([None, "t"]),
    st.sampled_from([None, AUTO, Scaling()]),
)
stored = st.builds(Stored, pools, st.booleans(), st.sampled_from(["", "bad"]), st.integers(0, 10), st.integers(0, 2))


@given(st.lists(pools, unique_by=lambda pool: pool.job), st.lists(stored, unique_by=lambda entry: entry.pool.job))
def test_its_own_outcome_needs_nothing_more(wanted: list[Pool], before: list[Stored]) -> None:
    after = {entry.pool.job: entry for entry in before}
    for step in compare(wanted, before):
        match step:
            case Create(pool):
                after[pool.job] = Stored(pool, True, "", 0, 0)
            case Update(job, values, problem, _):
                entry = after[job]
                assert not entry.assignments or not {"cell", "runtime", "dedicated_tenant"} & values.keys()
                fields = {name: value for name, value in values.items() if name != "from_file"}
                after[job] = replace(
                    entry,
                    pool=replace(entry.pool, **fields),
                    problem=problem,
                    from_file=entry.from_file or "from_file" in values,
                )
            case Delete(job):
                assert not after[job].assignments
                del after[job]
    assert compare(wanted, after.values()) == []
