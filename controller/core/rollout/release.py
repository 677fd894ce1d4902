"""Which of a model's versions may be let go in one cell.

Contract of `releasable`:

1. A deleted version is released at once. Nothing below applies to it.
2. A wanted version (the target, or one a label points at) is never released.
3. Never to zero: a version that replicas serve is released only while the target is routed on enough replicas. Enough
   is at least one, and as many as the version has or all of the target's own job. Until then a broken target costs
   nothing but memory.
4. If a version was loaded before and no replica holds it now, it is released only while another version is routed: its
   replicas may just be restarting, and it may be the last version known to work.
5. A version that was never loaded is released at once if no replica can be about to load it: its job wants none, or
   each of them failed. While one may still load it, rules 3 and 4 decide: routers know of a load before the controller
   does.
6. Versions already releasing are not named again.

Rules 3 and 4 look at what is routed now. Where observations are missing (a database that lost its unlogged tables)
nothing counts as routed or failed, so only deleted versions and those of stopped jobs are released.

The idea of a decision that is a pure function from snapshots is TensorFlow Serving's AvailabilityPreservingPolicy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class AssignedVersion(NamedTuple):
    """A version that is assigned in the cell. `proven`: some replica loaded it at some time, and it answered."""

    deleted: bool = False
    releasing: bool = False
    proven: bool = True


class CopyTally(NamedTuple):
    """A version, as observed: how many replicas have it `routed`, and `held` it in any state until its end.

    The job wants `replicas` of them; of those that hold it, `failed` could not load it and are not trying again now.
    """

    routed: int = 0
    held: int = 0
    replicas: int = 0
    failed: int = 0


_UNSEEN = CopyTally()


def releasable(
    assigned: Mapping[int, AssignedVersion], target: int, wanted: Collection[int], observed: Mapping[int, CopyTally]
) -> frozenset[int]:
    """The assigned versions of one model to mark as releasing now; see the module's contract.

    A version that `observed` lacks is unknown: not routed, and not known to have failed either.
    """
    # A version that is deleted or already on its way out cannot take over.
    staying = [version for version, held in assigned.items() if not held.deleted and not held.releasing]
    heir = observed.get(target, _UNSEEN) if target in staying else _UNSEEN
    routed = {version for version in staying if observed.get(version, _UNSEEN).routed > 0}
    released = {version for version, held in assigned.items() if held.deleted and not held.releasing}
    for version in staying:
        if version in wanted:
            continue
        seen = observed.get(version, _UNSEEN)
        taken_over = heir.routed >= 1 and (heir.routed >= seen.routed or heir.routed >= heir.replicas >= 1)
        idle = seen.held <= seen.failed and seen.routed == 0
        hopeless = not assigned[version].proven and version in observed and seen.failed >= seen.replicas
        if (version != target and taken_over) or (idle and (hopeless or routed)):
            released.add(version)
    return frozenset(released)
