"""Recorded loads: which files are understood, what is counted, and what is refused with a reason."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import autoscaling
from bench.autoscaling import replayed, shipped
from bench.recorded import LOADS, Recording, parse, read


def answered(at: float, ms: float = 0.0, **more: object) -> str:
    """A line of a router's access log, of a request answered so many seconds after the beginning of 2026."""
    time = datetime.fromtimestamp(1_767_225_600 + at, UTC).isoformat().replace("+00:00", "Z")
    entry = {"wire": "rest", "code": "200", "ms": ms, "model": "m", "event": "request", "timestamp": time}
    return json.dumps({**entry, **more})


@pytest.mark.parametrize(
    ("text", "recording"),
    [
        ('{"interval_s": 5, "counts": [1, 0, 2.5]}', Recording(5.0, (1.0, 0.0, 2.5))),
        ('{"counts": [3]}', Recording(1.0, (3.0,))),
        ("3\n0\n\n4.5\n", Recording(1.0, (3.0, 0.0, 4.5))),
        ("7", Recording(1.0, (7.0,))),
        # When a request came, not when it was answered; in any order.
        ("\n".join([answered(2.2, 500), answered(0.5), answered(2.5, 400), answered(2.4)]), Recording(1.0, (1, 1, 2))),
        (f"[pod/router-0/router] {answered(0)}\nrouter-1  | {answered(1)}", Recording(1.0, (1, 1))),
        # What else a router says, and what is no JSON.
        (f"started\n{answered(0)}\n{answered(1, event='route table')}\n{{broken", Recording(1.0, (1,))),
        ("TIMESTAMP,Tokens\n2023-11-16 18:17:03.9799600,8\n2023-11-16 18:17:05.0,9\n", Recording(1.0, (1, 0, 1))),
        ('"2026-01-01T00:00:00Z","a"\n"2026-01-01T01:00:00.5+01:00","b"\n', Recording(1.0, (2,))),
    ],
)
def test_what_is_understood(text: str, recording: Recording) -> None:
    assert parse(text) == recording


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no counts"),
        ('{"counts": []}', "there are no counts"),
        ('{"counts": 3}', "there are no counts"),
        ('{"counts": [0, 0]}', "not one request"),
        ('{"counts": [1, -1]}', "-1 is not a number of requests"),
        ('{"counts": [1, true]}', "True is not a number of requests"),
        ('{"counts": [1, NaN]}', "nan is not a number of requests"),
        ('{"counts": [1], "interval_s": 0}', "interval_s is 0"),
        ('{"counts": [1], "interval_s": "5"}', "interval_s is '5'"),
        ("1\n-2\n", "-2.0 is not a number of requests"),
        ("1\ninf\n", "inf is not a number of requests"),
        ("hello\nworld\n", "no line is a number"),
        (answered(0, event="started"), "no line is a number"),
        (f"{answered(0)}\n{answered(39.5 * 86_400)}", "40 days apart"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@given(st.text())
def test_any_text_is_a_recording_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert found.counts
    assert found.seconds > 0


@given(st.lists(st.tuples(st.floats(0, 5_000), st.floats(0, 30_000)), min_size=1, max_size=60))
def test_every_request_of_a_log_is_counted_once(requests: list[tuple[float, float]]) -> None:
    found = parse("\n".join(answered(at, ms) for at, ms in requests))
    assert sum(found.counts) == len(requests)
    assert min(found.counts[0], found.counts[-1]) > 0


@given(st.floats(0.1, 60.0), st.lists(st.integers(0, 500), min_size=1, max_size=50), st.floats(0.01, 500.0))
def test_what_is_replayed_is_what_was_recorded(interval_s: float, counts: list[int], times: float) -> None:
    recording = Recording(interval_s, tuple(map(float, counts)))
    rate = recording.rate(times)
    for index, count in enumerate(counts):
        assert rate((index + 0.5) * interval_s) * interval_s == pytest.approx(times * count)
    # After its end it stays as it was last.
    assert rate(recording.seconds * 2) == rate(recording.seconds - interval_s / 2)
    assert recording.at_first <= recording.highest or recording.at_first == pytest.approx(recording.highest)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("\ufeff5\n6\n", encoding="utf-8")
    assert read(path).counts == (5.0, 6.0)


@pytest.mark.parametrize(
    ("load", "requests", "intervals"),
    [("conversation", 19_364, 700), ("code", 8_816, 687)],
    ids=["conversation", "code"],
)
def test_the_loads_here_are_what_their_readme_says(load: str, requests: int, intervals: int) -> None:
    recording = read(LOADS / f"azure-llm-2023-{load}.json")
    assert (sum(recording.counts), len(recording.counts), recording.interval_s) == (requests, intervals, 5.0)
    readme = (LOADS / "README.md").read_text()
    assert f"| {load} | {requests:,} | {requests / recording.seconds:.1f}/s | {recording.highest:.1f}/s |" in readme
    assert shipped(load, 200).seconds == 5.0 * intervals


def test_a_pool_begins_with_the_replicas_for_the_first_minute() -> None:
    # One quiet second before 1,400 a second, which take ten replicas at 70 %.
    scenario = replayed("own", Recording(1.0, (0.0, *[14.0] * 119)), times=100.0)
    one = autoscaling.run(scenario, Fixed)
    assert one.most == 10


class Fixed:
    every_s = 15.0

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def replicas(self, seen: autoscaling.Seen) -> int:
        return self._replicas


def test_more_than_the_simulation_can_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 500 simulated replicas, and there are 200"):
        replayed("own", Recording(1.0, (10.0, 1_000.0)), times=100.0)


def test_the_command_replays_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.log"
    path.write_text("\n".join(answered(second, 20.0) for second in range(60) for _ in range(3)))
    monkeypatch.setattr(sys, "argv", ["autoscaling", "--recorded", str(path), "--times", "100"])
    autoscaling.main()
    assert "mine.log: missed" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "nothing of use"])
def test_the_command_says_what_is_wrong_with_a_file(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.log"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["autoscaling", "--recorded", str(path)])
    with pytest.raises(SystemExit):
        autoscaling.main()
    assert str(path) in capsys.readouterr().err
