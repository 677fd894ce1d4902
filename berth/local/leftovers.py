"""Processes that outlived a killed supervisor: found by its notes, ended before a new stack starts.

A process id alone proves nothing, because the kernel reuses it; together with the instant of birth it does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import structlog

from berth.local.home import read_json

log = structlog.get_logger(__name__)

_PATIENCE_S = 20.0
_POLL_S = 0.02


def birth_of(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None if there is none, or the system does not tell."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field, the name, is in brackets and may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def end_leftovers(state_file: Path, spare: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """End what the supervisor that wrote `state_file` left running, and return the names. Blocks for seconds at most.

    Its children have been told to stop when it died; those that are still draining are given time to finish. Those
    named in `spare` look after themselves.
    """
    recorded = (read_json(state_file) or {}).get("processes", [])
    alive = {entry["pid"]: entry for entry in recorded if entry["name"] not in spare and _is_alive(entry)}
    names = tuple(entry["name"] for entry in alive.values())
    for number, patience_s in ((signal.SIGTERM, _PATIENCE_S), (signal.SIGKILL, 5.0)):
        for pid in alive:
            _signal(pid, number)
        deadline = time.monotonic() + patience_s
        while alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            alive = {pid: entry for pid, entry in alive.items() if _is_alive(entry)}
    if names:
        log.warning("ended what a killed supervisor had left", processes=names)
    return names


def _is_alive(entry: dict[str, object]) -> bool:
    pid, born = entry.get("pid"), entry.get("born")
    return isinstance(pid, int) and born is not None and birth_of(pid) == born


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
