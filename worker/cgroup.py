"""What the container that this process runs in may use, by the files of its cgroup, in either version of cgroups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# cgroup v1 says "no limit" with the largest multiple of a page below 2^63.
_NO_LIMIT = 2**60


def memory_limit(root: Path = _ROOT) -> int | None:
    """Bytes that this process's cgroup may take, or the least that one above it may; None: as much as there is."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    limits = [_number(folder / names[version]) for version, folder in _folders(root, "memory")]
    return min((limit for limit in limits if limit is not None and limit < _NO_LIMIT), default=None)


def cores(root: Path = _ROOT, *, allowed: int | None = None) -> int:
    """Cores' worth of time that this process may use, at least one: not those of the whole machine.

    `allowed` is how many it may run on, by default what the system says. A quota of one and a half counts as two.
    """
    if allowed is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for version, folder in _folders(root, "cpu") if (quota := _quota(version, folder)) is not None]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def _quota(version: int, folder: Path) -> float | None:
    """Seconds of processor time per second; None without a limit."""
    if version == 1:
        time, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    else:
        given = _text(folder / "cpu.max").split()
        time, period = [int(word) if word.isdigit() else None for word in given] if len(given) == 2 else (None, None)
    return time / period if time and period else None


def _folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of this process's cgroup and of those above it, each with its version.

    In a container the tree often begins at the container's own group, and the path that the kernel names is not there.
    """
    base = root / "sys/fs/cgroup"
    groups = [(2, base, ""), (1, base / controller, "")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups.append((2, base, path))
        elif controller in controllers.split(","):
            groups.append((1, base / controller, path))
    for version, top, path in groups:
        folder = top / path.lstrip("/")
        while folder != top:
            yield version, folder
            folder = folder.parent
        yield version, top


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
