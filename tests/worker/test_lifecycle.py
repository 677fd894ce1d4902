"""The worker's decisions: tables for the transitions and the policy, properties for the guarantees."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import InvalidArgument
from berth.ids import ModelKey, VersionKey
from berth.model import NEVER, Artifact, AspiredSet, Order, VersionSpec
from berth.resources import HOST, Resources
from berth.states import ServableState as S
from worker.core.capacity import Charge, MemoryLedger, MemoryLimits, charge
from worker.core.lifecycle import TRANSITIONS, Acceptance, Lifecycle, Servable, ServableEvent
from worker.core.policy import Action, CancelLoad, Defer, Drain, Forget, Revive, StartLoad, next_actions, retry_delay

host = Resources.host
ROOMY = MemoryLimits(host(10_000), headroom=host(10_000), max_loads=100)
MODEL = ModelKey("acme", "m")


def spec(
    version: int, *, model: str = "m", reserved: int = 100, gpu: int = 0, content: str = "a", size: int = 10
) -> VersionSpec:
    digest = (content * 64)[:64]
    return VersionSpec(
        VersionKey("acme", model, version), Artifact(digest, size), Resources.of({HOST: reserved, "gpu": gpu})
    )


def key(version: int) -> VersionKey:
    return VersionKey("acme", "m", version)


def held(state: S, version: int, **more: object) -> Servable:
    measured = 100 if state in (S.AVAILABLE, S.DRAINING) else 0
    return Servable(spec(version), state, since=0.0, measured_bytes=measured, **more)  # type: ignore[arg-type]


def ask(states: dict[int, S], aspired: set[int], ledger: MemoryLedger | None = None) -> list[Action]:
    return next_actions(
        {version: held(state, version) for version, state in states.items()},
        {version: spec(version) for version in aspired},
        ledger or MemoryLedger(ROOMY),
        now=100.0,
    )


# The policy, one row per situation


@pytest.mark.parametrize(
    ("states", "aspired", "actions"),
    [
        pytest.param({}, set(), [], id="nothing"),
        pytest.param({1: S.NEW}, {1}, [StartLoad(key(1))], id="aspired and new"),
        pytest.param({1: S.LOADING}, {1}, [], id="aspired and loading"),
        pytest.param({1: S.AVAILABLE}, {1}, [], id="aspired and available is not touched"),
        pytest.param({1: S.DRAINING}, {1}, [Revive(key(1))], id="wanted back while draining"),
        pytest.param({1: S.UNLOADING}, {1}, [], id="wanted back too late: first it ends"),
        pytest.param({1: S.NEW, 2: S.NEW}, {1, 2}, [StartLoad(key(2)), StartLoad(key(1))], id="the newest first"),
        pytest.param({1: S.NEW}, set(), [Forget(key(1))], id="never begun and unwanted"),
        pytest.param({1: S.ERROR}, set(), [Forget(key(1))], id="failed and unwanted"),
        pytest.param({1: S.LOADING}, set(), [CancelLoad(key(1))], id="loading and unwanted"),
        pytest.param({1: S.AVAILABLE}, set(), [Drain(key(1))], id="the whole model has left"),
        pytest.param({1: S.DRAINING}, set(), [], id="draining goes on"),
        pytest.param(
            {1: S.AVAILABLE, 2: S.NEW}, {2}, [StartLoad(key(2))], id="the old one stays until the new one serves"
        ),
        pytest.param({1: S.AVAILABLE, 2: S.LOADING}, {2}, [], id="and while it loads"),
        pytest.param({1: S.AVAILABLE, 2: S.AVAILABLE}, {2}, [Drain(key(1))], id="and then it goes"),
        pytest.param(
            {1: S.AVAILABLE, 2: S.ERROR}, {2}, [Defer(key(2), "", float("inf"))], id="also if it never serves"
        ),
        pytest.param(
            {1: S.AVAILABLE, 2: S.AVAILABLE, 3: S.LOADING}, {3}, [Drain(key(1))], id="one old one is enough: the newest"
        ),
        pytest.param({1: S.AVAILABLE, 2: S.DRAINING}, {2}, [Revive(key(2))], id="rolled back and forth"),
        pytest.param({1: S.AVAILABLE, 2: S.UNLOADING}, {2}, [], id="what is unloading does not serve"),
        pytest.param(
            {1: S.AVAILABLE, 2: S.AVAILABLE, 3: S.NEW}, {2, 3}, [Drain(key(1)), StartLoad(key(3))], id="mixed"
        ),
    ],
)
def test_next_actions(states: dict[int, S], aspired: set[int], actions: list[Action]) -> None:
    assert ask(states, aspired) == actions


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (S.NEW, Forget(key(1))),
        (S.LOADING, CancelLoad(key(1))),
        (S.AVAILABLE, Drain(key(1))),
        (S.ERROR, Forget(key(1))),
        (S.DRAINING, None),
        (S.UNLOADING, None),
    ],
)
def test_other_bytes_under_the_same_name_are_another_version(state: S, action: Action | None) -> None:
    actions = next_actions({1: held(state, 1)}, {1: spec(1, content="b")}, MemoryLedger(ROOMY), now=0.0)
    assert actions == ([action] if action else [])


@pytest.mark.parametrize(
    ("retry_at", "action"),
    [
        (99.0, StartLoad(key(1))),
        (100.0, StartLoad(key(1))),
        (100.5, Defer(key(1), "why", 100.5)),
        (None, Defer(key(1), "why", float("inf"))),
    ],
)
def test_a_failed_load_is_tried_again_when_it_is_time(retry_at: float | None, action: Action) -> None:
    failed = {1: held(S.ERROR, 1, reason="why", retry_at=retry_at)}
    assert next_actions(failed, {1: spec(1)}, MemoryLedger(ROOMY), now=100.0) == [action]


# Memory


@pytest.mark.parametrize(
    ("total", "needs", "obstacle"),
    [
        pytest.param(Charge(), spec(1, reserved=1000), None, id="exactly full"),
        pytest.param(Charge(), spec(1, reserved=1001), "more than the 1000", id="never fits"),
        pytest.param(Charge(reserved=host(901)), spec(1), "waiting for memory: needs 100 bytes", id="one byte short"),
        pytest.param(Charge(reserved=host(900)), spec(1), None, id="fits"),
        pytest.param(
            Charge(reserved=host(900), excess=host(300)),
            spec(1),
            None,
            id="a measurement above the estimate",
        ),
        pytest.param(
            Charge(reserved=host(900), excess=host(401)),
            spec(1),
            "more than was reserved",
            id="too far above",
        ),
        pytest.param(Charge(loads=2), spec(1), "other loads", id="as many loads as allowed"),
        pytest.param(
            Charge(reserved=host(900), transient=host(381), loads=1),
            spec(1),
            "other loads",
            id="no headroom left",
        ),
        pytest.param(
            Charge(reserved=host(900), transient=host(380), loads=1),
            spec(1),
            None,
            id="headroom just enough",
        ),
        pytest.param(Charge(), spec(1, size=10**9), None, id="beyond the headroom, but alone"),
        pytest.param(Charge(loads=1), spec(1, size=10**9), "other loads", id="beyond the headroom, not alone"),
    ],
)
def test_obstacles_to_a_load(total: Charge, needs: VersionSpec, obstacle: str | None) -> None:
    ledger = MemoryLedger(MemoryLimits(Resources.of({HOST: 1000, "gpu": 50}), host(400), max_loads=2), total)
    found = ledger.obstacle(needs)
    assert (found is None) == (obstacle is None)
    assert obstacle is None or obstacle in (found or "")


def test_without_memory_for_the_new_version_the_old_one_stays_and_the_new_one_says_why() -> None:
    ledger = MemoryLedger(MemoryLimits(host(150)), charge(S.AVAILABLE, spec(1), 100))
    assert ask({1: S.AVAILABLE, 2: S.NEW}, {2}, ledger) == [Defer(key(2), "waiting for memory: needs 100 bytes")]


def test_loads_of_one_look_share_the_memory() -> None:
    assert ask({1: S.NEW, 2: S.NEW}, {1, 2}, MemoryLedger(MemoryLimits(host(150)))) == [
        StartLoad(key(2)),
        Defer(key(1), "waiting for memory: needs 100 bytes"),
    ]


# Transitions and orders


HISTORIES: dict[S, tuple[ServableEvent, ...]] = {
    S.NEW: (),
    S.LOADING: (ServableEvent.LOAD,),
    S.AVAILABLE: (ServableEvent.LOAD, ServableEvent.LOADED),
    S.ERROR: (ServableEvent.LOAD, ServableEvent.FAILED),
    S.DRAINING: (ServableEvent.LOAD, ServableEvent.LOADED, ServableEvent.DRAIN),
    S.UNLOADING: (ServableEvent.LOAD, ServableEvent.CANCEL),
}


def in_state(state: S) -> Lifecycle:
    life = Lifecycle(ROOMY)
    life.accept(AspiredSet(Order(1, 1), (spec(1),)), 0.0)
    for event in HISTORIES[state]:
        life.record(key(1), event, 0.5, measured_bytes=7)
    found = life.find(key(1))
    assert found is not None
    assert found.state is state
    return life


@pytest.mark.parametrize(("state", "event"), TRANSITIONS)
def test_each_transition(state: S, event: ServableEvent) -> None:
    life = in_state(state)
    assert life.record(key(1), event, 1.0, measured_bytes=7).state is TRANSITIONS[state, event]
    life.validate()


@pytest.mark.parametrize(
    ("state", "event"), sorted({*itertools.product(HISTORIES, ServableEvent)} - TRANSITIONS.keys())
)
def test_no_other_transition(state: S, event: ServableEvent) -> None:
    life = in_state(state)
    with pytest.raises(KeyError):
        life.record(key(1), event, 1.0)
    life.validate()


def test_what_has_ended_is_gone() -> None:
    life = in_state(S.UNLOADING)
    life.accept(AspiredSet(Order(1, 2), ()), 1.0)
    assert life.record(key(1), ServableEvent.UNLOADED, 2.0).state is S.END
    assert life.find(key(1)) is None


def test_every_state_can_be_left_and_end_cannot() -> None:
    assert {state for state, _ in TRANSITIONS} == set(S) - {S.END}
    assert set(TRANSITIONS.values()) == set(S) - {S.NEW}


@pytest.mark.parametrize(
    ("order", "versions", "acceptance"),
    [
        pytest.param(Order(2, 5), {1}, Acceptance.REPEATED, id="repetition"),
        pytest.param(Order(2, 5), {2}, Acceptance.REFUSED, id="same order, other content"),
        pytest.param(Order(2, 4), {1}, Acceptance.REFUSED, id="older generation"),
        pytest.param(Order(1, 9), {1}, Acceptance.REFUSED, id="older epoch, newer generation"),
        pytest.param(NEVER, set(), Acceptance.REFUSED, id="never"),
    ],
)
def test_orders_that_change_nothing(order: Order, versions: set[int], acceptance: Acceptance) -> None:
    life = Lifecycle(ROOMY)
    life.accept(AspiredSet(Order(2, 5), (spec(1),)), 0.0)
    assert life.accept(AspiredSet(order, tuple(map(spec, versions))), 1.0) == (acceptance, frozenset())
    life.validate()
    assert life.order == Order(2, 5)
    assert set(life.aspired(MODEL)) == {1}


@pytest.mark.parametrize(
    ("order", "versions", "changed"),
    [
        pytest.param(Order(2, 6), {1}, frozenset(), id="newer, same content"),
        pytest.param(Order(3, 1), set(), frozenset({MODEL}), id="newer epoch starts generations anew"),
    ],
)
def test_newer_orders_are_followed(order: Order, versions: set[int], changed: frozenset[ModelKey]) -> None:
    life = Lifecycle(ROOMY)
    life.accept(AspiredSet(Order(2, 5), (spec(1),)), 0.0)
    answer = life.accept(AspiredSet(order, tuple(map(spec, versions))), 1.0)
    assert answer == (Acceptance.ACCEPTED, changed)
    life.validate()
    assert life.order == order
    assert set(life.aspired(MODEL)) == versions


@pytest.mark.parametrize(
    "versions",
    [
        pytest.param((spec(1), spec(1)), id="twice"),
        pytest.param((spec(1, model="No Name"),), id="no name"),
        pytest.param((spec(0),), id="no version"),
        pytest.param((spec(1, content="../x"),), id="no digest"),
    ],
)
def test_a_set_that_makes_no_sense_changes_nothing(versions: tuple[VersionSpec, ...]) -> None:
    life = Lifecycle(ROOMY)
    with pytest.raises(InvalidArgument):
        life.accept(AspiredSet(Order(1, 1), versions), 0.0)
    assert life.order == NEVER
    assert list(life.servables()) == []


def test_a_new_reservation_is_charged_without_a_load() -> None:
    life = Lifecycle(ROOMY)
    life.accept(AspiredSet(Order(1, 1), (spec(1),)), 0.0)
    life.record(key(1), ServableEvent.LOAD, 0.0)
    life.record(key(1), ServableEvent.LOADED, 0.0, measured_bytes=90)
    life.accept(AspiredSet(Order(1, 2), (spec(1, reserved=95),)), 1.0)
    life.validate()
    assert life.ledger.total == Charge(reserved=host(95), used=90)
    assert next_actions(life.versions(MODEL), life.aspired(MODEL), life.ledger, 1.0) == []


@pytest.mark.parametrize(
    ("attempts", "least", "most"), [(1, 0.75, 1.25), (2, 2.25, 3.75), (3, 7.5, 12.5), (4, 45, 75), (1000, 45, 75)]
)
def test_retries_are_quick_at_first_then_patient(attempts: int, least: float, most: float) -> None:
    assert retry_delay(attempts, 0.0) == least
    assert retry_delay(attempts, 1.0) == most


# The guarantees, whatever happens in whatever order

MODELS = ("m", "n")
# Versions of "n" take as much of the GPU as of the host, and there is less of it.
LIMITS = MemoryLimits(Resources.of({HOST: 1000, "gpu": 500}), headroom=host(600), max_loads=2)
aspirations = st.sets(st.tuples(st.sampled_from(MODELS), st.integers(1, 3), st.sampled_from("ab")), max_size=5).map(
    lambda chosen: {(model, version): content for model, version, content in sorted(chosen)}
)
steps = st.one_of(aspirations, st.integers(0, 2**16))


class World:
    """A lifecycle and everything that could happen next to it; `step` makes one of those things happen."""

    def __init__(self) -> None:
        self.life = Lifecycle(LIMITS)
        self.now = 0.0
        self.generation = 0
        self.fails = True

    def aspire(self, chosen: dict[tuple[str, int], str], reserved: int = 300) -> None:
        self.generation += 1
        versions = tuple(
            spec(
                version,
                model=model,
                reserved=reserved,
                gpu=reserved if model == "n" else 0,
                content=content,
                size=100,
            )
            for (model, version), content in chosen.items()
        )
        answer, _ = self.life.accept(AspiredSet(Order(1, self.generation), versions), self.now)
        assert answer is Acceptance.ACCEPTED
        self.settle()

    def possible(self) -> list[tuple[VersionKey, ServableEvent]]:
        facts = {
            S.LOADING: (ServableEvent.LOADED, ServableEvent.FAILED) if self.fails else (ServableEvent.LOADED,),
            S.DRAINING: (ServableEvent.DRAINED,),
            S.UNLOADING: (ServableEvent.UNLOADED,),
        }
        return [
            (servable.spec.key, event) for servable in self.life.servables() for event in facts.get(servable.state, ())
        ]

    def step(self, choice: int) -> None:
        possible = self.possible()
        self.now += 1.0
        if possible:
            chosen, event = possible[choice % len(possible)]
            permanent = choice % 3 == 0
            self.life.record(
                chosen,
                event,
                self.now,
                reason="no" if event is ServableEvent.FAILED else "",
                retry_at=None if permanent or event is not ServableEvent.FAILED else self.now + choice % 5,
                measured_bytes=250 + choice % 100,
            )
        self.settle()

    def settle(self) -> None:
        """Carry out all that the policy says, checking each action against the guarantees."""
        for model in {servable.spec.key.model_key for servable in self.life.servables()}:
            aspired = self.life.aspired(model)
            for action in next_actions(self.life.versions(model), aspired, self.life.ledger, self.now):
                self.carry_out(action)
        self.life.validate()
        assert self.life.ledger.total.loads <= LIMITS.max_loads

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Defer):
            assert action.reason
            return
        model = action.key.model_key
        before = self.life.find(action.key)
        assert before is not None
        wanted = self.life.aspired(model).get(action.key.version)
        if isinstance(action, Drain):
            assert wanted is None or not before.holds(wanted), "an aspired AVAILABLE version is never drained"
            others = [
                servable
                for number, servable in self.life.versions(model).items()
                if number != action.key.version and servable.state is S.AVAILABLE
            ]
            assert others or wanted is not None or not self.life.aspired(model), "never to zero"
        event = {
            StartLoad: ServableEvent.LOAD,
            CancelLoad: ServableEvent.CANCEL,
            Drain: ServableEvent.DRAIN,
            Revive: ServableEvent.REVIVE,
        }.get(type(action), ServableEvent.FORGET)
        if event is ServableEvent.LOAD:
            assert wanted is not None
            assert before.holds(wanted)
        self.life.record(action.key, event, self.now)
        if event is ServableEvent.LOAD:
            total = self.life.ledger.total
            assert all(total.reserved[device] <= LIMITS.memory[device] for device in (HOST, "gpu"))
            ceiling = LIMITS.memory[HOST] + LIMITS.headroom[HOST]
            resident = total.reserved[HOST] + total.excess[HOST]
            assert resident <= ceiling
            assert total.loads == 1 or resident + total.transient[HOST] <= ceiling


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_the_guarantees_hold_after_every_step(story: list[dict[tuple[str, int], str] | int]) -> None:
    world = World()
    for step in story:
        if isinstance(step, int):
            world.step(step)
        else:
            world.aspire(step)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30), aspirations, st.randoms(use_true_random=False))
def test_it_converges_to_exactly_the_aspired_set(
    story: list[dict[tuple[str, int], str] | int], last: dict[tuple[str, int], str], rng: random.Random
) -> None:
    """Once loads succeed, and if all fits beside the one old version that each model may keep meanwhile."""
    world = World()
    for step in story:
        if isinstance(step, int):
            world.step(step)
        else:
            world.aspire(step, reserved=100)
    world.aspire({}, reserved=100)  # a permanent failure is forgotten once it is left out
    world.fails = False
    world.aspire(last, reserved=100)
    for _ in range(200):
        world.now += 10.0
        world.step(rng.randrange(2**16))
        if not world.possible():
            break
    found = {
        (servable.spec.key.model, servable.spec.key.version): (servable.state, servable.spec.artifact.sha256[0])
        for servable in world.life.servables()
    }
    assert found == {name: (S.AVAILABLE, content) for name, content in last.items()}
    before = world.life.ledger
    world.settle()
    assert world.life.ledger is before
