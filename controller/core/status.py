"""Says what a version's state is, from its assignment and from what the job's replicas report.

AVAILABLE means: the version is assigned, at least one connected replica has loaded it, and routers send requests to it
there. A version on its way out is DRAINING even while routes to it still exist: they are about to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

from berth.model import ServableStatus
from berth.states import ServableState, VersionState


class Stay(Enum):
    """Where a version's assignment stands; None in its place means it has none."""

    HELD = auto()
    RELEASING = auto()


class Sighting(NamedTuple):
    """What one replica of the job says of the version; `status` is None if it does not mention it."""

    status: ServableStatus | None
    routed: bool
    connected: bool


class Counts(NamedTuple):
    """Replicas of the job. `available` are routed; loaded ones that routers do not know yet count as loading."""

    total: int = 0
    available: int = 0
    loading: int = 0
    failed: int = 0
    draining: int = 0


class VersionStatus(NamedTuple):
    """`since` is in seconds since the epoch; `measured_bytes` is the largest that a replica measured, None if none."""

    state: VersionState
    reason: str
    since: float
    replicas: Counts
    measured_bytes: int | None


class _Groups(NamedTuple):
    """The reports of connected replicas, by what they mean for the version."""

    serving: list[ServableStatus]
    unrouted: list[ServableStatus]
    loading: list[ServableStatus]
    failed: list[ServableStatus]
    leaving: list[ServableStatus]
    begun: list[ServableStatus]


def derive(assigned: Stay | None, sightings: Sequence[Sighting], changed_at: float) -> VersionStatus:
    """The status of one version.

    `sightings` has one entry for each replica of its job. `changed_at` is when its assignment last changed, or without
    an assignment, when the version was made.
    """
    groups = _group(sightings)
    counts = Counts(
        total=len(sightings),
        available=len(groups.serving),
        loading=len(groups.unrouted) + len(groups.loading),
        failed=len(groups.failed),
        draining=len(groups.leaving),
    )
    state, reason, since = (
        _held(groups, sightings, changed_at)
        if assigned is Stay.HELD
        else _leaving(groups, assigned is Stay.RELEASING, changed_at)
    )
    measured = [seen.status.measured_bytes for seen in sightings if seen.status and seen.status.measured_bytes > 0]
    return VersionStatus(state, reason, since, counts, max(measured, default=None))


def _group(sightings: Iterable[Sighting]) -> _Groups:
    groups = _Groups([], [], [], [], [], [])
    for status, routed, connected in sightings:
        if status is None or not connected:
            continue
        match status.state:
            case ServableState.AVAILABLE:
                (groups.serving if routed else groups.unrouted).append(status)
            case ServableState.LOADING:
                groups.loading.append(status)
            case ServableState.ERROR:
                groups.failed.append(status)
            case ServableState.DRAINING | ServableState.UNLOADING:
                groups.leaving.append(status)
            case ServableState.NEW:
                groups.begun.append(status)
            case ServableState.END:
                pass
    return groups


def _held(groups: _Groups, sightings: Sequence[Sighting], changed_at: float) -> tuple[VersionState, str, float]:
    total = len(sightings)
    failures = _failures(groups, total)
    if groups.serving:
        return VersionState.AVAILABLE, failures, min(status.since for status in groups.serving)
    if groups.unrouted:
        reason = f"loaded on {len(groups.unrouted)} of {total} replicas, routers do not send requests there yet"
        return VersionState.LOADING, reason, min(status.since for status in groups.unrouted)
    if groups.loading:
        retried = next((status.reason for status in groups.loading if status.reason), "")
        return VersionState.LOADING, retried or failures, min(status.since for status in groups.loading)
    if groups.failed:
        # Failed as a whole since the last replica gave up.
        return VersionState.FAILED, failures, max(status.since for status in groups.failed)
    return VersionState.PENDING, _why_pending(groups, sightings), changed_at


def _failures(groups: _Groups, total: int) -> str:
    if not groups.failed:
        return ""
    first = min(groups.failed, key=lambda status: (status.since, status.reason))
    return f"{len(groups.failed)} of {total} replicas could not load it: {first.reason or 'no reason given'}"


def _why_pending(groups: _Groups, sightings: Sequence[Sighting]) -> str:
    if not sightings:
        return "its job has no replicas"
    if not any(seen.connected for seen in sightings):
        return "no replica of its job is connected"
    if groups.leaving:
        return "a replica is still letting go of it and will load it again"
    return "no replica has begun to load it"


def _leaving(groups: _Groups, releasing: bool, changed_at: float) -> tuple[VersionState, str, float]:
    holding = len(groups.serving) + len(groups.unrouted) + len(groups.loading) + len(groups.leaving)
    if not releasing and not holding:
        return VersionState.RETIRED, "", changed_at
    if not holding:
        return VersionState.DRAINING, "waiting for its replicas to confirm that it is gone", changed_at
    reason = "1 replica still holds it" if holding == 1 else f"{holding} replicas still hold it"
    return VersionState.DRAINING, reason, changed_at
