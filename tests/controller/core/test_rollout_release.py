from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from berth.model import Serving
from controller.core.rollout.release import AssignedVersion as Held
from controller.core.rollout.release import CopyTally as Seen
from controller.core.rollout.release import releasable
from controller.core.rollout.target import target, wanted


@pytest.mark.parametrize(
    ("pinned", "live", "expected"),
    [(None, [], 0), (None, [1, 3, 2], 3), (2, [1, 2, 3], 2), (2, [1, 3], 0), (1, [], 0)],
)
def test_target(pinned: int | None, live: list[int], expected: int) -> None:
    assert target(pinned, live) == expected


@pytest.mark.parametrize(
    ("aim", "labels", "expected"),
    [(0, {}, set()), (3, {}, {3}), (3, {"stable": 2, "canary": 3}, {2, 3}), (0, {"stable": 1}, {1})],
)
def test_wanted(aim: int, labels: dict[str, int], expected: set[int]) -> None:
    assert wanted(Serving.only(aim, labels)) == expected


NEW = Held(proven=False)


@pytest.mark.parametrize(
    ("assigned", "labels", "observed", "expected"),
    [
        # The target is always the highest version here.
        ({1: Held()}, {}, {1: Seen(2, 2, 2)}, set()),
        ({1: Held(), 2: NEW}, {}, {1: Seen(2, 2, 2)}, set()),
        ({1: Held(), 2: NEW}, {}, {1: Seen(2, 2, 2), 2: Seen(0, 2, 2)}, set()),  # loading
        ({1: Held(), 2: Held()}, {}, {1: Seen(2, 2, 2), 2: Seen(1, 2, 2)}, set()),  # on fewer replicas
        ({1: Held(), 2: Held()}, {}, {1: Seen(2, 2, 2), 2: Seen(2, 2, 2)}, {1}),
        ({1: Held(), 2: Held()}, {}, {1: Seen(1, 2, 2), 2: Seen(1, 2, 2)}, {1}),
        ({1: Held(), 2: Held()}, {}, {1: Seen(3, 3, 3), 2: Seen(2, 2, 2)}, {1}),  # on all of a smaller job
        ({1: Held(), 2: Held()}, {}, {1: Seen(3, 3, 3), 2: Seen(0, 0, 0)}, set()),  # on all of none
        ({1: Held(), 2: Held()}, {}, {1: Seen(2, 2, 2), 2: Seen(1, 1, 0)}, set()),  # on a job going to zero
        ({1: Held(), 2: Held()}, {"stable": 1}, {1: Seen(1, 1, 1), 2: Seen(1, 1, 1)}, set()),
        ({1: Held(releasing=True), 2: Held()}, {}, {1: Seen(1, 1, 1), 2: Seen(1, 1, 1)}, set()),
        # Deleted goes at once, whatever else holds.
        ({1: Held(deleted=True)}, {}, {1: Seen(1, 1, 1)}, {1}),
        ({1: Held(deleted=True, releasing=True)}, {}, {}, set()),
        ({1: Held(), 2: Held(deleted=True)}, {"stable": 2}, {1: Seen(1, 1, 1), 2: Seen(1, 1, 1)}, {2}),
        # Nowhere loaded: at once if it never was, and with care if it may be the last known to work.
        ({1: NEW, 2: NEW, 3: NEW}, {}, {}, set()),
        ({1: NEW, 2: NEW, 3: NEW}, {}, {1: Seen(0, 0, 0), 2: Seen(0, 0, 0)}, {1, 2}),  # a stopped job
        ({1: Held(), 2: NEW, 3: NEW}, {}, {1: Seen(0, 0, 0), 2: Seen(0, 0, 0)}, {2}),
        ({1: NEW, 2: NEW}, {}, {1: Seen(0, 2, 2, failed=2)}, {1}),  # failed on every replica
        ({1: NEW, 2: NEW}, {}, {1: Seen(0, 1, 2, failed=1)}, set()),
        ({1: NEW, 2: NEW}, {}, {1: Seen(0, 3, 2, failed=2)}, set()),  # a third tries again
        ({1: Held(), 2: NEW, 3: NEW}, {}, {1: Seen(1, 1, 1), 2: Seen(0, 1, 1, failed=1)}, {2}),
        ({1: Held(), 2: NEW}, {}, {}, set()),
        ({1: Held(), 2: NEW, 3: NEW}, {}, {1: Seen(1, 1, 1)}, {2}),
        ({1: Held(), 2: Held(), 3: NEW}, {}, {1: Seen(0, 0, 1), 2: Seen(1, 1, 1)}, {1}),
        ({1: Held(), 2: Held(), 3: NEW}, {}, {1: Seen(0, 1, 1), 2: Seen(1, 1, 1)}, set()),  # reloading
        ({1: Held(), 2: Held()}, {}, {1: Seen(0, 0, 1), 2: Seen(0, 1, 1)}, set()),  # all replicas restart
    ],
)
def test_releasable(
    assigned: dict[int, Held], labels: dict[str, int], observed: dict[int, Seen], expected: set[int]
) -> None:
    aim = target(None, [version for version, held in assigned.items() if not held.deleted])
    assert releasable(assigned, aim, wanted(Serving.only(aim, labels)), observed) == expected


def test_a_target_on_its_way_out_takes_nothing_over() -> None:
    assigned = {1: Held(), 2: Held(releasing=True)}
    observed = {1: Seen(1, 1, 1), 2: Seen(1, 1, 1)}
    assert releasable(assigned, 2, frozenset({2}), observed) == frozenset()


class Model(RuleBasedStateMachine):
    """A model through uploads, pins, labels, broken versions, restarts and lost observations, in any order.

    Replicas load what is assigned to them unless the version is broken. The controller sees them late.
    """

    REPLICAS = 3

    def __init__(self) -> None:
        super().__init__()
        self.next = 1
        self.pinned: int | None = None
        self.labels: dict[str, int] = {}
        self.assigned: dict[int, Held] = {}
        self.live: set[int] = set()
        self.broken: set[int] = set()
        self.loaded: list[set[int]] = [set() for _ in range(self.REPLICAS)]
        self.observed: dict[int, Seen] = {}

    @rule(broken=st.booleans())
    def upload(self, broken: bool) -> None:
        version, self.next = self.next, self.next + 1
        self.live.add(version)
        if broken:
            self.broken.add(version)
        self.assign_wanted()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        self.pinned = data.draw(st.none() | st.sampled_from(sorted(self.live)))
        self.assign_wanted()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def label(self, data: st.DataObject) -> None:
        self.labels["stable"] = data.draw(st.sampled_from(sorted(self.live)))
        self.assign_wanted()

    @rule()
    def unlabel(self) -> None:
        self.labels.clear()

    def aim(self) -> int:
        return target(self.pinned, self.live)

    def assign_wanted(self) -> None:
        for version in wanted(Serving.only(self.aim(), self.labels)):
            held = self.assigned.get(version)
            if held is None:
                self.assigned[version] = Held(proven=False)
            elif held.releasing:
                self.assigned[version] = held._replace(releasing=False)

    @rule(replica=st.integers(0, REPLICAS - 1))
    def converge(self, replica: int) -> None:
        """A replica takes its aspired set: new ones load first, what was left out goes after."""
        aspired = {version for version, held in self.assigned.items() if not held.releasing}
        self.loaded[replica] = aspired - self.broken

    @rule(replica=st.integers(0, REPLICAS - 1))
    def load_one(self, replica: int) -> None:
        aspired = {version for version, held in self.assigned.items() if not held.releasing}
        self.loaded[replica] |= set(sorted(aspired - self.broken - self.loaded[replica])[:1])

    @rule()
    def observe(self) -> None:
        self.observed = {}
        for version in self.assigned:
            count = sum(version in loaded for loaded in self.loaded)
            failed = self.REPLICAS if version in self.broken else 0
            self.observed[version] = Seen(count, count + failed, self.REPLICAS, failed)
            if count:
                self.assigned[version] = self.assigned[version]._replace(proven=True)

    @rule()
    def lose_observations(self) -> None:
        self.observed = {}

    @rule()
    def roll(self) -> None:
        needed = wanted(Serving.only(self.aim(), self.labels))
        for version in releasable(self.assigned, self.aim(), needed, self.observed):
            self.assigned[version] = self.assigned[version]._replace(releasing=True)

    @rule()
    def free(self) -> None:
        gone = [
            version
            for version, held in self.assigned.items()
            if held.releasing and not any(version in loaded for loaded in self.loaded)
        ]
        for version in gone:
            del self.assigned[version]

    @invariant()
    def something_that_works_stays_once_it_worked(self) -> None:
        works = {version for version in self.assigned if any(version in loaded for loaded in self.loaded)}
        works |= {version for version, held in self.assigned.items() if held.proven}
        if works:
            assert any(not self.assigned[version].releasing for version in works)

    @invariant()
    def wanted_is_assigned(self) -> None:
        for version in wanted(Serving.only(self.aim(), self.labels)):
            assert not self.assigned[version].releasing


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase
