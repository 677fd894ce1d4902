"""What to do next with the versions of one model: a pure function, after TF-Serving's aspired-version policies.

`next_actions` looks at what is held, what is aspired, what memory is left and what time it is. All of its actions can
be carried out, in any order, without asking again. It guarantees:

1. Only what is aspired is loaded, with the bytes that are aspired.
2. What is aspired and AVAILABLE is not touched.
3. **Never to zero.** The last AVAILABLE version of a model is not drained before an aspired version is AVAILABLE,
   however long that takes, even if it never succeeds: an old answer is better than none. Two exceptions: the whole
   model has left the aspired set; or the version is aspired with other bytes (the model was deleted and made anew under
   its name). Then what is held would answer as something that it is not.
4. **Memory.** A load starts only if the ledger has room for it. A load that must wait says what it waits for. Guarantee
   3 comes first: if the old version's memory is what the new one waits for, both stay as they are, and say so.
5. A version that is going away and is aspired again comes back without a load if it still can (DRAINING). Else it is
   loaded anew as soon as it is gone.
6. A failed load is tried again at `retry_at`, and so is a version that the runtime lost. A load that cannot succeed is
   not tried again until its version leaves the aspired set and comes back, or comes with other bytes. A newer order
   alone is no reason: orders change whenever anything does.
7. A load that is no longer aspired is cancelled, and what never loaded is forgotten.
8. When nothing is to be done there are no actions but `Defer`: repetition means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from berth.ids import VersionKey
from berth.states import ServableState
from worker.core.capacity import Charge, MemoryLedger, charge
from worker.core.lifecycle import Aspired, Servable, Versions

# Seconds before the second, third and fourth attempt: a fault that passes, passes soon. Then patience, so that a
# version that cannot load costs next to nothing.
_QUICK_RETRIES = (1.0, 3.0, 10.0)
_SLOW_RETRY = 60.0


@dataclass(frozen=True, slots=True)
class StartLoad:
    key: VersionKey


@dataclass(frozen=True, slots=True)
class CancelLoad:
    """Stop the load under way; what it did is undone."""

    key: VersionKey


@dataclass(frozen=True, slots=True)
class Drain:
    """Lend it to nobody any more, wait for those who have it, then unload."""

    key: VersionKey


@dataclass(frozen=True, slots=True)
class Revive:
    """Stop draining and lend it again."""

    key: VersionKey


@dataclass(frozen=True, slots=True)
class Forget:
    key: VersionKey


@dataclass(frozen=True, slots=True)
class Defer:
    """It cannot be loaded now. Ask again at `until`, or when the ledger has more room if that is None."""

    key: VersionKey
    reason: str
    until: float | None = None


Action = StartLoad | CancelLoad | Drain | Revive | Forget | Defer


def next_actions(held: Versions, aspired: Aspired, ledger: MemoryLedger, now: float) -> list[Action]:
    """What to do with one model's versions, by version number. See the guarantees above."""
    wanted = {number: held[number] for number, spec in aspired.items() if number in held and held[number].holds(spec)}
    return [*_part_with(held, aspired, wanted), *_bring_up(wanted, ledger, now)]


def _part_with(held: Versions, aspired: Aspired, wanted: Versions) -> Iterator[Action]:
    """What happens to versions that are not aspired, or are with other bytes."""
    leaving: list[VersionKey] = []
    for number, servable in sorted(held.items()):
        if number in wanted:
            continue
        match servable.state:
            case ServableState.NEW | ServableState.ERROR:
                yield Forget(servable.spec.key)
            case ServableState.LOADING:
                yield CancelLoad(servable.spec.key)
            case ServableState.AVAILABLE if number in aspired:
                yield Drain(servable.spec.key)
            case ServableState.AVAILABLE:
                leaving.append(servable.spec.key)
    if aspired and not any(servable.state is ServableState.AVAILABLE for servable in wanted.values()):
        leaving = leaving[:-1]  # the newest of the old stays until it is replaced
    yield from map(Drain, leaving)


def _bring_up(wanted: Versions, ledger: MemoryLedger, now: float) -> Iterator[Action]:
    """What happens to aspired versions that are not AVAILABLE; the newest first, as the likeliest target."""
    for _, servable in sorted(wanted.items(), reverse=True):
        match servable.state:
            case ServableState.DRAINING:
                yield Revive(servable.spec.key)
            case ServableState.NEW | ServableState.ERROR:
                action = _load_or_wait(servable, ledger, now)
                yield action
                if isinstance(action, StartLoad):
                    ledger = ledger.recharge(Charge(), charge(ServableState.LOADING, servable.spec, 0))


def retry_delay(attempts: int, dice: float) -> float:
    """Seconds to wait after failure `attempts` in a row (from 1).

    `dice`, from 0 to 1, spreads them by a quarter to either side, so that replicas do not march in step.
    """
    full = _QUICK_RETRIES[attempts - 1] if attempts <= len(_QUICK_RETRIES) else _SLOW_RETRY
    return full * (0.75 + 0.5 * dice)


def _load_or_wait(servable: Servable, ledger: MemoryLedger, now: float) -> StartLoad | Defer:
    key = servable.spec.key
    if servable.state is ServableState.ERROR and servable.retry_at is None:
        return Defer(key, servable.reason, until=float("inf"))
    if servable.retry_at is not None and servable.retry_at > now:
        return Defer(key, servable.reason, until=servable.retry_at)
    obstacle = ledger.obstacle(servable.spec)
    return StartLoad(key) if obstacle is None else Defer(key, obstacle)
