"""The life of versions in a worker: which states follow which, and the set that the worker was told to hold.

    NEW ──load──► LOADING ──loaded──► AVAILABLE ──drain──► DRAINING ──drained──► UNLOADING ──unloaded──► END
     │              │  │                │ ▲                    │                     ▲
     │              │  │                │ └───────revive───────┘                     │
     │              │  │                └──────lost──────────────────────────────────┤
     │              │  └──failed──► ERROR                                            │
     │              │                │ │                                             │
     │              └─cancel─────────┼─┼─────────────────────────────────────────────┘
     └──forget──────────► END ◄─forget └──load──► LOADING

`Lifecycle.record` is the only place where a state changes, `TRANSITIONS` the only place that says how. What should
happen next is decided in `worker.core.policy`, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from types import MappingProxyType

from berth.errors import InvalidArgument
from berth.ids import ModelKey, VersionKey, check_sha256
from berth.model import NEVER, AspiredSet, Order, VersionSpec
from berth.states import ServableState
from worker.core.capacity import Charge, MemoryLedger, MemoryLimits, charge

_S = ServableState


class ServableEvent(StrEnum):
    """What can happen to a servable. `LOADED`, `FAILED`, `LOST`, `DRAINED` and `UNLOADED` are facts, the others
    decisions. `LOST`: the runtime no longer has it; what is left of it goes, and it begins anew, at `retry_at` at the
    soonest, if it is aspired."""

    LOAD = "load"
    LOADED = "loaded"
    FAILED = "failed"
    LOST = "lost"
    CANCEL = "cancel"
    DRAIN = "drain"
    REVIVE = "revive"
    DRAINED = "drained"
    UNLOADED = "unloaded"
    FORGET = "forget"


TRANSITIONS: Mapping[tuple[ServableState, ServableEvent], ServableState] = MappingProxyType(
    {
        (_S.NEW, ServableEvent.LOAD): _S.LOADING,
        (_S.NEW, ServableEvent.FORGET): _S.END,
        (_S.LOADING, ServableEvent.LOADED): _S.AVAILABLE,
        (_S.LOADING, ServableEvent.FAILED): _S.ERROR,
        (_S.LOADING, ServableEvent.CANCEL): _S.UNLOADING,
        (_S.AVAILABLE, ServableEvent.DRAIN): _S.DRAINING,
        (_S.AVAILABLE, ServableEvent.LOST): _S.UNLOADING,
        (_S.DRAINING, ServableEvent.REVIVE): _S.AVAILABLE,
        (_S.DRAINING, ServableEvent.DRAINED): _S.UNLOADING,
        (_S.UNLOADING, ServableEvent.UNLOADED): _S.END,
        (_S.ERROR, ServableEvent.LOAD): _S.LOADING,
        (_S.ERROR, ServableEvent.FORGET): _S.END,
    }
)

# If a version is lost within this time after it became AVAILABLE, the loss is in a row with the one before.
_STEADY_S = 300.0

_EXPLAINED = frozenset({(ServableEvent.LOAD, _S.ERROR), (ServableEvent.UNLOADED, _S.UNLOADING)})


class Acceptance(Enum):
    """What became of an aspired set."""

    ACCEPTED = auto()
    REPEATED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Servable:
    """One version here. `since` and `retry_at` are seconds on the clock that the caller passes as `now`.

    `retry_at` is None in `ERROR` when trying again cannot help. `losses`: how often in a row it was lost for a reason
    of its own.
    """

    spec: VersionSpec
    state: ServableState
    since: float
    reason: str = ""
    attempts: int = 0
    retry_at: float | None = None
    measured_bytes: int = 0
    losses: int = 0

    def losses_with(self, now: float) -> int:
        """What `losses` would be if it were lost now."""
        return self.losses + 1 if now - self.since <= _STEADY_S else 1

    @property
    def charge(self) -> Charge:
        return charge(self.state, self.spec, self.measured_bytes)

    def holds(self, spec: VersionSpec) -> bool:
        """Whether this is the version that `spec` asks for: the same bytes, not only the same name."""
        return self.spec.artifact.sha256 == spec.artifact.sha256


Versions = Mapping[int, Servable]
Aspired = Mapping[int, VersionSpec]


class Lifecycle:
    """All servables of a worker, the aspired set they follow, and the ledger of what they take.

    Kept per model, because a decision about one model needs no other: a worker holds tens of thousands.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self.order: Order = NEVER
        self.ledger = MemoryLedger(limits)
        self._aspired: dict[ModelKey, dict[int, VersionSpec]] = {}
        self._held: dict[ModelKey, dict[int, Servable]] = {}

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for servable in self.servables():
            counts[servable.state] = counts.get(servable.state, 0) + 1
        return f"<Lifecycle order={tuple(self.order)} free={self.ledger.free} {counts}>"

    @property
    def aspires(self) -> bool:
        """Whether the aspired set has anything in it."""
        return bool(self._aspired)

    def versions(self, model: ModelKey) -> Versions:
        return self._held.get(model, {})

    def aspired(self, model: ModelKey) -> Aspired:
        return self._aspired.get(model, {})

    def find(self, key: VersionKey) -> Servable | None:
        return self._held.get(key.model_key, {}).get(key.version)

    def servables(self) -> Iterator[Servable]:
        return (servable for versions in self._held.values() for servable in versions.values())

    def accept(self, aspired: AspiredSet, now: float) -> tuple[Acceptance, frozenset[ModelKey]]:
        """Take a complete set; the second value names the models it changes something for.

        A set older than the one held is refused. The same order with the same content is a repetition and means
        nothing. The same order with *other* content is refused too: its sender broke the rule that makes orders
        mean something, and what is held is at least known to be consistent. Raises `InvalidArgument` for a set
        that contradicts itself.
        """
        wanted = _by_model(aspired.versions)
        if aspired.order == self.order:
            return (Acceptance.REPEATED if wanted == self._aspired else Acceptance.REFUSED), frozenset()
        if aspired.order < self.order:
            return Acceptance.REFUSED, frozenset()
        self.order = aspired.order
        return Acceptance.ACCEPTED, self._aspire(wanted, now)

    def release(self, now: float) -> frozenset[ModelKey]:
        """Aspire to nothing, whatever the order: the process is ending."""
        return self._aspire({}, now)

    def record(
        self,
        key: VersionKey,
        event: ServableEvent,
        now: float,
        *,
        reason: str = "",
        retry_at: float | None = None,
        measured_bytes: int = 0,
        losses: int | None = None,
    ) -> Servable:
        """Record that `event` happened to `key`. `KeyError` means that it cannot have: a fault of the caller."""
        versions = self._held[key.model_key]
        old = versions[key.version]
        state = TRANSITIONS[old.state, event]
        new = replace(
            old,
            state=state,
            since=now,
            # While it is tried again, or goes because it was lost, what happened still explains why it is not there.
            reason=old.reason if (event, old.state) in _EXPLAINED else reason,
            attempts=old.attempts + (event is ServableEvent.LOAD),
            retry_at=old.retry_at if event is ServableEvent.UNLOADED else retry_at,
            measured_bytes=measured_bytes if event is ServableEvent.LOADED else old.measured_bytes,
            losses=old.losses if losses is None else losses,
        )
        self.ledger = self.ledger.recharge(old.charge, new.charge)
        versions[key.version] = new
        if state is _S.END:
            self._end(new, now)
        return new

    def explain(self, key: VersionKey, reason: str) -> bool:
        """Say why `key` waits in `NEW`; False if that was said already. An error keeps its own reason."""
        versions = self._held[key.model_key]
        servable = versions[key.version]
        if servable.state is not _S.NEW or servable.reason == reason:
            return False
        versions[key.version] = replace(servable, reason=reason)
        return True

    def validate(self) -> None:
        """Assert everything that must be true between any two calls."""
        total = Charge()
        for servable in self.servables():
            total = total.plus(servable.charge)
            assert servable.state is not _S.END
            assert (servable.retry_at is None) or servable.state in (_S.ERROR, _S.UNLOADING, _S.NEW)
            assert (servable.measured_bytes > 0) or servable.state not in (_S.AVAILABLE, _S.DRAINING)
            assert self.find(servable.spec.key) is servable
        assert total == self.ledger.total, (total, self.ledger.total)
        assert all(self._held.values()), "a model without versions is left out"
        assert all(self._aspired.values())
        for model, specs in self._aspired.items():
            assert specs.keys() <= self.versions(model).keys(), "what is aspired has a servable from the start"

    def _aspire(self, wanted: dict[ModelKey, dict[int, VersionSpec]], now: float) -> frozenset[ModelKey]:
        before, self._aspired = self._aspired, wanted
        changed = {model for model in before.keys() | wanted.keys() if before.get(model) != wanted.get(model)}
        for model in changed:
            for spec in wanted.get(model, {}).values():
                self._admit(spec, now)
        return frozenset(changed)

    def _admit(self, spec: VersionSpec, now: float, before: Servable | None = None) -> None:
        versions = self._held.setdefault(spec.key.model_key, {})
        held = versions.get(spec.key.version)
        if held is None:
            new = Servable(spec, _S.NEW, now, "" if before is None else before.reason)
            if before is not None and before.holds(spec):
                new = replace(new, retry_at=before.retry_at, losses=before.losses)
            versions[spec.key.version] = new
        elif held.holds(spec):
            # Only the reservation can differ: the controller has measured better than it could guess.
            versions[spec.key.version] = new = replace(held, spec=spec)
            self.ledger = self.ledger.recharge(held.charge, new.charge)

    def _end(self, ended: Servable, now: float) -> None:
        key = ended.spec.key
        versions = self._held[key.model_key]
        del versions[key.version]
        if not versions:
            del self._held[key.model_key]
        # Aspired again while it went away, or aspired with other bytes: it starts from the beginning.
        wanted = self.aspired(key.model_key).get(key.version)
        if wanted is not None:
            self._admit(wanted, now, ended)


def _by_model(specs: Iterable[VersionSpec]) -> dict[ModelKey, dict[int, VersionSpec]]:
    models: dict[ModelKey, dict[int, VersionSpec]] = {}
    for spec in specs:
        VersionKey.from_servable(spec.key.servable)  # raises unless tenant, model and version are well-formed
        check_sha256(spec.artifact.sha256)
        versions = models.setdefault(spec.key.model_key, {})
        if spec.key.version in versions:
            raise InvalidArgument(f"{spec.key} is in the aspired set twice")
        versions[spec.key.version] = spec
    return models
