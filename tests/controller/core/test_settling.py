"""What is stored of a job's number of replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.states import ScalingMode
from controller.core.autoscaling.scaler import Decision
from controller.core.jobs import JobChange
from controller.core.settling import JobNumbers, settle_replicas, start

MANUAL, BERTH, EXTERNAL = ScalingMode.MANUAL, ScalingMode.BERTH, ScalingMode.EXTERNAL
FIVE = Decision(5, "busy", 2.0)


def numbers(
    mode: ScalingMode = BERTH,
    *,
    from_file: bool = False,
    replicas: int = 2,
    decided: int | None = 2,
    observed: int | None = None,
) -> JobNumbers:
    return JobNumbers("pool", mode, from_file, replicas, decided, observed)


@pytest.mark.parametrize(
    ("job", "decision", "change", "asked"),
    [
        (numbers(), None, None, False),
        (numbers(), Decision(2, "as before"), None, False),
        # Without a workload the job's own number follows the decision, with one it is the workload's.
        (numbers(), FIVE, JobChange(replicas=5, decision=FIVE), True),
        (numbers(observed=2), FIVE, JobChange(decision=FIVE), True),
        (numbers(observed=4, decided=5), None, JobChange(replicas=4), False),
        (numbers(replicas=1), None, JobChange(replicas=2), False),
        # A job of the pools file waits for its workload.
        (numbers(from_file=True), FIVE, JobChange(decision=FIVE), True),
        # HPA or KEDA follows; the cell is not told.
        (numbers(EXTERNAL, observed=2), FIVE, JobChange(decision=FIVE), False),
        (numbers(MANUAL, decided=None, observed=7), None, JobChange(replicas=7), False),
        (numbers(MANUAL, decided=None), None, None, False),
    ],
)
def test_settles(job: JobNumbers, decision: Decision | None, change: JobChange | None, asked: bool) -> None:
    found = settle_replicas(job, decision)
    assert (None if found is None else found.change) == change
    if found is not None:
        assert found.asked is asked
        assert (found.decision, found.before) == (decision, job.decided)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (numbers(decided=3, observed=9), 3),
        (numbers(decided=None, observed=9), 9),
        (numbers(decided=None), 2),
    ],
)
def test_an_autoscaler_starts_from_what_there_is(job: JobNumbers, expected: int) -> None:
    assert start(job) == expected


counts = st.integers(0, 4)


@given(
    st.builds(
        JobNumbers, st.just("pool"), st.sampled_from(ScalingMode), st.booleans(), counts, st.none() | counts,
        st.none() | counts,
    ),
    st.none() | st.builds(Decision, counts, st.just("why")),
)  # fmt: skip
def test_what_was_stored_needs_nothing_more(job: JobNumbers, decision: Decision | None) -> None:
    found = settle_replicas(job, decision)
    members = {} if found is None else found.change.members()
    stored = job._replace(
        replicas=members.get("replicas", job.replicas),
        decided=members["decision"].replicas if "decision" in members else job.decided,
    )
    assert settle_replicas(stored, decision) is None
