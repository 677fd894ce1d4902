"""What routers say they want: once for many, again while it is wanted, and not for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from berth.ids import VersionKey
from router.core.wanted import MOST_IN_NOTICE, MOST_WISHES, REPEAT, Notices, Wanted

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)


def test_many_requests_are_one_wish() -> None:
    wanted = Wanted()
    notices = Notices(wanted)
    assert [wanted.ask(V1, 5.0, 0.0) for _ in range(100)] == [True] + [False] * 99
    assert notices.take(0.0) == (V1,)
    assert notices.take(0.5) == ()
    assert notices.next_at(0.5) == REPEAT
    assert notices.take(1.0) == (V1,)
    assert [len(notices.take(second / 10)) for second in range(10, 60)].count(1) == 3
    assert notices.next_at(6.0) is None


def test_a_wish_that_nobody_waits_for_is_said_once() -> None:
    wanted = Wanted()
    first, second = Notices(wanted), Notices(wanted)
    wanted.ask(V1, 0.0, 0.0)
    assert (first.take(0.0), second.take(0.9)) == ((V1,), (V1,))
    assert (first.take(1.0), second.take(2.0)) == ((), ())
    assert len(wanted) == 0


def test_what_is_loaded_is_wanted_no_more() -> None:
    wanted = Wanted()
    notices = Notices(wanted)
    wanted.ask(V1, 9.0, 0.0)
    wanted.ask(V2, 9.0, 0.0)
    assert notices.take(0.0) == (V1, V2)
    wanted.fulfilled(V1)
    assert notices.take(1.0) == (V2,)
    assert wanted.ask(V1, 9.0, 1.5)
    assert notices.take(1.5) == (V1,)


def test_a_new_stream_hears_all_that_is_wanted() -> None:
    wanted = Wanted()
    wanted.ask(V1, 9.0, 0.0)
    Notices(wanted).take(0.0)
    assert Notices(wanted).take(0.1) == (V1,)


def test_memory_and_messages_are_bounded() -> None:
    wanted = Wanted()
    notices = Notices(wanted)
    known = [wanted.ask(VersionKey("t", "m", number), 5.0, 0.0) for number in range(1, 3000)]
    assert known.count(True) == len(wanted) == MOST_WISHES
    said = [notices.take(0.0) for _ in range(5)]
    assert [len(notice) for notice in said] == [MOST_IN_NOTICE] * 4 + [0]
    assert len({key for notice in said for key in notice}) == MOST_WISHES
    # The old ones make room when they are over.
    assert wanted.ask(V1._replace(model="n"), 9.0, 6.0)
    assert len(wanted) == 1


class WantedMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.wanted = Wanted()
        self.notices = Notices(self.wanted)
        self.until: dict[VersionKey, float] = {}
        self.said: dict[VersionKey, float] = {}

    @rule(key=st.sampled_from([V1, V2]), seconds=st.floats(0, 5))
    def ask(self, key: VersionKey, seconds: float) -> None:
        self.wanted.ask(key, self.now + seconds, self.now)
        self.until[key] = max(self.until.get(key, 0.0), self.now + max(REPEAT, seconds))

    @rule(key=st.sampled_from([V1, V2]))
    def load(self, key: VersionKey) -> None:
        self.wanted.fulfilled(key)
        self.until.pop(key, None)

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        """As a stream does: it speaks when it is due."""
        end = self.now + seconds
        while (due := self.notices.next_at(self.now)) is not None and due <= end:
            self.now = due
            for key in self.notices.take(self.now):
                assert self.until[key] > self.now, "nobody wants it"
                assert self.now - self.said.get(key, -9.0) >= REPEAT - 1e-9 or key not in self.said, "too often"
                self.said[key] = self.now
        self.now = end

    @rule()
    def look(self) -> None:
        for key in self.notices.take(self.now):
            self.said[key] = self.now
        for key, until in self.until.items():
            if until > self.now:
                assert self.now - self.said[key] <= REPEAT + 1e-9, "it was not said"

    @invariant()
    def it_does_not_grow(self) -> None:
        assert len(self.wanted) <= 2


TestWantedMachine = WantedMachine.TestCase
TestWantedMachine.settings = settings(max_examples=50, deadline=None)
