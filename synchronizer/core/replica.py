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
    # It accepted a set of this epoch: a deposed leader's set can no longer change what it holds. A replica that cannot
    # be sent a set yet (see `aspire`) is believed from `believe_at` on: sets under way have arrived by then. A deposed
    # leader that does not know it by then could still make the replica unload something; routers then retry.
    confirmed: bool = False
    believe_at: float | None = None
    # Versions that an earlier set left out. A report counts for them only once the replica has accepted the set that
    # brought them in. Until then a set without them may be on its way, and would unload what looks available.
    added: dict[VersionKey, Order] = field(default_factory=dict)

    def drop_arrived(self, accepted: Order) -> bool:
        """It accepted this order: what came in with it, or before, counts from now on. Whether there was any."""
        arrived = [key for key, order in self.added.items() if accepted >= order]
        for key in arrived:
            del self.added[key]
        return bool(arrived)

    def next_set(self, order: Order, versions: tuple[VersionSpec, ...]) -> AspiredSet | None:
        """The set of `order` to be sent to it from now on; None if it was sent these versions already."""
        if self.sent is not None and self.sent.versions == versions and not self.resend:
            return None
        specs = {spec.key: spec for spec in versions}
        if self.sent is not None:
            self.added |= dict.fromkeys(specs.keys() - self.specs.keys(), order)
        for key in self.added.keys() - specs.keys():
            del self.added[key]
        self.sent, self.specs, self.resend = AspiredSet(order, versions), specs, False
        return self.sent

    def can_be_asked(self, key: VersionKey) -> bool:
        """Whether it can be relied on when it calls this version AVAILABLE."""
        return self.confirmed and (self.sent is None or (key in self.specs and key not in self.added))

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        assert self.sent is None or self.specs.keys() == {spec.key for spec in self.sent.versions}


def says_more(old: ReplicaStatus, new: ReplicaStatus) -> bool:
    """Whether a report says more than a sign of life. What it uses right now waits for the next regular report."""
    if old.draining != new.draining or old.address != new.address or old.accepted != new.accepted:
        return True
    return old.servables is not new.servables and old.servables != new.servables
