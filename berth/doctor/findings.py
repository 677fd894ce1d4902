"""What a check says: whether it is well, and if not, what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """`WARN`: it works, and will not always. `FAIL`: something that is asked for does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """`check` is the thing looked at, `said` what was seen, `remedy` what to do (empty: nothing)."""

    check: str
    level: Level
    said: str
    remedy: str = ""


def ok(check: str, said: str) -> Finding:
    return Finding(check, Level.OK, said)


def warn(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, Level.WARN, said, remedy)


def fail(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, Level.FAIL, said, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of them; `OK` of none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
