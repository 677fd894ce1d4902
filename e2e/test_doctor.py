"""`berth doctor` on a running stack: well while it is, and told apart from one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from e2e.stack import Stack


def doctor(stack: Stack, key: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and what was found by what was looked at."""
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(stack.home),
        "BERTH_KEY": key,
        "BERTH_CONTROLLER": stack.controller_url,
        "BERTH_ROUTER": stack.router_url,
    }
    command = [sys.executable, "-P", "-m", "berth", "doctor", "--service", "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)}


def test_a_stack_that_runs_is_well(stack: Stack) -> None:
    status, found = doctor(stack, stack.admin_key)
    assert {name: one["level"] for name, one in found.items()} == dict.fromkeys(found, "ok"), found
    assert {"controller", "router", "key"} < set(found)
    assert any(name.startswith("job ") for name in found)
    assert status == 0


def test_a_wrong_key_is_the_only_thing_wrong(stack: Stack) -> None:
    status, found = doctor(stack, "berth_not_a_key")
    assert {name: one["level"] for name, one in found.items()} == {"controller": "ok", "router": "ok", "key": "fail"}
    assert status == 1
