"""What turns measurements into figures: quantiles, ratios, verdicts, and the words of the load generator."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import payload, report, results
from bench.compare import quantile, ratio, ratios
from bench.h2load import BadLoad, Shape, arguments, read, read_latencies
from bench.open_load import Outcome, Sample, median, summarize
from bench.profile import by_function, by_package
from bench.results import Row
from bench.tail import _SCENARIOS, ALL_SLOW, BERTH, ENVOY, NONE, STRAGGLERS, rows_of


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 101)), 0.999, 100),
        (list(range(1, 1001)), 0.999, 999),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_a_quantile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 1000))
def test_at_least_the_share_is_at_most_the_quantile(values: list[float], thousandths: int) -> None:
    ordered = sorted(values)
    found = quantile(ordered, thousandths / 1000)
    assert found in ordered
    assert sum(value <= found for value in ordered) * 1000 >= thousandths * len(ordered)


def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians() -> None:
    # The machine slowed down in the second round, for both sides alike.
    rounds = {"berth": [200.0, 20.0, 210.0], "envoy": [100.0, 10.0, 100.0]}
    row = ratio("requests", rounds, "envoy", 1.5)
    assert row == Row("requests, over envoy", 2.0, "x", 1.5, "higher", {"berth": 200.0, "envoy": 100.0})
    assert row.ok


def test_peers_that_were_not_measured_have_no_row() -> None:
    found = ratios(
        "requests", {"berth": [3.0], "nginx": [2.0], "haproxy": []}, {"envoy": 1.5, "nginx": 2, "haproxy": 1}
    )
    assert [(row.what, row.value, row.ok) for row in found] == [("requests, over nginx", 1.5, False)]


SAID = """\
finished in 2.00s, 1899.50 req/s, 4.19MB/s
requests: 3799 total, 3831 started, 3799 done, {good} succeeded, {bad} failed, {bad} errored, 0 timeout
status codes: 3799 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 8.39MB (8794685) total, 92.84KB (95071) headers (space savings 93.99%), 7.97MB ({data}) data
"""


def test_h2load_is_read() -> None:
    load = read(SAID.format(good=3799, bad=0, data=8_354_001), Shape("gRPC", 32))
    assert (load.requests, load.seconds) == (3799, 2.0)
    assert read_latencies("1\t200\t50\n2\t200\t20\n") == [0.00002, 0.00005]


@pytest.mark.parametrize(
    "said",
    [
        SAID.format(good=3798, bad=1, data=8_354_001),
        SAID.format(good=0, bad=0, data=8_354_001),
        # 200 and no message: how gRPC refuses.
        SAID.format(good=3799, bad=0, data=0),
        "could not connect",
    ],
)
def test_answers_that_are_no_answers_make_no_figure(said: str) -> None:
    with pytest.raises(BadLoad):
        read(said, Shape("gRPC", 32))


def test_the_load_carries_the_key_and_the_body(tmp_path: Path) -> None:
    argv = arguments(Shape("HTTP/1.1", 32), 8000, 2.0, tmp_path)
    assert f"--header=authorization: Bearer {payload.KEY}" in argv
    body = Path(next(word for word in argv if word.startswith("--data=")).removeprefix("--data="))
    assert len(body.read_bytes()) > payload.SMALL


def test_a_failed_request_is_a_slow_one() -> None:
    samples = [Sample(0.001, good=True)] * 98 + [Sample(0.002, good=False), Sample(2.0, good=True)]
    outcome = summarize(samples, arrived=110)
    assert outcome.p50 == 0.001
    assert outcome.p99 == 2.0
    assert outcome.p999 == 3.0
    assert outcome.goodput == 0.98
    assert outcome.extra == pytest.approx(0.1)


def test_one_bad_round_is_not_the_figure() -> None:
    usual = Outcome(1000, 0.002, 0.004, 0.005, 0.01, 1.0, 0.01)
    busy = usual._replace(p99=0.05, p999=0.2, goodput=0.9)
    assert median([usual, busy, usual]) == usual._replace(requests=3000)


def test_time_is_counted_by_package_and_by_innermost_python_frame() -> None:
    start = "run (berth/process.py:60);run (asyncio/base_events.py:5)"
    answer = f"{start};answer (router/ingress_rest.py:80)"
    stacks = [
        f"{answer};resolve (router/core/routes.py:40) 3\n",
        f"{answer};write (asyncio/transports.py:9);send (libc.so.6) 5\n",
        f"{start};_run_once (asyncio/base_events.py:9) 1\n",
        f"{start};select (selectors.py:9);epoll_wait (libc.so.6) 20\n",
        "0x7fca (cygrpc.so);sendmsg (libc.so.6) 2\n",
    ]
    assert by_package(stacks) == {"router/core": 3, "router": 5, "asyncio": 1, "threads without Python": 2}
    assert by_function(stacks)["write (asyncio/transports.py)"] == 5


def test_verdicts_on_the_tail() -> None:
    plain = Outcome(1000, 0.002, 0.004, 0.005, 0.2, 1.0, 0.0)
    cut = plain._replace(p999=0.012, extra=0.015)
    costly = plain._replace(extra=0.3, goodput=0.8)
    outcomes = {(name, side): plain for name in _SCENARIOS for side in (NONE, BERTH, ENVOY)}
    outcomes[STRAGGLERS, BERTH] = cut
    outcomes[ALL_SLOW, BERTH] = costly
    verdicts = {row.what: row.ok for row in rows_of(outcomes, budget=0.1)}
    assert [what for what, ok in verdicts.items() if what.startswith(STRAGGLERS) and not ok] == []
    assert [what for what, ok in verdicts.items() if what.startswith(ALL_SLOW) and ok] == []
    without_envoy = {key: outcome for key, outcome in outcomes.items() if key[1] != ENVOY}
    assert len(rows_of(without_envoy, budget=0.1)) == len(verdicts) - 1


def test_what_was_measured_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUT", tmp_path)
    rows = [Row("a", 1.4, "x", 1.5, "higher", {"berth": 1.4}), Row("b", 2.0, "ms")]
    path = results.write("router", 3, rows, ["missing: nginx"], {"seen": 1})
    document = json.loads(path.read_text())
    assert [row["ok"] for row in document["rows"]] == [False, None]
    assert document["notes"] == ["missing: nginx"]
    assert results.read_all() == {"router": rows}


def test_the_page_holds_the_latest_figures_and_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "OUT", tmp_path)
    results.write("tail", 3, [Row("p99", 0.5, "x", 1.0, "lower", {"berth": 1234.5})], ["busy"], {"a": {"p50": 0.1}})
    figures = "\n".join(report.markdown(document) for document in results.read_documents())
    assert "| p99 | 0.5 x | ≤ 1 | met | berth 1,234 |" in figures
    assert "* busy" in figures
    page = report.PAGE.read_text()
    once = report.insert(page, figures)
    assert report.insert(once, figures) == once
    assert once.startswith(page.partition("<!-- figures")[0])
    with pytest.raises(ValueError, match="no markers"):
        report.insert("words", figures)
