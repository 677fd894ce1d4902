"""What is remembered of latencies, and for how long."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core.latency import FLOOR, Latencies, LatencyLine, Sketch, size_class
from router.core.selection import CopyOutcome, Selection

A, B = (ReplicaAddress(name, "job", "local", "1", "", "", "") for name in "AB")
V = VersionKey("t", "m", 1)


@given(st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=300), st.floats(0.0, 1.0))
def test_a_quantile_is_right_within_a_bucket(values: list[float], q: float) -> None:
    sketch = Sketch(0.0)
    for value in values:
        sketch.record(0.0, value)
    ordered = sorted(values)
    exact = ordered[max(0, math.ceil(q * len(values)) - 1)]
    found = sketch.quantile(0.0, q)
    assert found is not None
    assert exact / 1.13 <= found <= exact * 1.13
    assert sketch.count(0.0) == len(values)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 1e9, 2.0**-14, 255.999, 256.0, math.inf, math.nan])
def test_no_value_is_too_odd(value: float) -> None:
    sketch = Sketch(0.0)
    if not math.isfinite(value):
        value = 1e300
    sketch.record(0.0, value)
    assert sketch.count(0.0) == 1
    assert sketch.quantile(0.0, 1.0) is not None


def test_nothing_is_known_before_anything_was_seen() -> None:
    assert Sketch(0.0).quantile(0.0, 0.5) is None


def test_the_past_slides_out_whole() -> None:
    sketch = Sketch(0.0, pane=30.0)
    for _ in range(1000):
        sketch.record(29.0, 5.0)
    sketch.record(31.0, 0.01)
    assert sketch.count(31.0) == 1001
    assert sketch.count(61.5) == 1
    assert sketch.quantile(61.5, 1.0) == pytest.approx(0.01, rel=0.13)
    assert sketch.count(92.0) == 0


def test_after_a_long_silence_nothing_is_left() -> None:
    sketch = Sketch(0.0, pane=30.0)
    sketch.record(1.0, 1.0)
    assert sketch.count(75.0) == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 0), (4096, 0), (4097, 1), (65536, 1), (65537, 2), (2**20, 2), (2**20 + 1, 3), (2**30, 3)],
)
def test_sizes_have_classes(size: int, expected: int) -> None:
    assert size_class(size) == expected


def learned(share: float = 0.1, count: int = 200, seconds: float = 0.01) -> tuple[Latencies, LatencyLine]:
    latencies = Latencies(share)
    line = latencies.line(V, 100, 0.0)
    assert line is not None
    for _ in range(count):
        line.record(0.5, seconds)
    line.refresh(2.0)
    return latencies, line


@pytest.mark.parametrize(("share", "least"), [(0.1, 20), (0.05, 20), (0.015, 67), (0.5, 20)])
def test_there_is_no_tail_without_history(share: float, least: int) -> None:
    assert learned(share, least - 1)[1].tail is None
    assert learned(share, least)[1].tail == pytest.approx(0.01, rel=0.13)


def test_the_tail_is_never_below_the_floor() -> None:
    assert learned(seconds=0.0001)[1].tail == FLOOR


def test_figures_change_at_most_once_a_second() -> None:
    _, line = learned()
    for _ in range(1000):
        line.record(2.1, 1.0)
    line.refresh(2.9)
    assert line.tail == pytest.approx(0.01, rel=0.13)
    line.refresh(3.1)
    assert line.tail == pytest.approx(1.0, rel=0.13)


@pytest.mark.parametrize("times", [10.0, 0.1])
def test_what_is_typical_follows_without_a_jump(times: float) -> None:
    """Judged by it are replicas that answered a second ago, and others that just did."""
    line = Latencies(0.015).line(V, 0, 0.0)
    assert line is not None
    before, now = None, 0.0
    for usual, until in ((0.01, 30.0), (0.01 * times, 150.0)):
        while now < until:
            now += 0.01
            line.record(now, usual)
            line.refresh(now)
            if before is not None and line.typical is not None:
                assert 1 / 1.2 < line.typical / before < 1.2
            before = line.typical
        assert line.typical == pytest.approx(usual, rel=0.15)


def test_sizes_and_versions_do_not_mix() -> None:
    latencies, line = learned()
    assert latencies.line(V, 100, 2.0) is line
    assert latencies.line(V, 100_000, 2.0) is not line
    assert latencies.line(VersionKey("t", "m", 2), 100, 2.0) is not line


def test_memory_is_bounded_and_idle_lines_make_room() -> None:
    latencies = Latencies(0.1, most=10, idle=60.0)
    for n in range(100_000):
        latencies.line(VersionKey("t", f"m{n}", 1), 0, n * 1e-4)
    assert len(latencies) == 10
    assert latencies.line(VersionKey("t", "late", 1), 0, 50.0) is None
    assert latencies.line(VersionKey("t", "late", 1), 0, 70.0) is not None
    assert len(latencies) == 10


# What a copy teaches its line: outcome, seconds it ran, is it a twin -> observations
TEACHING = [
    ("a first copy that answered", CopyOutcome.ANSWERED, 0.02, False, 1),
    ("a twin that answered", CopyOutcome.ANSWERED, 0.02, True, 0),
    ("lost beyond the tail: censored, and counts", CopyOutcome.LOST, 0.02, False, 1),
    ("lost before the tail: says nothing", CopyOutcome.LOST, 0.005, False, 0),
    ("a twin that lost", CopyOutcome.LOST, 0.02, True, 0),
    ("a client that left", CopyOutcome.OTHER, 0.02, False, 0),
    ("a refusal", CopyOutcome.FAULTY, 0.02, False, 0),
    ("no connection", CopyOutcome.UNREACHABLE, 0.02, False, 0),
]


@pytest.mark.parametrize(
    ("outcome", "seconds", "twin", "more"), [row[1:] for row in TEACHING], ids=[row[0] for row in TEACHING]
)
def test_what_a_copy_teaches(*, outcome: CopyOutcome, seconds: float, twin: bool, more: int) -> None:
    _, line = learned()
    selection = Selection()
    known = line.observations
    selection.begin(A, 2.0, line, twin=twin)(outcome, 2.0 + seconds)
    assert line.observations == known + more


def test_hedging_leaves_the_delay_where_it_was() -> None:
    """The same requests with every one beyond the delay withdrawn for its twin's sake: the same share is beyond."""
    dice = random.Random(3)
    times = [0.2 if dice.random() < 0.04 else dice.lognormvariate(-5.0, 0.3) for _ in range(20_000)]
    selections, lines = (Selection(), Selection()), (learned(0.05)[1], learned(0.05)[1])
    now = 2.0
    for seconds in times:
        now += 0.002
        for hedged, (selection, line) in enumerate(zip(selections, lines, strict=True)):
            line.refresh(now)
            assert line.tail is not None
            lost = hedged and seconds > line.tail
            withdrawn = min(seconds, line.tail + 0.004)
            end = CopyOutcome.LOST if lost and withdrawn < seconds else CopyOutcome.ANSWERED
            selection.begin(A, now, line)(end, now + (withdrawn if end is CopyOutcome.LOST else seconds))
    for line in lines:
        line.refresh(now + 2.0)
    assert lines[1].tail == pytest.approx(lines[0].tail, rel=0.1)


def test_a_clearly_slower_replica_does_not_move_the_tail() -> None:
    _, line = learned()
    selection, now = Selection(), 2.0
    for turn in range(2000):
        now += 0.005
        line.refresh(now)
        for address, seconds in ((A, 0.01), (B, 0.06)):
            # The slow one is used a tenth as often: that is what choosing makes of it.
            if address is A or turn % 10 == 0:
                selection.begin(address, now, line)(CopyOutcome.ANSWERED, now + seconds)
    line.refresh(now + 2.0)
    assert line.tail == pytest.approx(0.01, rel=0.15)


def test_a_bad_spell_is_forgotten_in_seconds() -> None:
    """Four seconds in which everything took ten times as long, and then two of the usual."""
    dice = random.Random(5)
    line = Latencies(0.015).line(V, 0, 0.0)
    assert line is not None
    now = 0.0
    for seconds, times in ((10.0, 1.0), (4.0, 10.0), (4.0, 1.0)):
        until = now + seconds
        while now < until:
            now += 1.0 / 400.0
            line.record(now, times * (0.001 + dice.expovariate(1000.0)))
            line.refresh(now)
        assert line.tail is not None
        assert 0.003 * times <= line.tail <= 0.009 * times


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [100, 400, 2000])
def test_one_percent_of_stragglers_is_not_taken_for_the_body(count: int, seed: int) -> None:
    dice = random.Random(seed)
    line = Latencies(0.015).line(V, 0, 0.0)
    assert line is not None
    for _ in range(count):
        line.record(0.5, 0.2 if dice.random() < 0.01 else 0.001 + dice.expovariate(1000.0))
    line.refresh(2.0)
    assert line.tail is not None
    assert FLOOR <= line.tail <= 0.02


@pytest.mark.parametrize("slow", [0.02, 0.05, 0.09])
def test_more_slow_ones_than_the_share_do_not_set_the_delay(slow: float) -> None:
    """A twin sent when they are about to answer would help nobody."""
    line = Latencies(0.015).line(V, 0, 0.0)
    assert line is not None
    for number in range(1000):
        line.record(0.5, 0.2 if number < 1000 * slow else 0.002)
    line.refresh(2.0)
    assert line.tail is not None
    assert line.tail <= 4 * 0.002 * 1.13


@given(st.lists(st.floats(1e-4, 10.0), min_size=70, max_size=400))
def test_the_tail_is_never_later_than_the_quantile(values: list[float]) -> None:
    line = Latencies(0.015).line(V, 0, 0.0)
    assert line is not None
    for value in values:
        line.record(0.5, value)
    line.refresh(2.0)
    assert line.tail is not None
    exact = sorted(values)[max(0, math.ceil(0.985 * len(values)) - 1)]
    assert FLOOR <= line.tail <= max(FLOOR, exact) * 1.13
