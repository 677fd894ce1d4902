"""This machine is looked at for real: folders, ports, and a PostgreSQL that starts."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from berth.cli.app import execute
from berth.doctor import machine
from berth.doctor.findings import Level, worst


def test_a_machine_on_which_the_tests_run_is_good_enough(tmp_path: Path) -> None:
    findings = {found.check: found for found in machine.examine(tmp_path / "new" / "folder", ports=())}
    assert set(findings) == {"python", "memory", "disk", "postgresql", "runtimes"}
    assert findings["postgresql"].level is Level.OK, findings["postgresql"].said
    assert worst(findings.values()) is not Level.FAIL


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (found,) = [found for found in machine.examine(tmp_path, ports=(port,)) if found.check == f"port {port}"]
    assert (found.level, f"127.0.0.1:{port} is taken" in found.said) == (Level.WARN, True)


def test_the_command_prints_json_and_its_status_says_the_worst(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody_listens:
        port = nobody_listens.getsockname()[1]
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "none.json"))
    monkeypatch.setenv("BERTH_CONTROLLER", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("BERTH_ROUTER", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("BERTH_KEY", raising=False)
    assert execute(["doctor", "--service", "--json"]) == 1
    findings = {found["check"]: found for found in json.loads(capsys.readouterr().out)}
    assert {name: found["level"] for name, found in findings.items()} == dict.fromkeys(
        ("controller", "router", "key"), "fail"
    )
    assert "cannot be reached" in findings["router"]["said"]
    assert execute(["doctor", "--kubernetes", "berth", "--kubeconfig", str(tmp_path / "none"), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["check"], found["level"]) == ("cluster", "fail")
