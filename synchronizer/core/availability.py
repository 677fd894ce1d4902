"""What to say of a model's versions: which one answers by default, and why one cannot be queried anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from berth.model import ServableStatus
from berth.states import ServableState, VersionState


def default_version(target: int, replicas: Mapping[int, int], previous: int) -> int:
    """The version that answers requests without a version; 0 if none is on a replica. `replicas`: how many, by version.

    The target, once it is on as many replicas as any other version. Until then the version on most replicas; of equals,
    the newest. Once the target answers, it stays while it is on at least half as many replicas as the fullest version.
    A replica may restart and happen to load the old version first: that must not turn clients back for a moment.
    """
    most = max(replicas.values(), default=0)
    if most == 0:
        return 0
    there = replicas.get(target, 0)
    if there == most or (previous == target and there > 0 and 2 * there >= most):
        return target
    return max(version for version, count in replicas.items() if count == most)


def describe(statuses: Iterable[ServableStatus]) -> str:
    """Why a version cannot be queried anywhere, from what its replicas say of it. For its own tenant."""
    statuses = list(statuses)
    loading = sum(status.state in (ServableState.NEW, ServableState.LOADING) for status in statuses)
    if loading:
        return f"loading on {loading} {'replica' if loading == 1 else 'replicas'}"
    failed = [status for status in statuses if status.state is ServableState.ERROR]
    if failed:
        newest = max(failed, key=lambda status: (status.since, status.reason))
        return f"failed: {newest.reason}" if newest.reason else "failed"
    if any(status.state in (ServableState.DRAINING, ServableState.UNLOADING) for status in statuses):
        return "being unloaded"
    return "not loaded on any replica yet"


def has_failed(statuses: Iterable[ServableStatus]) -> bool:
    """Whether a version that is nowhere to be queried has failed to load, and no replica is trying now."""
    states = {status.state for status in statuses}
    return ServableState.ERROR in states and not states & {ServableState.NEW, ServableState.LOADING}


def state_of(statuses: Iterable[ServableStatus]) -> VersionState:
    """The state of a version that is nowhere to be queried, as `describe` puts it into words."""
    states = {status.state for status in statuses}
    if states & {ServableState.NEW, ServableState.LOADING}:
        return VersionState.LOADING
    if ServableState.ERROR in states:
        return VersionState.FAILED
    return VersionState.DRAINING if states & {ServableState.DRAINING, ServableState.UNLOADING} else VersionState.PENDING
