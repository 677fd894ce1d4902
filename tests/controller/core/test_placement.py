from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.resources import HOST, Resources
from berth.states import ArtifactFormat, Runtime, ServiceClass
from controller.core.placement import JobRoom, Need, Placed, PlacementRefused, mismatch, place

host = Resources.host
JOB = JobRoom("a", "local", Runtime.ONNXRUNTIME, "cpu", ServiceClass.PROD, None, 1, host(1_000), Resources())
TRITON = replace(JOB, runtime=Runtime.TRITON, capacity=host(1 << 30))
NEED = Need("t", host(100), ArtifactFormat.ONNX)


@pytest.mark.parametrize(
    ("fleet", "need", "chosen"),
    [
        ([JOB], NEED, "a"),
        ([replace(JOB, reserved=host(900))], NEED, "a"),  # exactly full afterwards
        ([JOB, replace(JOB, name="b", reserved=host(500))], NEED, "b"),  # best fit
        ([replace(JOB, name="b"), JOB], NEED, "a"),  # a tie goes to the first name
        ([replace(JOB, name="b", reserved=host(950)), JOB], NEED, "a"),
        ([JOB, replace(JOB, name="z", dedicated_tenant="t")], NEED, "z"),  # the tenant's own first
        ([JOB, replace(JOB, name="z", dedicated_tenant="u")], NEED, "a"),
        (
            [JOB, replace(JOB, name="z", dedicated_tenant="t", reserved=host(950))],
            NEED,
            "a",
        ),  # overflow to shared
        (
            [replace(JOB, replicas=0, reserved=host(900)), replace(JOB, name="b")],
            NEED,
            "b",
        ),  # running before empty
        ([replace(JOB, replicas=0)], NEED, "a"),
        # The tenant's own, even asleep: sharing would take away the isolation that it is there for.
        ([replace(JOB, name="z", dedicated_tenant="t", replicas=0), JOB], NEED, "z"),
        ([replace(JOB, dedicated_tenant="t", replicas=0), replace(JOB, name="b", dedicated_tenant="t")], NEED, "b"),
        (
            [replace(JOB, dedicated_tenant="t", replicas=0, reserved=host(950)), replace(JOB, name="b")],
            NEED,
            "b",
        ),
        ([JOB, replace(JOB, name="b", hardware="h100")], replace(NEED, hardware="h100"), "b"),
        ([JOB, replace(TRITON, name="b")], replace(NEED, runtime=Runtime.TRITON), "b"),
        (
            [replace(TRITON, capacity=host(10_000)), replace(JOB, name="b")],
            NEED,
            "b",
        ),  # room for the model only
        ([JOB, replace(JOB, name="b", cell="eu")], replace(NEED, cell="eu"), "b"),
        # A tenant's own job is of the class that it is, and one that was scaled to zero can be placed on.
        ([replace(JOB, dedicated_tenant="t", service_class=ServiceClass.TEMPORARY, replicas=0)], NEED, "a"),
        ([JOB, replace(JOB, name="b", service_class=ServiceClass.TEMPORARY, reserved=host(500))], NEED, "a"),
        (
            [JOB, replace(JOB, name="b", service_class=ServiceClass.TEMPORARY)],
            replace(NEED, service_class=ServiceClass.TEMPORARY),
            "b",
        ),
    ],
)
def test_places(fleet: list[JobRoom], need: Need, chosen: str) -> None:
    answer = place(fleet, need)
    assert isinstance(answer, Placed)
    assert answer.job.name == chosen
    assert answer == place(fleet[::-1], need)


def test_refusal_names_each_job_nearest_first() -> None:
    fleet = [
        replace(JOB, name="gpu", hardware="h100"),
        replace(JOB, name="small", capacity=host(10)),
        replace(JOB, name="shrunk", capacity=host(10), reserved=host(500)),
        replace(JOB, name="full", reserved=host(950)),
    ]
    answer = place(fleet, replace(NEED, hardware="cpu"))
    assert isinstance(answer, PlacementRefused)
    assert [(it.job, it.short_of.total) for it in answer.shortfalls] == [
        ("full", 50),
        ("small", 90),
        ("shrunk", 590),
        ("gpu", 0),
    ]
    assert answer.shortfalls[-1].why == "its hardware is h100, not cpu"


def test_refusal_hides_jobs_dedicated_to_others() -> None:
    fleet = [
        replace(JOB, name="secret", dedicated_tenant="u"),
        replace(JOB, name="own", dedicated_tenant="t", capacity=host(1)),
        replace(JOB, name="shared", capacity=host(2)),
    ]
    answer = place(fleet, NEED)
    assert isinstance(answer, PlacementRefused)
    assert [it.job for it in answer.visible_to("t").shortfalls] == ["shared", "own"]
    assert {it.job for it in answer.visible_to(None).shortfalls} == {"secret", "own", "shared"}
    error = answer.as_error("t")
    assert "secret" not in error.detail
    assert error.fields == {
        "needed_bytes": 100,
        "shortfalls": [
            {"job": "shared", "short_of_bytes": 98, "why": "short of 98 bytes"},
            {"job": "own", "short_of_bytes": 99, "why": "short of 99 bytes"},
        ],
    }
    assert "secret" in answer.as_error(None).detail


def test_refusal_of_an_empty_fleet() -> None:
    answer = place([], NEED)
    assert answer == PlacementRefused(NEED, ())
    assert "there are no jobs" in answer.as_error("t").detail


GPU_JOB = replace(JOB, name="g", capacity=Resources.of({HOST: 1_000, "gpu": 500}))
ON_GPU = replace(NEED, model=Resources.of({HOST: 100, "gpu": 400}))


def test_it_must_fit_on_every_device() -> None:
    assert place([JOB, GPU_JOB], ON_GPU) == Placed(GPU_JOB, ON_GPU.model)
    assert place([GPU_JOB, JOB], NEED) == Placed(JOB, NEED.model), "what needs no GPU goes where there is none"
    assert place([GPU_JOB], NEED) == Placed(GPU_JOB, NEED.model)
    half = replace(GPU_JOB, reserved=Resources.of({HOST: 10, "gpu": 200}))
    refused = place([half, JOB], ON_GPU)
    assert isinstance(refused, PlacementRefused)
    assert [(it.job, it.why) for it in refused.shortfalls] == [
        ("g", "short of 100 bytes of gpu"),
        ("a", "short of 400 bytes of gpu"),
    ]
    assert "for a model of 400 bytes of gpu and 100 bytes: g: short" in refused.as_error("t").detail


DEVICES = (HOST, "gpu")


def fits_on_every_device(wanted: Resources, room: Resources) -> bool:
    return all(wanted[device] <= room[device] for device in DEVICES)


tenants = st.sampled_from(["t", "u", "v"])
jobs = st.builds(
    JobRoom,
    name=st.text("abcdef", min_size=1, max_size=3),
    cell=st.sampled_from(["local", "eu"]),
    runtime=st.sampled_from(Runtime),
    hardware=st.sampled_from(["cpu", "h100"]),
    service_class=st.sampled_from(ServiceClass),
    dedicated_tenant=st.none() | tenants,
    replicas=st.integers(0, 2),
    capacity=st.builds(
        lambda host, gpu: Resources.of({HOST: host, "gpu": gpu}),
        st.integers(0, 100) | st.integers(1 << 24, 1 << 26),
        st.just(0) | st.integers(0, 100),
    ),
    reserved=st.just(Resources()),
)
fleets = st.lists(jobs, max_size=6, unique_by=lambda job: job.name)
needs = st.builds(
    Need,
    tenant=tenants,
    model=st.builds(
        lambda host, gpu: Resources.of({HOST: host, "gpu": gpu}), st.integers(0, 60), st.just(0) | st.integers(0, 60)
    ),
    format=st.just(ArtifactFormat.ONNX),
    runtime=st.none() | st.sampled_from(Runtime),
    hardware=st.none() | st.sampled_from(["cpu", "h100"]),
    cell=st.none() | st.sampled_from(["local", "eu"]),
    service_class=st.sampled_from(ServiceClass),
)


@given(fleets, st.lists(needs, max_size=30), st.randoms(use_true_random=False))
def test_any_sequence_never_overcommits_and_places_what_fits(
    fleet: list[JobRoom], sequence: list[Need], rng: random.Random
) -> None:
    fleet = list(fleet)
    for need in sequence:
        answer = place(fleet, need)
        shuffled = rng.sample(fleet, len(fleet))
        assert place(shuffled, need) == answer
        fits = [job for job in fleet if mismatch(job, need) is None and fits_on_every_device(need.on(job), job.room)]
        if isinstance(answer, PlacementRefused):
            assert not fits
            assert {it.job for it in answer.shortfalls} == {job.name for job in fleet}
            visible = {it.job for it in answer.visible_to(need.tenant).shortfalls}
            assert visible == {job.name for job in fleet if job.dedicated_tenant in (None, need.tenant)}
            continue
        assert answer.job in fits
        # Best fit: nothing that is at least as good in the earlier respects is a tighter fit.
        for other in fits:
            same_rank = (other.replicas == 0, other.dedicated_tenant) == (
                answer.job.replicas == 0,
                answer.job.dedicated_tenant,
            )
            left = (answer.job.room - need.on(answer.job)).total
            assert not same_rank or (other.room - need.on(other)).total >= left
        at = fleet.index(answer.job)
        fleet[at] = replace(answer.job, reserved=answer.job.reserved + answer.reserved)
        assert all(job.reserved[device] <= job.capacity[device] for job in fleet for device in DEVICES)
