"""What operators may change of a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.errors import BerthError, Conflict, InvalidArgument
from berth.resources import Resources
from berth.states import ScalingMode
from controller.core.jobs import JobAsked, JobAsStored, JobChange, change_job
from controller.core.scaling import ScalingPolicy

MANUAL, BERTH = ScalingPolicy(), ScalingPolicy(ScalingMode.BERTH)
JOB = JobAsStored("pool", MANUAL, False, False, Resources.host(100), None)
ON_KUBERNETES = replace(JOB, observed_replicas=3)
OF_FILE = replace(JOB, from_file=True)
TO_BERTH: dict[str, Any] = {"mode": ScalingMode.BERTH}
TO_MANUAL: dict[str, Any] = {"mode": ScalingMode.MANUAL}


@pytest.mark.parametrize(
    ("job", "asked", "change"),
    [
        (JOB, JobAsked(), JobChange()),
        # The number is the job's own, or a wish to whoever has it.
        (JOB, JobAsked(replicas=5), JobChange(replicas=5)),
        (OF_FILE, JobAsked(replicas=5), JobChange(wished_replicas=5)),
        (ON_KUBERNETES, JobAsked(replicas=5), JobChange(wished_replicas=5)),
        (ON_KUBERNETES, JobAsked(replicas=3), JobChange(wished_replicas=None)),  # it has them: no wish
        (JOB, JobAsked(memory_per_replica=100), JobChange(memory_per_replica=100)),
        # A new owner of the number begins without what the old one wished or decided.
        (JOB, JobAsked(scaling=TO_BERTH), JobChange(scaling=BERTH, wished_replicas=None, decision=None)),
        (JOB, JobAsked(scaling={"max_replicas": 7}), JobChange(scaling=replace(MANUAL, max_replicas=7))),
        (
            replace(JOB, scaling=BERTH),
            JobAsked(replicas=4, scaling=TO_MANUAL),
            JobChange(scaling=MANUAL, wished_replicas=None, decision=None, replicas=4),
        ),
        (
            replace(ON_KUBERNETES, scaling=BERTH),
            JobAsked(replicas=4, scaling=TO_MANUAL),
            JobChange(scaling=MANUAL, wished_replicas=4, decision=None),
        ),
    ],
)
def test_changes(job: JobAsStored, asked: JobAsked, change: JobChange) -> None:
    assert change_job(job, asked) == change


@pytest.mark.parametrize(
    ("job", "asked", "error", "says"),
    [
        (JOB, JobAsked(memory_per_replica=99), Conflict, "100 bytes of job 'pool' are reserved"),
        (OF_FILE, JobAsked(memory_per_replica=200), Conflict, "managed by the pools file"),
        (replace(JOB, scaling_from_file=True), JobAsked(scaling=TO_BERTH), Conflict, "managed by the pools file"),
        (replace(JOB, scaling=BERTH), JobAsked(replicas=5), Conflict, "autoscaler decides"),
        (JOB, JobAsked(replicas=5, scaling=TO_BERTH), Conflict, "autoscaler decides"),
        (JOB, JobAsked(scaling={"min_replicas": 11}), InvalidArgument, "min_replicas 11 is more than max_replicas 10"),
    ],
)
def test_refusals(job: JobAsStored, asked: JobAsked, error: type[BerthError], says: str) -> None:
    with pytest.raises(error, match=says):
        change_job(job, asked)


def test_a_change_says_what_it_sets() -> None:
    assert not JobChange()
    assert JobChange(wished_replicas=None).members() == {"wished_replicas": None}
    assert JobChange(wished_replicas=None)
