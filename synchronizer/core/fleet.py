"""The replicas of a cell: which are registered, what each one said last, and which ones a step must look at.

Only facts are taken in here. What follows from them, for aspired sets and for routes, is decided by the cell.
"""

from __future__ import annotations

from collections.abc import Iterable

from synchronizer.core.events import Discovered, Reported
from synchronizer.core.replica import TrackedReplica, says_more


class CellFleet:
    """Mutated by the cell's step alone.

    `touched`: the replicas that this step must look at. `lingering`: those whose aspired set holds more than is
    desired. `changed`: replicas have reported something new.
    """

    def __init__(self) -> None:
        self.registered: frozenset[str] | None = None
        self.leaving: frozenset[str] = frozenset()
        self.forget()

    def forget(self) -> None:
        """Drop what was seen of replicas: it belongs to streams that are closed while this process does not lead."""
        self.replicas: dict[str, TrackedReplica] = {}
        self.touched: set[str] = set()
        self.lingering: set[str] = set()
        self.changed = False
        self._heard: set[str] = set()

    def __repr__(self) -> str:
        return f"<CellFleet replicas={len(self.replicas)} touched={len(self.touched)} lingering={len(self.lingering)}>"

    @property
    def all_have_spoken(self) -> bool:
        """Every registered replica has failed once, or reported and accepted a set of this epoch."""
        if self.registered is None or not self.registered <= self._heard:
            return False
        return all(replica.confirmed for replica in self.replicas.values() if replica.connected)

    def is_staffed(self, job: str) -> bool:
        """Whether `job` has a replica that loads, or can load, what the job is to hold."""
        return any(
            replica.connected and not self.drains(replica)
            for replica in self.replicas.values()
            if replica.status.address.job == job
        )

    def drains(self, replica: TrackedReplica) -> bool:
        """Whether it says so, or will hear it any moment: either way, what it holds is on its way out."""
        return replica.status.draining or replica.status.address.replica in self.leaving

    def believed_at(self) -> list[float]:
        """When the replicas that cannot be sent a set yet are believed all the same."""
        waiting = [self.replicas[name] for name in self.lingering if name in self.replicas]
        return [replica.believe_at for replica in waiting if replica.believe_at is not None and not replica.confirmed]

    def touch_all(self) -> None:
        self.touched |= self.replicas.keys()

    def touch_jobs(self, jobs: Iterable[str]) -> None:
        """Look at the replicas of these jobs."""
        jobs = frozenset(jobs)
        self.touched |= {name for name, replica in self.replicas.items() if replica.status.address.job in jobs}

    def touch_lingering(self) -> None:
        self.touched |= self.lingering

    def send_all_anew(self) -> None:
        """Give every replica its set again, whatever it has."""
        for replica in self.replicas.values():
            replica.resend = True
        self.touch_all()

    def discover(self, event: Discovered) -> None:
        """Take in the complete set of registered replicas. Those that are neither registered nor connected are gone."""
        names = self.registered = frozenset(event.addresses)
        turned, self.leaving = self.leaving ^ event.leaving, event.leaving
        if turned & self.replicas.keys():
            self.touched |= turned & self.replicas.keys()
            self.changed = True
        for name in [name for name, replica in self.replicas.items() if not replica.connected]:
            if name not in names:
                del self.replicas[name]
                self.changed = True

    def report(self, event: Reported, epoch: int, now: float) -> None:
        """Take in what a replica says of itself."""
        status = event.status
        name = status.address.replica
        self._heard.add(name)
        replica = self.replicas.get(name)
        if replica is None or replica.status.address.incarnation != status.address.incarnation:
            self.replicas[name] = TrackedReplica(status, now)
            self.touched.add(name)
            self.changed = True
            return
        old, replica.status, replica.seen_at = replica.status, status, now
        if not replica.connected or event.refused or event.opened:
            replica.connected = replica.resend = True
            self.touched.add(name)
            self.changed = True
        elif says_more(old, status):
            self.touched.add(name)
            self.changed = True
        if not replica.confirmed and status.accepted.epoch == epoch:
            replica.confirmed = True
            self.touched.add(name)
        if replica.drop_arrived(status.accepted):
            self.touched.add(name)

    def lose(self, name: str) -> None:
        """The stream of a replica broke, or could not be opened."""
        self._heard.add(name)
        replica = self.replicas.get(name)
        if replica is None or not replica.connected:
            return
        replica.connected = False
        self.touched.add(name)
        self.changed = True
        if self.registered is not None and name not in self.registered:
            del self.replicas[name]

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        for name, replica in self.replicas.items():
            assert replica.status.address.replica == name
            replica.validate()
