"""One request on its way: admitted, raced, concluded. The shell around `router.core.race`, in callbacks.

Every event in the life of a request is a method here. Each tells the race or the gate, and carries out the step that
comes back; nothing waits. `answering` decides what reaches the client. `watchers` are told the rest.
"""

from __future__ import annotations

from typing import Final

from berth.errors import BerthError, Unavailable
from berth.headers import TWIN
from router.core.accounts import Admitted, Ticket
from router.core.attempts import Failure
from router.core.paths import Operation
from router.core.race import (
    ANSWER,
    ASK_LATER,
    BREAK,
    END,
    GIVE_UP,
    LOOK_AGAIN,
    NO_TWIN,
    PASS_THROUGH,
    PAUSE,
    SEND,
    WAIT,
    Race,
)
from router.core.routes import Resolved
from router.core.tallies import BAD, CACHED, GOOD, NONE
from router.path.answer import WITHOUT_END, Answer
from router.path.meeting import Asking, Copy, UnderWay
from router.path.race.means import Means
from router.path.wheel import NEVER

_FOREVER: Final = float("inf")


class Passage(UnderWay):
    """`start` it once. It ends by telling its request, or by `cancel`."""

    __slots__ = (
        "_deadline_slot", "_hedge_slot", "_means", "_over", "_pause_slot", "_race", "_resolved", "_slot", "_started",
        "_ticket",
    )  # fmt: skip

    def __init__(self, means: Means, request: Asking) -> None:
        super().__init__(request)
        self._means = means
        request.under_way = self
        self._race: Race | None = None
        self._resolved: Resolved | None = None
        self._slot: Admitted | None = None
        self._ticket: Ticket | None = None
        self._deadline_slot = self._hedge_slot = self._pause_slot = NEVER
        self._over = False
        self._started = 0.0

    def __repr__(self) -> str:
        state = "over" if self._over else "waiting" if self._ticket else "under way"
        return f"<Passage {state} {self._race}>"

    # ── In ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        means, request = self._means, self.request
        if means.followers:
            for follower in means.followers:
                follower.starts(request)
        try:
            means.answering.prepare(request)
            entered = means.gate.enter(request, self._on_admission)
        except BerthError as error:
            self._refuse(error, "")
            return
        if isinstance(entered, Ticket):
            self._ticket = entered
        else:
            self._slot = entered
            self._proceed()

    def _on_admission(self, how: Admitted | BerthError) -> bool:
        """Waiting has ended. What follows does so in a turn of its own: a thousand may be let in at once."""
        if self._over:
            return False
        self._ticket = None
        if isinstance(how, BerthError):
            self._means.call_soon(self._refuse, how, "")
        else:
            self._slot = how
            self._means.call_soon(self._proceed)
        return True

    def _proceed(self) -> None:
        if self._over:
            return
        means, request = self._means, self.request
        try:
            # Only now: the table may have changed while the request waited.
            resolved = self._resolve()
        except BerthError as error:
            self._refuse(error, "")
            return
        self._resolved = resolved
        if means.followers:
            for follower in means.followers:
                follower.resolved(request, resolved)
        self._started = now = means.time()
        if request.digest is not None and resolved.replicas:
            kept = means.answering.remembered(request, resolved.key, now)
            if kept is not None:
                self._conclude(CACHED, "")
                request.answered(kept)
                return
        if request.deadline != _FOREVER:
            self._deadline_slot = means.clocks.deadlines.add(self, request.deadline)
        self._race = race = Race(
            means.course,
            resolved,
            now,
            size=len(request.body),
            deadline=request.deadline,
            idempotent=request.idempotent,
            infer=request.operation is Operation.INFER,
            hedge=request.hedge,
        )
        self._carry_out(race, race.start(now), now)

    def _resolve(self) -> Resolved:
        """What is asked, by the newest table."""
        request = self.request
        return self._means.board.routes.resolve(request.api_key, request.model, request.version, request.reach)

    # ── What the race says ─────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, race: Race, step: int, now: float) -> None:
        if race.losers is not None:
            self._withdraw_losers(race)
        if step == SEND:
            self._send(race, now)
        elif step == ANSWER:
            answer = race.answer
            assert isinstance(answer, Answer)
            self._conclude(BAD if answer.faulty else GOOD, race.by)
            self._means.answering.give(self.request, answer)
        elif step == END:
            answer = race.answer
            assert isinstance(answer, Answer)
            self._conclude(BAD if answer.faulty else GOOD, race.by)
            self.request.ended(answer)
        elif step == BREAK:
            self._conclude(BAD, race.by)
            self.request.broken()
        elif step == LOOK_AGAIN:
            self._look_again(race, now)
        elif step == PAUSE:
            clocks = self._means.clocks
            clocks.paused.add(self)
            self._pause_slot = clocks.pauses.add(self, race.until)
        elif step == GIVE_UP:
            assert race.error is not None
            self._refuse(race.error, race.by)
        elif step == ASK_LATER:
            self._hedge_slot = self._means.clocks.hedges.add(self, race.until)

    def _send(self, race: Race, now: float) -> None:
        """A copy to a replica; or, as it came, to another cell's routers, who hedge it if it has to be."""
        means, request = self._means, self.request
        copy = Copy(self, race.to, race.servable, race.twin)
        attempt = "hedge" if copy.twin else "first"
        if not copy.twin:
            if race.sent:
                attempt = "retry"
                request.went_to = ""
                for watcher in means.watchers:
                    watcher.repeated(request)
            if not copy.servable:
                self._goes_beyond(copy)
        hedge_at = race.enters(copy, now)
        copy.pool = means.upstreams.borrow(request.wire, copy.address)
        if means.followers:
            for follower in means.followers:
                follower.sends(copy, attempt)
        if race.tied and copy.servable:
            copy.fields = (*copy.fields, (TWIN, b"%b-%d" % (request.request_id, 1 if copy.twin else 2)))
        copy.pool.upstream.send(copy)
        if hedge_at != NO_TWIN:
            hedges = means.clocks.hedges
            if self._hedge_slot != NEVER:
                hedges.discard(self, self._hedge_slot)
            self._hedge_slot = hedges.add(self, hedge_at)

    def _goes_beyond(self, copy: Copy) -> None:
        means, request = self._means, self.request
        request.went_to = copy.address.cell
        for watcher in means.watchers:
            watcher.passed_on(request, request.went_to)
        if request.operation is Operation.INFER and self._resolved is not None:
            means.gate.wish_for(self._resolved)

    def _look_again(self, race: Race, now: float) -> None:
        """If a copy could not be sent or brought no answer, ask the newest table."""
        resolved: Resolved | None
        try:
            resolved = self._resolved = self._resolve()
        except Unavailable:
            resolved = None
        except BerthError as error:
            self._refuse(error, "")
            return
        self._carry_out(race, race.again(resolved, now), now)

    def _withdraw_losers(self, race: Race) -> None:
        losers, race.losers = race.losers, None
        means = self._means
        for loser in losers or ():
            assert isinstance(loser, Copy)
            loser.withdraw()
            means.upstreams.give_back(loser.pool)
            for follower in means.followers:
                follower.ended(loser)

    # ── What becomes of the copies ─────────────────────────────────────────────────────────────────────────────

    def answered(self, copy: Copy, answer: Answer) -> None:
        means, race = self._means, self._race
        assert race is not None
        now = means.time()
        means.upstreams.give_back(copy.pool)
        step = race.answered(copy, answer, now, faulty=answer.faulty, pushback=answer.pushback)
        if means.followers:
            for follower in means.followers:
                follower.ended(copy)
        if self.request.digest is not None and copy.servable and not copy.begun and self._resolved is not None:
            means.answering.keep(self.request, self._resolved.key, answer, now)
        self._carry_out(race, step, now)

    def begins(self, copy: Copy, faulty: bool) -> None:
        means, race = self._means, self._race
        assert race is not None
        step = race.begins(copy, means.time(), faulty=faulty)
        if step == WAIT:
            copy.held_back = WITHOUT_END
            return
        assert step == PASS_THROUGH
        if race.losers is not None:
            self._withdraw_losers(race)
        means.clocks.hedges.discard(self, self._hedge_slot)
        answer = Answer(copy.head, copy.chunks, copy.size)
        answer.status = copy.head.status if copy.head is not None else 0
        copy.chunks = []
        self.request.begun(answer, copy)

    def begins_to_run(self, copy: Copy) -> None:
        race, now = self._race, self._means.time()
        assert race is not None
        self._carry_out(race, race.begins_to_run(copy, now), now)

    def failed(self, copy: Copy, failure: Failure, why: str, pushback: float | None) -> None:
        means, race = self._means, self._race
        assert race is not None
        now = means.time()
        means.upstreams.give_back(copy.pool)
        step = race.failed(copy, failure, now, pushback=pushback, repeatable=self.request.repeatable)
        for watcher in means.watchers:
            watcher.failed(copy, failure, why)
        for follower in means.followers:
            follower.ended(copy)
        self._carry_out(race, step, now)

    @property
    def only_copy(self) -> Copy | None:
        race = self._race
        if race is None or not race.runners:
            return None
        copy = race.runners[0]
        assert isinstance(copy, Copy)
        return copy

    def seconds_left(self) -> float:
        return self.request.deadline - self._means.time()

    # ── What happens meanwhile ─────────────────────────────────────────────────────────────────────────────────

    def hedge_due(self) -> None:
        race = self._race
        if self._over or race is None or not race.may_want_twin:
            return
        try:
            current = self._resolve()
        except BerthError:
            # Even if the current table refuses the model, the copy under way may still answer.
            return
        now = self._means.time()
        self._carry_out(race, race.hedge_due(current, now), now)

    def pause_over(self) -> None:
        clocks, race = self._means.clocks, self._race
        if race is not None and self in clocks.paused:
            clocks.paused.discard(self)
            clocks.pauses.discard(self, self._pause_slot)
            self._look_again(race, self._means.time())

    def deadline_passed(self) -> None:
        race = self._race
        if self._over or race is None:
            return
        now = self._means.time()
        self._carry_out(race, race.expire(now), now)

    def cancel(self) -> None:
        if self._over:
            return
        race = self._race
        if race is None:
            self._conclude(NONE, "")
            return
        race.abandon(self._means.time())
        if race.losers is not None:
            self._withdraw_losers(race)
        self._conclude(NONE, race.by)

    # ── Out ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, error: BerthError, kept_by: str) -> None:
        """`kept_by`: who had the request until it was given up."""
        if self._over:
            return
        means = self._means
        if means.followers:
            for follower in means.followers:
                follower.refused(self.request, error)
        self._conclude(NONE, kept_by)
        means.answering.refuse(self.request, error)

    def _conclude(self, outcome: str, replica: str) -> None:
        """Nothing is under way any more: give back what was taken. The answer is given after.

        `replica`: who gave it, or kept the request until it was given up; empty where nobody had it.
        """
        self._over = True
        means, request = self._means, self.request
        # No cycles are left behind: a finished request is freed at once, and the collector has nothing to look for.
        request.under_way = None
        clocks = means.clocks
        if self._deadline_slot != NEVER:
            clocks.deadlines.discard(self, self._deadline_slot)
        if self._hedge_slot != NEVER:
            clocks.hedges.discard(self, self._hedge_slot)
        if self._pause_slot != NEVER:
            clocks.paused.discard(self)
            clocks.pauses.discard(self, self._pause_slot)
        if self._ticket is not None:
            means.gate.withdraw(self._ticket)
            self._ticket = None
        elif self._slot is not None:
            resolved = self._resolved
            if resolved is not None and means.watchers:
                now = means.time()
                for watcher in means.watchers:
                    watcher.concluded(request, resolved, replica, outcome, now - self._started, now)
            means.gate.leave(self._slot)
            self._slot = None
        if means.followers:
            for follower in means.followers:
                follower.over(request, outcome)
