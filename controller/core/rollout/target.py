"""What a model's names resolve to, and so which of its versions must be assigned."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def target(pinned: int | None, live: Collection[int]) -> int:
    """The version that answers requests which name none: the pinned one, else the newest of `live`; 0 if none.

    A pinned version that is not live gives 0: the owner asked for that version and no other, so none is guessed.
    """
    if pinned is not None:
        return pinned if pinned in live else 0
    return max(live, default=0)


def wanted(target: int, labels: Mapping[str, int]) -> frozenset[int]:
    """The versions that must be assigned: the target and what labels point at."""
    return frozenset(version for version in (target, *labels.values()) if version > 0)
