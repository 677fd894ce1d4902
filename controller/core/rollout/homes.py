"""In which cells a model is to have copies, and what each of them lacks of a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from controller.core.rollout.facts import AssignedCopy


class Keep(NamedTuple):
    """Take the release of a copy back: it is wanted again before it has left."""

    copy: AssignedCopy


class Assign(NamedTuple):
    """Give a version a place on a job of `cell`; None: of any."""

    version: int
    cell: str | None


def homes(asked: Sequence[str], copies: Sequence[AssignedCopy]) -> Sequence[str | None]:
    """The cells in which a model is to have a copy; None is any cell.

    A model that asks for no cell stays where its newest version is: routers of another cell would not see the next one.
    """
    if asked:
        return asked
    staying = [copy for copy in copies if copy.stays]
    if not staying:
        return [None]
    return [min(staying, key=lambda copy: (-copy.version, copy.cell)).cell]


def fill(version: int, home: str | None, copies: Sequence[AssignedCopy]) -> Keep | Assign | None:
    """The step that gives `version` a lasting copy in `home`, one of its model's homes; None if it has one there."""
    there = [copy for copy in copies if copy.version == version and home in (None, copy.cell)]
    if any(copy.stays for copy in there):
        return None
    return Keep(there[0]) if there else Assign(version, home)
