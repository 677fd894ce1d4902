"""The attempts of one request: what to send next after what has happened.

Facts go in (`failed`, the candidates of the current table), one instruction comes out. The rules:

1. Nothing is sent after the deadline.
2. A copy that certainly never began (no connection, or refused with berth-not-started) may be sent again at once and
   costs no budget: it made no work. Each replica is tried once a round; between rounds there is a short pause, ended
   early by a new table; `patience` bounds the whole.
3. A copy that may have begun is repeated only if the request is idempotent and the budget allows; at most
   `most_broken` copies may break, so that a request that kills replicas cannot kill them all.
4. When all replicas of this cell have been tried in the round and another cell may answer, the request is passed on to
   that cell's routers instead of a pause. They are tried once a round too, in order of preference.
5. At most one hedge per request: to a replica that has no copy of it, with the same version, if the budget allows.
   Three things are never hedged: a hedge, a request that is passed on (the other cell hedges it), and one that is not
   idempotent. `hedging` says when it is time for a hedge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from berth.errors import BerthError, DeadlineExceeded, Unavailable
from berth.ids import VersionKey
from berth.model import ReplicaAddress


class Failure(Enum):
    """Why a copy brought no answer."""

    UNREACHED = "unreached"
    """No connection: the replica never saw it."""
    NOT_STARTED = "not_started"
    """The replica refused it before it began: it no longer holds the version."""
    BROKEN = "broken"
    """The connection was lost after sending: it may have begun."""


class Denial(Enum):
    """Why a second copy that was due was not sent."""

    BUDGET = "budget"
    NO_REPLICA = "no_replica"
    """No other replica holds the version and is fit for it."""
    OVERLOADED = "overloaded"
    """Most of the version's replicas have more to do than usual."""
    VERSION = "version"
    """The request would go to another version by now."""
    SPENT = "spent"
    """The request has had its hedge, or its deadline has passed."""


class Purse(Protocol):
    """What pays for extra copies: a `Budget`, or an `Account` of several."""

    def take_retry(self, now: float) -> bool: ...

    def take_hedge(self, now: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds and counts."""

    patience: float = 1.0
    most_broken: int = 2
    first_pause: float = 0.02
    longest_pause: float = 0.2


class Send:
    """Send a copy to one of these. (No dataclass: one is made per request, and a compiled class is made faster.)"""

    __slots__ = ("among",)

    def __init__(self, among: tuple[ReplicaAddress, ...]) -> None:
        self.among = among

    def __repr__(self) -> str:
        return f"Send({[address.replica for address in self.among]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Send) and self.among == other.among

    def __hash__(self) -> int:
        return hash(self.among)


class PassOn:
    """Send the request as it came to the routers of one of these cells, the first that is not resting."""

    __slots__ = ("among",)

    def __init__(self, among: tuple[ReplicaAddress, ...]) -> None:
        self.among = among

    def __repr__(self) -> str:
        return f"PassOn({[address.cell for address in self.among]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PassOn) and self.among == other.among

    def __hash__(self) -> int:
        return hash(self.among)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until this time or a new table, then resolve again and ask again."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    error: BerthError


class Attempts:
    """The state of one request's attempts; one object per request."""

    __slots__ = (
        "_broken",
        "_budget",
        "_deadline",
        "_hedge_after",
        "_hedged",
        "_idempotent",
        "_last",
        "_patient_until",
        "_pause",
        "_rules",
        "_sent",
        "_tried",
        "denied",
    )

    def __init__(
        self, rules: Rules, budget: Purse, *, deadline: float, idempotent: bool, hedge_after: float | None = None
    ) -> None:
        self._rules = rules
        self._budget = budget
        self._deadline = deadline
        self._idempotent = idempotent
        # Plain tuples equal to a `Place`, which are quicker to make.
        self._tried: set[tuple[str, str]] = set()
        self._sent = 0
        self._broken = 0
        self._last: Failure | None = None
        self._hedge_after = hedge_after
        self._hedged = False
        # Whether a twin was due and not sent; kept here for `hedging`, which counts requests and not their questions.
        self.denied = False
        self._pause = rules.first_pause
        self._patient_until: float | None = None

    @property
    def sent(self) -> int:
        """Copies sent so far, hedges included."""
        return self._sent

    @property
    def may_hedge(self) -> bool:
        """Whether the request has, or may come to have, a second copy beside the first."""
        return self._hedge_after is not None and self._idempotent

    def next_step(
        self, now: float, candidates: Sequence[ReplicaAddress], beyond: Sequence[ReplicaAddress] = ()
    ) -> Send | PassOn | Pause | GiveUp:
        """What to do while no copy is under way. `candidates` hold the version now; they may be none. `beyond` are the
        routers of other cells that may answer."""
        if now >= self._deadline:
            return GiveUp(DeadlineExceeded("the deadline passed before a replica answered"))
        if self._last is Failure.BROKEN and (refusal := self._refuse_repeat(now)) is not None:
            return GiveUp(refusal)
        # The reaction to the last failure is decided: asking again after a pause must not pay twice.
        self._last = None
        fresh = self._fresh(candidates)
        if fresh:
            return Send(fresh)
        if beyond and (further := self._fresh(beyond)):
            return PassOn(further)
        return self._pause_or_give_up(now, "here or in another cell" if beyond else "")

    def hedge_delay(self, candidates: Sequence[ReplicaAddress]) -> float | None:
        """Seconds after which the copy just sent may get a twin; None if it never may."""
        if self._hedged or not self._idempotent or len(candidates) < 2:
            return None
        return self._hedge_after

    def hedge(
        self, now: float, first: VersionKey, current: VersionKey, candidates: Sequence[ReplicaAddress]
    ) -> Send | Denial:
        """Where to send a twin of the copy under way for version `first`, or why it must not or cannot be sent.

        `current` is the version in the table now, `candidates` are its replicas that may get a twin.
        """
        if self._hedged or not self._idempotent or now >= self._deadline:
            return Denial.SPENT
        if current != first:
            return Denial.VERSION
        fresh = self._fresh(candidates)
        if not fresh:
            return Denial.NO_REPLICA
        if not self._budget.take_hedge(now):
            return Denial.BUDGET
        self._hedged = True
        return Send(fresh)

    def began(self, address: ReplicaAddress) -> None:
        """A copy goes to `address`."""
        self._sent += 1
        self._tried.add((address.replica, address.incarnation))

    def failed(self, failure: Failure) -> None:
        """A copy brought no answer."""
        self._last = failure if self._last is not Failure.BROKEN else self._last
        if failure is Failure.BROKEN:
            self._broken += 1

    def _fresh(self, candidates: Sequence[ReplicaAddress]) -> tuple[ReplicaAddress, ...]:
        """Those of `candidates` that have not been tried in this round."""
        tried = self._tried
        if not tried:
            return tuple(candidates)
        return tuple([address for address in candidates if (address.replica, address.incarnation) not in tried])

    def _refuse_repeat(self, now: float) -> BerthError | None:
        if not self._idempotent or self._broken >= self._rules.most_broken or not self._budget.take_retry(now):
            return Unavailable("the connection to the model was lost before it answered")
        return None

    def _pause_or_give_up(self, now: float, where: str) -> Pause | GiveUp:
        if self._patient_until is None:
            self._patient_until = min(self._deadline, now + self._rules.patience)
        if now >= self._patient_until:
            return GiveUp(Unavailable(f"no replica of the model could be reached{where and ', '}{where}"))
        until = min(self._patient_until, now + self._pause)
        self._pause = min(self._rules.longest_pause, self._pause * 2)
        self._tried.clear()
        return Pause(until)
