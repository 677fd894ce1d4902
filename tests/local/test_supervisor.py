"""The supervisor with real processes, killed for real."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.local.leftovers import birth_of, end_leftovers
from berth.local.programs import ProcessCommand, http_probe
from berth.local.supervisor import ChildState, ChildView, ProgramFailed, Supervisor

# Says that it is ready by making a file, and appends its name to another when it is asked to stop.
_SERVE = """
import os, pathlib, signal, sys
ready, ended, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def stop(*_):
    with open(ended, "a") as file:
        file.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
ready.touch()
while True:
    signal.pause()
"""
_DEAF = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


class Watch:
    """Collects what the supervisor reports, and lets a test wait for it."""

    def __init__(self) -> None:
        self.views: list[ChildView] = []
        self._news = asyncio.Event()

    def __call__(self, view: ChildView) -> None:
        self.views.append(view)
        self._news.set()

    async def until(self, reached: Callable[[ChildView], bool], skip: int = 0) -> ChildView:
        async with asyncio.timeout(20):
            while True:
                for view in self.views[skip:]:
                    if reached(view):
                        return view
                self._news.clear()
                await self._news.wait()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def supervisor(tmp_path: Path, watch: Watch) -> AsyncIterator[Supervisor]:
    async with Supervisor(tmp_path / "processes.json", on_change=watch) as supervisor:
        yield supervisor


def command(
    tmp_path: Path, name: str, code: str = _SERVE, *, stage: int = 0, patience_s: float = 10.0, port: int = 0
) -> ProcessCommand:
    ready = tmp_path / f"{name}.ready"

    async def is_ready() -> bool:
        return ready.exists()

    return ProcessCommand(
        name=name,
        argv=(sys.executable, "-S", "-c", code, str(ready), str(tmp_path / "ended"), name),
        env={"PATH": "/usr/bin:/bin"},
        log=tmp_path / "logs" / f"{name}.log",
        probe=is_ready,
        stage=stage,
        ports={"admin": port},
        patience_s=patience_s,
    )


async def test_a_killed_child_comes_back_as_another_process(
    supervisor: Supervisor, watch: Watch, tmp_path: Path
) -> None:
    supervisor.start(command(tmp_path, "one", port=4711))
    await supervisor.wait_ready("one", 20)
    first = supervisor.children()[0]
    assert first.pid is not None
    seen = len(watch.views)
    os.kill(first.pid, signal.SIGKILL)
    died = await watch.until(lambda view: view.state is ChildState.WAITING, seen)
    assert died.reason == "signal 9"
    again = await watch.until(lambda view: view.state is ChildState.READY, seen)
    assert again.pid != first.pid
    assert again.restarts == 1
    recorded = json.loads((tmp_path / "processes.json").read_text())
    assert recorded["supervisor"] == os.getpid()
    assert [(entry["name"], entry["pid"], entry["restarts"], entry["ports"]) for entry in recorded["processes"]] == [
        ("one", again.pid, 1, {"admin": 4711})
    ]


async def test_children_stop_in_reverse_order_of_their_stages(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "processes.json") as supervisor:
        for stage, name in enumerate(("store", "control", "edge")):
            supervisor.start(command(tmp_path, name, stage=stage))
        for name in ("edge", "control", "store"):
            await supervisor.wait_ready(name, 20)
    assert (tmp_path / "ended").read_text().split() == ["edge", "control", "store"]
    assert not (tmp_path / "processes.json").exists()


async def test_a_child_that_will_not_stop_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(command(tmp_path, "deaf", _DEAF, patience_s=0.05))
    await supervisor.wait_ready("deaf", 20)
    pid = supervisor.children()[0].pid
    await supervisor.stop("deaf")
    assert supervisor.children() == ()
    assert pid is not None
    assert birth_of(pid) is None


async def test_a_stopped_name_can_be_used_again(supervisor: Supervisor, tmp_path: Path) -> None:
    for _ in range(2):
        supervisor.start(command(tmp_path, "one"))
        await supervisor.wait_ready("one", 20)
        with pytest.raises(ValueError, match="running already"):
            supervisor.start(command(tmp_path, "one"))
        await supervisor.stop("one")
    with pytest.raises(ProgramFailed, match="not running"):
        await supervisor.wait_ready("one", 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(64)", "settings are wrong"),
        ("raise SystemExit(3)", "ended 5 times before it was ready: exit status 3"),
    ],
)
async def test_a_child_that_cannot_run_is_given_up_and_says_why(
    supervisor: Supervisor, watch: Watch, tmp_path: Path, code: str, reason: str
) -> None:
    supervisor.start(command(tmp_path, "broken", code))
    with pytest.raises(ProgramFailed, match=reason):
        await supervisor.wait_ready("broken", 30)
    assert (await watch.until(lambda view: view.state is ChildState.FAILED)).pid is None
    await supervisor.stop("broken")
    assert supervisor.children() == ()


async def test_a_program_that_does_not_exist_is_given_up(supervisor: Supervisor, tmp_path: Path) -> None:
    absent = ProcessCommand(
        name="absent",
        argv=(str(tmp_path / "absent"),),
        env={},
        log=tmp_path / "absent.log",
        probe=http_probe(1),
    )
    supervisor.start(absent)
    with pytest.raises(ProgramFailed, match="No such file"):
        await supervisor.wait_ready("absent", 30)


async def test_readiness_has_a_limit(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(command(tmp_path, "slow", "import signal; signal.pause()"))
    with pytest.raises(ProgramFailed, match="not ready after"):
        await supervisor.wait_ready("slow", 0.05)


async def test_an_error_of_the_body_stays_what_it_is_and_nothing_is_left(tmp_path: Path, watch: Watch) -> None:
    async def fail() -> None:
        async with Supervisor(tmp_path / "processes.json", on_change=watch) as supervisor:
            supervisor.start(command(tmp_path, "one"))
            await supervisor.wait_ready("one", 20)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    pids = {view.pid for view in watch.views if view.pid is not None}
    assert pids
    assert [birth_of(pid) for pid in pids] == [None] * len(pids)


async def test_cancelling_stops_the_children_too(tmp_path: Path, watch: Watch) -> None:
    async def supervise() -> None:
        async with Supervisor(tmp_path / "processes.json", on_change=watch) as supervisor:
            supervisor.start(command(tmp_path, "one"))
            await asyncio.Event().wait()

    task = asyncio.create_task(supervise())
    await watch.until(lambda view: view.state is ChildState.READY)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "ended").read_text() == "one\n"
    assert not (tmp_path / "processes.json").exists()


async def test_work_beside_the_children_ends_with_them(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    started = asyncio.Event()
    async with Supervisor(tmp_path / "processes.json") as supervisor:
        supervisor.beside(work(), "work")
        asyncio.get_running_loop().call_soon(started.set)
        await started.wait()
    assert cancelled.is_set()


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    ours = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
    try:
        born = birth_of(ours.pid)
        entries = [
            {"name": "ours", "pid": ours.pid, "born": born},
            # The same process id in another life.
            {"name": "stranger", "pid": stranger.pid, "born": (birth_of(stranger.pid) or 0) - 1},
            {"name": "dead", "pid": None, "born": None},
        ]
        (tmp_path / "processes.json").write_text(json.dumps({"processes": entries}))
        assert end_leftovers(tmp_path / "processes.json", frozenset({"ours"})) == ()
        assert end_leftovers(tmp_path / "processes.json") == ("ours",)
        assert ours.wait(10) == -signal.SIGTERM
        assert stranger.poll() is None
        assert end_leftovers(tmp_path / "absent.json") == ()
    finally:
        for process in (ours, stranger):
            process.kill()
            process.wait(10)
