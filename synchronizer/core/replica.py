"""What the cell knows of one replica: its last report, and what it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.ids import VersionKey
from berth.model import AspiredSet, Order, ReplicaStatus, VersionSpec


@dataclass(slots=True)
class TrackedReplica:
    """What is known of one replica. `sent` is the last set it was sent, `specs` its versions."""

    status: ReplicaStatus
    seen_at: float
    connected: bool = True
    sent: AspiredSet | None = None
    specs: Mapping[VersionKey, VersionSpec] = field(default_factory=dict)
    resend: bool = False
    # It accepted a set of this epoch: no set of a deposed leader can change any more what it says it holds. One that
    # cannot be sent a set yet (see `aspire`) is believed from `believe_at` on: sets under way have arrived by then. A
    # deposed leader that nobody has told for so long could still make it unload what it said; routers then retry.
    confirmed: bool = False
    believe_at: float | None = None
    # Versions that an earlier set left out. What a report says of them counts only once it has accepted the set that
    # brought them in: until then a set without them may be on its way, and would unload what looks available.
    added: dict[VersionKey, Order] = field(default_factory=dict)


def says_more(old: ReplicaStatus, new: ReplicaStatus) -> bool:
    """Whether a report says more than a sign of life. What it uses right now waits for the next regular report."""
    if old.draining != new.draining or old.address != new.address or old.accepted != new.accepted:
        return True
    return old.servables is not new.servables and old.servables != new.servables
