"""How a change says what it leaves alone."""

from __future__ import annotations

from enum import Enum


class Unchanged(Enum):
    """The type of the one value that says so: None is a value that a member may be set to."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged.UNCHANGED
