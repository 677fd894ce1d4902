"""What a model's names resolve to, and so which of its versions must be assigned."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from berth.model import Serving


def target(pinned: int | None, live: Collection[int]) -> int:
    """The version that answers requests without a version: the pinned one, else the newest of `live`; 0 if none.

    A pinned version that is not live gives 0: the owner asked for that version and no other, so none is guessed.
    """
    if pinned is not None:
        return pinned if pinned in live else 0
    return max(live, default=0)


def served(pinned: int | None, live: Collection[int], labels: Mapping[str, int]) -> Serving:
    """What a model serves by its owner's words: all requests to the target, and what labels point at."""
    return Serving.only(target(pinned, live), labels)


def wanted(serving: Serving) -> frozenset[int]:
    """The versions that must be assigned: those that requests go to, with or without a label."""
    return frozenset(
        version for version in (*(share.version for share in serving.versions), *serving.labels.values()) if version > 0
    )
