"""The state of a version over all its cells, what is told of it, and what its replicas prove.

Contract of `announce`:

1. A version is told of when it becomes available, failed or retired, and not told of twice in a row in one state. The
   states between are short, and can be read from the resource.
2. A deleted version is told of no more.
3. A version is proven, for good, when a replica has it available: the replica has loaded it, and it has answered there.
4. The largest size that a replica measured while the version was available is kept. It never shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from berth.states import ServableState, VersionState
from controller.core.rollout.facts import AssignedCopy, Fleet, KnownVersion, ServableReport
from controller.core.status import Sighting, Stay, VersionStatus, derive

_TOLD = (VersionState.AVAILABLE, VersionState.FAILED, VersionState.RETIRED)


class News(NamedTuple):
    """What is new of a version. `measured_bytes` is None unless it is larger than was known, `tell` unless its state
    is to be told."""

    proven: bool
    measured_bytes: int | None
    tell: VersionStatus | None


def status_of(
    version: KnownVersion, copies: Sequence[AssignedCopy], said: Sequence[ServableReport], fleet: Fleet
) -> VersionStatus:
    """The status of a version. `copies` and `said` may be of other versions too.

    Where it stays counts; where it is on its way out only if it stays nowhere.
    """
    own = [copy for copy in copies if copy.version == version.number]
    if not own:
        return derive(None, (), version.changed_at)
    staying = [copy for copy in own if copy.stays]
    by_replica = {(it.cell, it.replica): it for it in said if it.version == version.number}
    sightings = []
    for copy in staying or own:
        for replica in fleet.replicas_of(copy.job):
            it = by_replica.get((replica.cell, replica.name))
            sightings.append(Sighting(it and it.status, bool(it and it.routed), replica.connected))
    since = max(copy.assigned_at if copy.releasing_at is None else copy.releasing_at for copy in staying or own)
    return derive(Stay.HELD if staying else Stay.RELEASING, sightings, since)


def announce(version: KnownVersion, status: VersionStatus, said: Sequence[ServableReport]) -> News:
    """What is new of `version`, whose status is `status`; see the module's contract."""
    measured = [
        it.status.measured_bytes
        for it in said
        if it.version == version.number and it.status.state is ServableState.AVAILABLE
    ]
    largest = max(measured, default=0)
    told = version.deleted or status.state not in _TOLD or status.state == version.announced
    return News(
        proven=bool(measured) and not version.proven,
        measured_bytes=largest if largest > version.measured_bytes else None,
        tell=None if told else status,
    )
