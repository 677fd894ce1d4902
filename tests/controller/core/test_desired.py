from __future__ import annotations

import random

from berth.ids import ModelKey, VersionKey
from berth.model import (
    ApiKey,
    Artifact,
    DesiredJob,
    DesiredModel,
    DesiredState,
    Serving,
    TenantLimits,
    VersionSpec,
)
from berth.resources import Resources
from berth.states import Role, Runtime
from berth.wire.convert import desired_from_wire, desired_to_wire
from controller.core.desired import AssignmentRow, ElsewhereRow, JobRow, ModelRow, build

ARTIFACT = Artifact("ab" * 32, 10)
host = Resources.host
V1, V2, V3 = (VersionKey("t", "m", number) for number in (1, 2, 3))
JOBS = [
    JobRow("b", "local", Runtime.TRITON),
    JobRow("a", "local", Runtime.ONNXRUNTIME),
    JobRow("c", "eu", Runtime.TRITON),
]
ASSIGNMENTS = [
    AssignmentRow(V2, "a", ARTIFACT, host(5), False),
    AssignmentRow(V1, "a", ARTIFACT, host(6), False),
    AssignmentRow(V3, "a", ARTIFACT, host(7), True),
    AssignmentRow(V3, "c", ARTIFACT, host(8), False),
]
MODELS = [
    ModelRow(ModelKey("t", "m"), Serving.only(2, {"stable": 1, "canary": 2})),
    ModelRow(ModelKey("s", "m"), Serving()),
]
KEYS = [ApiKey(b"b" * 32, "t", Role.VIEWER), ApiKey(b"a" * 32, "", Role.ADMIN)]
LIMITS = [TenantLimits("t", 5.0), TenantLimits("s")]
ELSEWHERE = [
    ElsewhereRow(V3, "eu"),
    ElsewhereRow(V1, "eu"),
    ElsewhereRow(V3, "asia"),
    # Of a model that has been deleted: its name resolves nowhere.
    ElsewhereRow(VersionKey("t", "gone", 1), "eu"),
]

EXPECTED = DesiredState(
    cell="local",
    generation=9,
    jobs=(
        DesiredJob(
            "a",
            Runtime.ONNXRUNTIME,
            (VersionSpec(V1, ARTIFACT, host(6)), VersionSpec(V2, ARTIFACT, host(5))),
        ),
        DesiredJob("b", Runtime.TRITON, ()),
    ),
    models=(
        DesiredModel(ModelKey("s", "m")),
        DesiredModel(
            ModelKey("t", "m"), Serving.only(2, {"canary": 2, "stable": 1}), elsewhere={1: ("eu",), 3: ("asia", "eu")}
        ),
    ),
    keys=(KEYS[1], KEYS[0]),
    limits=(LIMITS[1], LIMITS[0]),
)


def test_builds_the_cell_whatever_the_order_of_rows() -> None:
    rng = random.Random(7)
    for _ in range(20):
        built = build(
            "local",
            9,
            jobs=rng.sample(JOBS, len(JOBS)),
            assignments=rng.sample(ASSIGNMENTS, len(ASSIGNMENTS)),
            models=rng.sample(MODELS, len(MODELS)),
            keys=rng.sample(KEYS, len(KEYS)),
            limits=rng.sample(LIMITS, len(LIMITS)),
            elsewhere=rng.sample(ELSEWHERE, len(ELSEWHERE)),
        )
        assert built == EXPECTED
        assert list(built.models[1].serving.labels) == ["canary", "stable"]
        assert desired_from_wire(desired_to_wire(built)) == EXPECTED


def test_another_cell_gets_its_own_jobs() -> None:
    built = build("eu", 1, jobs=JOBS, assignments=ASSIGNMENTS, models=[], keys=[], limits=[])
    assert built.jobs == (DesiredJob("c", Runtime.TRITON, (VersionSpec(V3, ARTIFACT, host(8)),)),)
