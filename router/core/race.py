"""The race of one request: its copies, from the first that is sent to the one whose answer counts.

Facts go in, with the time; out comes what to do, one of the steps below. A step's details are in the attributes named
beside it, so that the usual request makes no objects. Before any step is carried out, the copies in `losers` have to be
withdrawn. The rules, beside those of `attempts` and `hedging`:

1. At most two copies are under way, and at most one of them is a twin.
2. The first good answer wins. A bad answer that another replica might better is kept while a copy is under way. It
   counts if that copy does no better.
3. An answer that passes through as it comes has won when it begins; a bad one does not win so while there is another.
4. Of two tied copies, the first that starts to compute stays. The other is withdrawn if it still waits.
5. The end of every copy is told to `selection`, once, as what it says of the replica.
"""

from __future__ import annotations

from typing import Final

from berth.errors import BerthError, DeadlineExceeded, Unavailable
from berth.model import ReplicaAddress
from router.core.attempts import Attempts, Denial, Failure, GiveUp, PassOn, Pause, Rules, Send
from router.core.budget import Budgets
from router.core.hedging import HedgeEvent, Hedging
from router.core.latency import Latencies
from router.core.routes import Resolved
from router.core.selection import CopyOutcome, Dice, Done, Selection

WAIT: Final = 0
"""For what is under way."""
SEND: Final = 1
"""A copy to `to` under the name `servable`: as a twin, if `twin`; without a name as it came, to another cell. Then say
`enters`."""
ANSWER: Final = 2
"""The race is over: `answer` counts, which `by` gave."""
PASS_THROUGH: Final = 3
"""The copy whose answer begins has won: pass its answer on as it comes."""
END: Final = 4
"""The answer that passed through has ended, with `answer`, given by `by`."""
BREAK: Final = 5
"""The answer that passed through, of `by`, will not come to its end."""
LOOK_AGAIN: Final = 6
"""Resolve anew, and say `again`."""
PAUSE: Final = 7
"""Until `until` or a new table; then resolve anew, and say `again`."""
GIVE_UP: Final = 8
"""With `error`. `by` is who kept the request until then, if somebody did."""
ASK_LATER: Final = 9
"""No twin now; say `hedge_due` at `until`."""

STEPS: Final = (
    "WAIT", "SEND", "ANSWER", "PASS_THROUGH", "END", "BREAK", "LOOK_AGAIN", "PAUSE", "GIVE_UP", "ASK_LATER",
)  # fmt: skip

NO_TWIN: Final = 0.0

# A worker's wish is honoured, but not without end; seconds.
_LONGEST_PUSHBACK: Final = 60.0

_OUTCOMES: Final = {
    Failure.UNREACHED: CopyOutcome.UNREACHABLE,
    Failure.BROKEN: CopyOutcome.UNREACHABLE,
    Failure.NOT_STARTED: CopyOutcome.OTHER,
}


class Course:
    """Shared by all races of a process. `tied`: twins know of each other (`berth-twin`)."""

    __slots__ = ("budgets", "dice", "hedging", "latencies", "rules", "selection", "tied")

    def __init__(
        self,
        selection: Selection,
        hedging: Hedging,
        budgets: Budgets,
        latencies: Latencies,
        rules: Rules,
        dice: Dice,
        *,
        tied: bool = False,
    ) -> None:
        self.selection = selection
        self.hedging = hedging
        self.budgets = budgets
        self.latencies = latencies
        self.rules = rules
        self.dice = dice
        self.tied = tied


class Runner:
    """A copy of a request, as far as a race must know it. Without a `servable` it goes to another cell's routers.

    `begun`: its answer passes through as it comes. `started`: the replica said that it has begun to compute (asked only
    of tied copies). `outcome`: what it came to, once it has ended.
    """

    __slots__ = ("address", "begun", "done", "outcome", "servable", "started", "twin")

    def __init__(self, address: ReplicaAddress, servable: str, twin: bool) -> None:
        self.address = address
        self.servable = servable
        self.twin = twin
        self.begun = False
        self.started = False
        self.outcome: CopyOutcome | None = None
        self.done: Done


class Race:
    """One object per request. `size`: bytes of the body. `infer`: its latency is learned, and it may be hedged.
    `hedge`: the client does not mind a second copy."""

    __slots__ = (
        "_attempts", "_course", "_line", "_resolved", "_spare_by", "_started_at", "answer", "by", "error", "losers",
        "runners", "servable", "to", "twin", "until",
    )  # fmt: skip

    def __init__(
        self,
        course: Course,
        resolved: Resolved,
        now: float,
        *,
        size: int,
        deadline: float,
        idempotent: bool,
        infer: bool,
        hedge: bool,
    ) -> None:
        self._course = course
        self._resolved = resolved
        self._started_at = now
        account = course.budgets.account(resolved.key)
        in_hand = account.deposit(now)
        self._line = course.latencies.line(resolved.key, size, now) if infer else None
        self._attempts = Attempts(
            course.rules,
            account,
            deadline=deadline,
            idempotent=idempotent,
            hedge_after=course.hedging.arm(
                self._line, allowed=infer and hedge and idempotent, replicas=len(resolved.replicas), in_hand=in_hand
            ),
        )
        self.runners: list[Runner] = []
        # `answer` may hold a replica's refusal, in case the twin does no better; this names that replica.
        self._spare_by = ""
        self.answer: object = None
        self.by = ""
        self.losers: list[Runner] | None = None
        self.error: BerthError | None = None
        self.until = 0.0
        self.to: ReplicaAddress
        self.servable = ""
        self.twin = False

    def __repr__(self) -> str:
        return f"<Race {[runner.address.replica for runner in self.runners]}>"

    @property
    def sent(self) -> int:
        """Copies sent so far."""
        return self._attempts.sent

    @property
    def tied(self) -> bool:
        """Whether a copy sent now is marked as one that has or may get a twin."""
        return self._course.tied and self._attempts.may_hedge

    @property
    def may_want_twin(self) -> bool:
        """Whether `hedge_due` is a question: one copy is under way, at a replica."""
        runners = self.runners
        return len(runners) == 1 and bool(runners[0].servable)

    # ── To be sent ─────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, now: float) -> int:
        """The first step."""
        resolved = self._resolved
        return self._next(resolved.replicas, resolved.beyond, now)

    def again(self, resolved: Resolved | None, now: float) -> int:
        """The newest table was asked. None: nobody holds the version; another replica may be about to come."""
        if resolved is None:
            return self._next((), (), now)
        self._resolved = resolved
        return self._next(self._course.selection.accepting_retries(resolved.replicas, now), resolved.beyond, now)

    def _next(self, candidates: tuple[ReplicaAddress, ...], beyond: tuple[ReplicaAddress, ...], now: float) -> int:
        """While no copy is under way: send one, pass the request on, wait, or give up."""
        step = self._attempts.next_step(now, candidates, beyond)
        course = self._course
        if isinstance(step, Send):
            self.to = course.selection.pick(step.among, now, course.dice)
            self.servable = self._resolved.servable
            self.twin = False
            return SEND
        if isinstance(step, PassOn):
            # The answer says nothing of this cell's latencies, nor which version it is of.
            self.to = course.selection.first_fit(step.among, now)
            self.servable = ""
            self.twin = False
            return SEND
        if isinstance(step, Pause):
            self.until = step.until
            return PAUSE
        assert isinstance(step, GiveUp)
        self.error = step.error
        return GIVE_UP

    def enters(self, runner: Runner, now: float) -> float:
        """A copy is about to be sent. Returns when `hedge_due` is to be said, or `NO_TWIN`."""
        attempts = self._attempts
        address = runner.address
        attempts.began(address)
        self.runners.append(runner)
        selection = self._course.selection
        if not runner.servable:
            runner.done = selection.begin(address, now)
            return NO_TWIN
        runner.done = selection.begin(address, now, self._line, twin=runner.twin)
        if runner.twin:
            return NO_TWIN
        delay = attempts.hedge_delay(self._resolved.replicas)
        return NO_TWIN if delay is None else now + delay

    def hedge_due(self, current: Resolved, now: float) -> int:
        """The first copy takes unusually long, and `may_want_twin`. `current` is what the newest table says."""
        course = self._course
        first = self.runners[0]
        address = course.hedging.twin(
            self._attempts,
            first.address,
            (self._resolved.key, current.key),
            current.replicas,
            now=now,
            dice=course.dice,
        )
        if isinstance(address, Denial):
            delay = course.hedging.again(address, now - self._started_at)
            if delay is None:
                return WAIT
            self.until = now + delay
            return ASK_LATER
        self.to = address
        self.servable = self._resolved.servable
        self.twin = True
        return SEND

    # ── What becomes of the copies ─────────────────────────────────────────────────────────────────────────────

    def answered(self, runner: Runner, answer: object, now: float, *, faulty: bool, pushback: float | None) -> int:
        """The whole answer of a copy, or (`begun`) the end of one that passed through. `faulty`: another replica might
        better it. `pushback`: for so long, s, the replica asks to be spared second copies."""
        self.runners.remove(runner)
        self._end(runner, CopyOutcome.FAULTY if faulty else CopyOutcome.ANSWERED, now)
        if pushback is not None:
            self._heed(runner.address, pushback, now)
        if runner.begun:
            self.answer, self.by = answer, runner.address.replica
            return END
        if faulty and self.runners:
            self.answer, self._spare_by = answer, runner.address.replica
            return WAIT
        if runner.twin:
            self._course.hedging.count(HedgeEvent.WON)
        if self.answer is not None:
            self._course.hedging.count(HedgeEvent.WASTED)
        self.answer, self.by = answer, runner.address.replica
        if self.runners:
            self._recall(now)
        return ANSWER

    def begins(self, runner: Runner, now: float, *, faulty: bool) -> int:
        """The answer of a copy is too long to be held back, or is wanted as it comes. `WAIT`: hold it back still."""
        if faulty and len(self.runners) > 1:
            return WAIT
        if runner.twin:
            self._course.hedging.count(HedgeEvent.WON)
        if self.answer is not None:
            self._course.hedging.count(HedgeEvent.WASTED)
            self.answer = None
        runner.begun = True
        if len(self.runners) > 1:
            self.runners.remove(runner)
            self._recall(now)
            self.runners.append(runner)
        return PASS_THROUGH

    def begins_to_run(self, runner: Runner, now: float) -> int:
        """The replica of a tied copy has begun to compute."""
        runner.started = True
        if len(self.runners) > 1:
            for other in self.runners:
                if not other.started:
                    self.runners.remove(other)
                    self._course.hedging.count(HedgeEvent.RECALLED)
                    # A first copy that gives way has waited unusually long; a twin only came too late.
                    self._end(other, CopyOutcome.OTHER if other.twin else CopyOutcome.LOST, now)
                    self.losers = [other]
                    break
        return WAIT

    def failed(self, runner: Runner, failure: Failure, now: float, *, pushback: float | None, repeatable: bool) -> int:
        """A copy brought no answer. `repeatable`: all that went to it can be sent again."""
        self.runners.remove(runner)
        self._end(runner, _OUTCOMES[failure], now)
        if pushback is not None:
            self._heed(runner.address, pushback, now)
        if runner.begun:
            self.by = runner.address.replica
            return BREAK
        self._attempts.failed(failure)
        if self.runners:
            return WAIT
        if self.answer is not None:
            self.by = self._spare_by
            return ANSWER
        if not repeatable:
            self.error = Unavailable("the replica was lost when much of the stream had gone to it")
            return GIVE_UP
        return LOOK_AGAIN

    # ── Ends from without ──────────────────────────────────────────────────────────────────────────────────────

    def expire(self, now: float) -> int:
        """The deadline has passed."""
        passes_through = bool(self.runners) and self.runners[0].begun
        self._give_up_all(CopyOutcome.LOST, now)
        if passes_through:
            return BREAK
        self.error = DeadlineExceeded("the deadline passed before a replica answered")
        return GIVE_UP

    def abandon(self, now: float) -> None:
        """Nobody waits for the answer any more. `by` is who had the request."""
        self._give_up_all(CopyOutcome.OTHER, now)

    def validate(self) -> None:
        """Raise AssertionError where the parts contradict each other. No step is half carried out."""
        runners = self.runners
        assert len(runners) <= 2, "rule 1"
        assert sum(runner.twin for runner in runners) <= 1, "rule 1"
        assert len({(runner.address.replica, runner.address.incarnation) for runner in runners}) == len(runners)
        assert all(runner.outcome is None for runner in runners), "a copy under way has ended"
        assert not any(runner.begun for runner in runners) or len(runners) == 1, "rule 3"
        for loser in self.losers or ():
            assert loser.outcome is not None
            assert loser not in runners
        assert len(runners) <= self._attempts.sent

    def _give_up_all(self, outcome: CopyOutcome, now: float) -> None:
        runners = self.runners
        if runners:
            self.by = runners[0].address.replica
            self.losers, self.runners = runners, []
            for runner in runners:
                self._end(runner, outcome, now)

    def _recall(self, now: float) -> None:
        """Those still under way have lost."""
        losers, self.runners = self.runners, []
        self.losers = losers
        for loser in losers:
            self._course.hedging.count(HedgeEvent.RECALLED)
            self._end(loser, CopyOutcome.LOST, now)

    def _end(self, runner: Runner, outcome: CopyOutcome, now: float) -> None:
        runner.outcome = outcome
        runner.done(outcome, now)

    def _heed(self, address: ReplicaAddress, pushback: float, now: float) -> None:
        self._course.selection.push_back(address, now + min(pushback, _LONGEST_PUSHBACK))
