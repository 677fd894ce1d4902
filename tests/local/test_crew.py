from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from berth.local.crew import CrewPlan, WorkerSpec, plan_crew, wanted_crew


class Job(NamedTuple):
    name: str
    replicas: int
    memory_per_replica: int = 1
    cell: str = "local"
    runtime: str = "onnxruntime"


names = st.sampled_from(["a", "a-1", "a-1-0", "b"])
jobs = st.dictionaries(names, st.tuples(st.integers(0, 4), st.integers(1, 3)), max_size=4).map(
    lambda found: [Job(name, replicas, memory) for name, (replicas, memory) in found.items()]
)


def spec(replica: str, memory: int = 1) -> WorkerSpec:
    return WorkerSpec(replica, replica.rpartition("-")[0], "onnxruntime", memory)


def test_only_jobs_of_the_cell_count() -> None:
    assert list(wanted_crew([Job("a", 2), Job("b", 1, cell="elsewhere")], "local")) == ["a-0", "a-1"]


def test_scaling_down_stops_the_highest() -> None:
    running = wanted_crew([Job("a", 3)], "local")
    assert plan_crew(wanted_crew([Job("a", 1)], "local"), running, running) == CrewPlan((), ("a-1", "a-2"))


def test_a_change_of_memory_takes_one_worker_at_a_time() -> None:
    running = wanted_crew([Job("a", 3)], "local")
    wanted = wanted_crew([Job("a", 3, memory_per_replica=2)], "local")
    assert plan_crew(wanted, running, {"a-0", "a-1", "a-2"}) == CrewPlan((), ("a-0",))
    without = {name: one for name, one in running.items() if name != "a-0"}
    assert plan_crew(wanted, without, {"a-1", "a-2"}) == CrewPlan((spec("a-0", 2),), ())
    renewed = running | {"a-0": spec("a-0", 2)}
    assert plan_crew(wanted, renewed, {"a-1", "a-2"}) == CrewPlan()
    assert plan_crew(wanted, renewed, {"a-0", "a-1", "a-2"}) == CrewPlan((), ("a-1",))


@given(jobs)
def test_no_two_workers_share_a_name(found: list[Job]) -> None:
    assert len(wanted_crew(found, "local")) == sum(job.replicas for job in found)


@given(jobs, jobs)
def test_plans_lead_from_any_crew_to_any_other(before: list[Job], after: list[Job]) -> None:
    wanted = wanted_crew(after, "local")
    running = wanted_crew(before, "local")
    for _ in range(100):
        plan = plan_crew(wanted, running, running)
        if plan == CrewPlan():
            break
        for name in plan.stop:
            del running[name]
        running |= {one.replica: one for one in plan.start}
    assert running == wanted
