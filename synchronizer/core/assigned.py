"""What each job of a cell is to hold by the last desired state, and what it was to hold before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from berth.ids import VersionKey
from berth.model import DesiredState, VersionSpec

_DROPPED_MOST = 10_000
_NO_SPECS: Mapping[VersionKey, VersionSpec] = {}


class AssignedVersions:
    """Mutated by `adopt` alone."""

    def __init__(self) -> None:
        self._state: DesiredState | None = None
        self._specs: Mapping[str, Mapping[VersionKey, VersionSpec]] = {}
        self._named: Mapping[str, frozenset[VersionKey]] = {}
        self._dropped: dict[VersionKey, VersionSpec] = {}

    def __repr__(self) -> str:
        return f"<AssignedVersions generation={self.generation} jobs={len(self._specs)}>"

    @property
    def state(self) -> DesiredState | None:
        """None before there is one."""
        return self._state

    @property
    def generation(self) -> int | None:
        """That of the state; None before there is one."""
        return self._state.generation if self._state is not None else None

    @property
    def dropped(self) -> Mapping[VersionKey, VersionSpec]:
        """Specs of versions that were desired before: replicas may still hold them, and report names only."""
        return self._dropped

    def specs(self, job: str) -> Mapping[VersionKey, VersionSpec]:
        """The versions that each replica of `job` is to hold; none for a job that is not there."""
        return self._specs.get(job, _NO_SPECS)

    def named(self, job: str) -> frozenset[VersionKey]:
        """Those of them whose model is there to be asked for."""
        return self._named.get(job, frozenset())

    def jobs_of(self, versions: Iterable[VersionKey]) -> frozenset[str]:
        """The jobs that are to hold any of `versions`."""
        keys = frozenset(versions)
        return frozenset(job for job, specs in self._specs.items() if not keys.isdisjoint(specs))

    def adopt(self, state: DesiredState) -> frozenset[str]:
        """Take over a newer state; the jobs, old and new, for which anything is different."""
        models = {entry.key for entry in state.models}
        specs = {job.name: {spec.key: spec for spec in job.versions} for job in state.jobs}
        named = {job: frozenset(key for key in held if key.model_key in models) for job, held in specs.items()}
        changed = frozenset(
            job
            for job in self._specs.keys() | specs.keys()
            if specs.get(job) != self._specs.get(job) or named.get(job) != self._named.get(job)
        )
        for job, before in self._specs.items():
            for key in before.keys() - specs.get(job, _NO_SPECS).keys():
                self._dropped[key] = before[key]
        while len(self._dropped) > _DROPPED_MOST:
            del self._dropped[next(iter(self._dropped))]
        self._state, self._specs, self._named = state, specs, named
        return changed
