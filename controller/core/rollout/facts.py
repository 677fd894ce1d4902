"""The facts that a rollout is decided from: what is stored of one model, and what its cells report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from berth.model import ServableStatus


class ModelWish(NamedTuple):
    """What a model's owner asks for. `cells` are to have a copy each; none: one cell, whichever has room first."""

    pinned: int | None = None
    labels: Mapping[str, int] = {}
    cells: tuple[str, ...] = ()


class KnownVersion(NamedTuple):
    """A version as stored.

    `proven`: some replica loaded it and it answered there once. `measured_bytes` is the largest that replicas measured,
    0 before the first. `announced` is the last state that an event told of, "" before the first. `changed_at` is in
    seconds since the epoch.
    """

    number: int
    deleted: bool = False
    proven: bool = False
    measured_bytes: int = 0
    announced: str = ""
    changed_at: float = 0.0


class CopyKey(NamedTuple):
    """Identifies a copy of a model's version. A job is in one cell."""

    version: int
    job: str


class AssignedCopy(NamedTuple):
    """A version that is assigned to a job.

    `assigned_at` and `releasing_at` are seconds since the epoch. `releasing_at` is None unless the copy is on its way
    out. Then `left_out_from` is the first generation of its cell that leaves the copy out.
    """

    version: int
    job: str
    cell: str
    assigned_at: float = 0.0
    releasing_at: float | None = None
    left_out_from: int | None = None

    @property
    def key(self) -> CopyKey:
        return CopyKey(self.version, self.job)

    @property
    def stays(self) -> bool:
        return self.releasing_at is None


class ServableReport(NamedTuple):
    """The last that one replica said of one version. `routed`: routers send it requests for the version."""

    cell: str
    replica: str
    version: int
    status: ServableStatus
    routed: bool


class KnownReplica(NamedTuple):
    """`connected` to its cell's synchronizer."""

    cell: str
    name: str
    job: str
    connected: bool


class Fleet:
    """What is known of cells and jobs, whatever the model.

    `acted_on` is the generation that each cell has acted on. It has only the cells that their present leader reports.
    Nothing is known of the others, for instance after a database has lost its unlogged tables: they may hold anything.
    `replicas_wanted` is how many replicas each job should have.
    """

    def __init__(
        self,
        acted_on: Mapping[str, int],
        replicas: Iterable[KnownReplica],
        replicas_wanted: Mapping[str, int],
    ) -> None:
        self.acted_on = acted_on
        self.replicas_wanted = replicas_wanted
        self._by_job: dict[str, list[KnownReplica]] = {}
        self._connected: set[tuple[str, str]] = set()
        for replica in replicas:
            self._by_job.setdefault(replica.job, []).append(replica)
            if replica.connected:
                self._connected.add((replica.cell, replica.name))

    def __repr__(self) -> str:
        return f"<Fleet acted_on={self.acted_on} replicas={self._by_job} wanted={self.replicas_wanted}>"

    def replicas_of(self, job: str) -> Sequence[KnownReplica]:
        return self._by_job.get(job, ())

    def is_connected(self, cell: str, replica: str) -> bool:
        return (cell, replica) in self._connected
