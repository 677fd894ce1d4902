"""How a process starts and ends, with real processes and real signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from berth.process import run
from berth.settings import ProcessSettings, SettingsError, environment

class Sample(ProcessSettings):
    mode: str = "wait"

async def serve(settings, stop):
    print("ready", flush=True)
    if settings.mode == "wait":
        await stop.wait()
    elif settings.mode == "stubborn":
        await stop.wait()
        print("stopping", flush=True)
        await asyncio.Event().wait()
    elif settings.mode == "raise":
        raise RuntimeError("boom")
    elif settings.mode == "nested":
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse())

async def refuse():
    raise SettingsError("BERTH_MODE: not this one")

raise SystemExit(run("sample", Sample, serve, environment(), sys.argv[1:]))
"""


def start(mode: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "BERTH_MODE": mode, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_it_to_end(number: signal.Signals) -> None:
    with start("wait") as process:
        assert read_line(process) == "ready"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert '"component": "sample"' in stderr


def test_a_second_signal_ends_it_at_once() -> None:
    with start("stubborn") as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "stopping"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 1


@pytest.mark.parametrize(("mode", "text"), [("raise", "boom"), ("return", "ended unasked")])
def test_ending_unasked_is_a_failure(mode: str, text: str) -> None:
    with start(mode) as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert text in stderr


def test_a_setting_found_wrong_by_a_part_is_named_too() -> None:
    with start("nested") as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 64
    assert stderr.splitlines()[-1] == "sample: BERTH_MODE: not this one"


def test_help_may_be_read_in_part() -> None:
    with start("wait", "--help") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) == 0


def test_a_wrong_setting_is_named_and_nothing_starts() -> None:
    with start("wait", BERTH_LOG_LEVEL="loud") as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (64, "")
    assert "BERTH_LOG_LEVEL" in stderr


def test_help_lists_the_settings_and_other_arguments_are_refused() -> None:
    with start("wait", "--help") as process:
        stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "BERTH_CREDENTIAL_FILE" in stdout
    with start("wait", "--key=secret") as process:
        process.communicate(timeout=20)
    assert process.returncode == 64


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    outer = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, sys.argv[1]],\n"
        "    env={**os.environ, 'BERTH_MODE': 'wait', 'BERTH_PARENT_PID': str(os.getpid())})\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", outer, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        assert read_line(parent) == "ready"
        parent.kill()
        # The pipe's write end is the child's too: its end of file says that the child is gone.
        assert parent.stdout is not None
        assert parent.stdout.read() == ""
