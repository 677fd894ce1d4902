"""What one replica should hold: the versions desired of its job, and those that must not go yet.

A version that is no longer desired lingers in the aspired set while routers may still send requests to it here. It
lingers until its route is withdrawn and the routers have said so. Omission means unload: left out earlier, a version
that moves would cause an error for a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from berth.ids import VersionKey
from berth.model import ServableStatus, VersionSpec
from berth.states import ServableState

GONE = frozenset({ServableState.END, ServableState.ERROR})
"""In these states a replica has nothing of the version left to unload."""


def held(servables: Iterable[ServableStatus]) -> tuple[VersionKey, ...]:
    """The versions that a replica has, is loading, or has not finished unloading."""
    return tuple(servable.key for servable in servables if servable.state not in GONE)


def aspire(
    desired: Mapping[VersionKey, VersionSpec],
    held: Iterable[VersionKey],
    may_be_routed: Callable[[VersionKey], bool],
    remembered: Mapping[VersionKey, VersionSpec],
) -> tuple[VersionSpec, ...] | None:
    """The complete set for one replica, in the order of its keys: `desired` and what lingers.

    `desired` is empty for a replica that drains and for one whose job is gone. `remembered` has the specs of what it
    was last sent: a replica reports names only. None means: send nothing yet. A version lingers whose spec is not known
    (it left the desired state while no synchronizer ran). The replica then keeps the set it has, until the routes are
    withdrawn.
    """
    lingering = [key for key in held if key not in desired and may_be_routed(key)]
    if any(key not in remembered for key in lingering):
        return None
    specs = {**desired, **{key: remembered[key] for key in lingering}}
    return tuple(specs[key] for key in sorted(specs))
