"""Histories: what a cell was told and what it answered, written down and played again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from berth.ids import VersionKey
from berth.model import (
    NEVER,
    ApiKey,
    Artifact,
    DesiredJob,
    DesiredModel,
    DesiredState,
    Order,
    ReplicaAddress,
    ReplicaLoad,
    ReplicaStatus,
    ServableLoad,
    ServableStatus,
    Serving,
    TenantLimits,
    VersionSpec,
)
from berth.resources import Resources
from berth.settings import SettingsError
from berth.states import Role, Runtime, ServableState
from synchronizer.core.cell import Cell, Timings
from synchronizer.core.events import (
    CellEvent,
    DesiredArrived,
    Discovered,
    Instructions,
    Led,
    Lost,
    Reported,
    Reserved,
    RouterGone,
    RouterSeen,
    SteppedDown,
)
from synchronizer.replay.encoding import event_from_json, event_to_json
from synchronizer.replay.playing import BadHistory, play
from synchronizer.replay.recording import HistoryRecorder, history_file

V1 = VersionKey("t", "m", 1)
ADDRESS = ReplicaAddress("w", "j", "c", "1", "c:1", "g:1", "h:1", zone="z")
STATE = DesiredState(
    "c",
    7,
    (DesiredJob("j", Runtime.ONNXRUNTIME, (VersionSpec(V1, Artifact("0" * 64, 10), Resources.host(100)),)),),
    (DesiredModel(V1.model_key, Serving.only(1)),),
    keys=(ApiKey(b"\xff" * 32, "t", Role.VIEWER),),
    limits=(TenantLimits("t"),),
)


def status(accepted: Order = NEVER, state: ServableState = ServableState.AVAILABLE) -> ReplicaStatus:
    return ReplicaStatus(
        ADDRESS,
        accepted,
        (ServableStatus(V1, state, reason="so", since=1.25),),
        memory_limit=1000,
        memory_used=7,
        in_flight=3,
        draining=True,
        load=ReplicaLoad(),
        loads=(ServableLoad(V1, 5, 0.125),),
    )


EVENTS: list[CellEvent] = [
    Led(3),
    SteppedDown(),
    Reserved(5, 1 << 40),
    DesiredArrived(STATE),
    Discovered({"w": ADDRESS}, frozenset({"w"})),
    Discovered({}),
    Reported(status(Order(3, 8)), refused=True),
    Reported(status(), opened=True),
    Lost("w"),
    RouterSeen(1, "r", Order(3, 9)),
    RouterGone(1),
]

# A life: it leads, hears, publishes, loses a replica, and steps down.
LIFE: list[tuple[float, list[CellEvent]]] = [
    (0.0, [Discovered({"w": ADDRESS}), Reserved(0, 1000), DesiredArrived(STATE)]),
    (0.125, [Led(1), RouterSeen(1, "r", NEVER)]),
    (0.25, [Reported(status(), opened=True)]),
    (0.1 + 0.2, [Reported(ReplicaStatus(ADDRESS, Order(1, 1), (ServableStatus(V1, ServableState.AVAILABLE),)))]),
    (0.5, [RouterSeen(1, "r", Order(1, 2))]),
    (3.0, [Lost("w"), RouterGone(1)]),
    (20.0, [SteppedDown()]),
]


def record(life: list[tuple[float, list[CellEvent]]] = LIFE) -> tuple[list[str], list[Instructions]]:
    lines: list[str] = []
    recorder = HistoryRecorder(Cell("c", Timings(settle=1.0)), lines.append)
    return lines, [recorder.step(events, now) for now, events in life]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_the_same_when_it_is_read_back(event: CellEvent) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


def test_recording_changes_nothing() -> None:
    cell = Cell("c", Timings(settle=1.0))
    _, recorded = record()

    assert recorded == [cell.step(events, now) for now, events in LIFE]
    assert any(todo.publish for todo in recorded)
    assert any(todo.pushes for todo in recorded)


def test_a_history_played_again_is_the_same() -> None:
    lines, recorded = record()

    played = list(play(lines))

    assert [(step.number, step.now) for step in played] == [(n, now) for n, (now, _) in enumerate(LIFE, 1)]
    assert all(step.is_the_same for step in played)
    assert len(played) == len(recorded)


def test_the_first_step_that_is_answered_otherwise_is_told() -> None:
    lines, recorded = record()
    at = next(number for number, todo in enumerate(recorded, 1) if todo.pushes)
    entry = json.loads(lines[at])
    entry["instructions"]["pushes"] = []
    lines[at] = json.dumps(entry)

    odd = [step for step in play(lines) if not step.is_the_same]

    assert [step.number for step in odd] == [at]
    (line,) = odd[0].differences()
    assert line.startswith("pushes: recorded [], now [['w'")


def test_a_step_that_raises_is_written_down_too() -> None:
    class FaultyCell(Cell):
        def step(self, events: Iterable[CellEvent], now: float) -> Instructions:
            raise RuntimeError("a fault of ours")

    lines: list[str] = []
    with pytest.raises(RuntimeError, match="a fault of ours"):
        HistoryRecorder(FaultyCell("c"), lines.append).step([Led(1)], 1.0)

    (step,) = play(lines)
    assert (step.recorded, step.events) == (None, [{"event": "Led", "epoch": 1}])


def step_of(event: dict[str, str]) -> str:
    return json.dumps({"now": 1, "events": [event], "instructions": None})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: [], "no head"),
        (lambda lines: ["{}", *lines[1:]], "no head"),
        (lambda lines: [lines[0].replace('"format": 1', '"format": 2'), *lines[1:]], "format 2"),
        (lambda lines: [lines[0], "nonsense"], "step 1"),
        (
            lambda lines: [lines[0], '{"now": 1, "events": [{"event": "Rain"}], "instructions": null}'],
            "no event 'Rain'",
        ),
        (lambda lines: [lines[0], '{"now": 1, "events": [{"event": "Led"}], "instructions": null}'], "step 1"),
    ],
)
def test_what_is_no_history_is_refused(change: Callable[[list[str]], list[str]], complaint: str) -> None:
    lines, _ = record()

    with pytest.raises(BadHistory, match=complaint):
        list(play(change(lines)))


def test_a_file_takes_lines_until_it_is_full_and_is_its_owners(tmp_path: Path) -> None:
    folder = tmp_path / "histories"
    with history_file(folder, "eu/s1", 10) as write:
        for line in ("12345", "678", "9"):
            write(line)

    (path,) = folder.iterdir()
    assert path.read_text() == "12345\n678\n"
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.name.startswith("eu-s1-")


def test_a_file_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="BERTH_HISTORY_DIR"), history_file(tmp_path / "file", "s1", 10):
        pass


def run_replay(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "synchronizer.replay", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_command_says_whether_all_is_the_same(tmp_path: Path) -> None:
    lines, _ = record()
    path = tmp_path / "history"
    path.write_text("\n".join(lines) + "\n")
    assert run_replay(str(path)) == (0, f"{len(LIFE)} steps, all answered as they were\n")

    at = next(number for number, line in enumerate(lines) if '"changed": true' in line)
    lines[at] = lines[at].replace('"changed": true', '"changed": false')
    path.write_text("\n".join(lines))
    status, text = run_replay(str(path))
    assert (status, f"step {at} at {LIFE[at - 1][0]} is answered otherwise" in text) == (1, True)
    assert "changed: recorded False, now True" in text

    assert run_replay(str(tmp_path / "absent"))[0] == 64
    assert run_replay()[0] == 64
