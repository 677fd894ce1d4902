"""Entity tags are the same whichever release of the controller gives them: both answer while one replaces the other."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from berth.resources import Resources
from berth.states import Runtime, ScalingMode, ServiceClass
from controller.api import views
from controller.core.autoscaling.scaler import Decision
from controller.core.quota import Quota
from controller.core.scaling import ScalingPolicy
from controller.store.records import JobRecord, TenantRecord, WorkloadRecord

AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
JOB = JobRecord(
    name="pool",
    cell="local",
    runtime=Runtime.TRITON,
    hardware="cpu",
    replicas=2,
    capacity=Resources.host(1 << 30),
    service_class=ServiceClass.PROD,
    dedicated_tenant=None,
    reserved=Resources.host(77),
    created_at=AT,
    from_file=False,
    scaling_from_file=False,
    file_problem="",
    scaling=ScalingPolicy(),
    wished_replicas=3,
    decision=None,
    decided_at=None,
)
DECIDED = JOB._replace(decision=Decision(5, "why"), decided_at=AT)
WORKLOAD = WorkloadRecord("pool", "local", "deployment/x", 4, 1)
OF_BERTH = ScalingPolicy(ScalingMode.BERTH)


# As computed by the release that had no `proven_at` yet.
@pytest.mark.parametrize(
    ("job", "workload", "etag"),
    [
        (JOB, None, "99b065bf793eac2f9c27b655.e78d7ae930ab71b33a79e569"),
        (JOB, WORKLOAD, "99b065bf793eac2f9c27b655.64cfa02501e67c5102fd77ed"),
        (JOB._replace(scaling=OF_BERTH), None, "bcdd9170fa11d3f04d95ef85.73422ff76214ffb6eb811828"),
        (DECIDED._replace(scaling=OF_BERTH), WORKLOAD, "bcdd9170fa11d3f04d95ef85.eb9b14261acbabb9385134a6"),
    ],
)
def test_tags_of_jobs(job: JobRecord, workload: WorkloadRecord | None, etag: str) -> None:
    assert views.job(job, workload).etag == etag


def test_tags_of_tenants() -> None:
    assert views.tenant(TenantRecord("a", Quota(1, 2, 3.0, 4, 5.0, 6.0), AT)).etag == "92aefb60a1d762cb89d92283"
