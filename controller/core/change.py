"""How a change says what it leaves alone."""

from __future__ import annotations

from enum import Enum


class Unchanged(Enum):
    """The type of the one value that says "unchanged". None cannot say it: a member may be set to None."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged.UNCHANGED
