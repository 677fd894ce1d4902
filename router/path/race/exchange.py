"""One request on its way: admitted, sent, repeated, raced, answered. The shell around `router.core`, in callbacks.

All that may happen to a request under way is a method here: admission (`admitted`), what becomes of its copies
(`answered`, `failed`, `begins`), a new table (`pause_over`), the hedge delay and the deadline (`hedge_due`,
`deadline_passed`), and the client that leaves (`cancel`). Each changes the state and returns; nothing waits. What to do
is asked of the cores, and nowhere else in the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, Unavailable
from berth.headers import TWIN
from berth.model import ReplicaAddress
from router.core.accounts import Admitted, Ticket
from router.core.attempts import Attempts, Denial, Failure, GiveUp, PassOn, Pause, Send
from router.core.hedging import Event
from router.core.paths import Operation
from router.core.routes import Resolved
from router.core.selection import Outcome
from router.core.tallies import BAD, CACHED, GOOD, NONE
from router.path.answering.answers import default_answer, default_reply, hurried, is_no_answer
from router.path.request import WITHOUT_END, Answer, Copy, Request
from router.path.wheel import NEVER

if TYPE_CHECKING:
    from router.path.race.forward import Forwarder
    from router.path.watchers.trace import Trace

log = structlog.get_logger(__name__)

# A worker's wish is honoured, but not without end.
_LONGEST_PUSHBACK: Final = 60.0

_OUTCOMES: Final = {
    Failure.UNREACHED: Outcome.UNREACHABLE,
    Failure.BROKEN: Outcome.UNREACHABLE,
    Failure.NOT_STARTED: Outcome.OTHER,
}


class Exchange:
    """`start` it once. It ends by telling its request, or by `cancel`."""

    __slots__ = (
        "_attempts", "_begun", "_copies", "_core", "_deadline_slot", "_default", "_hedge_slot", "_line", "_over",
        "_pause_slot", "_resolved", "_slot", "_spare", "_spared_by", "_started", "_ticket", "_trace", "request",
    )  # fmt: skip

    def __init__(self, core: Forwarder, request: Request) -> None:
        self._core = core
        self.request = request
        request.exchange = self
        self._copies: list[Copy] = []
        self._begun: Copy | None = None
        # A replica's refusal that is kept for when its twin does no better, and which replica's.
        self._spare: Answer | None = None
        self._spared_by = ""
        self._slot: Admitted | None = None
        self._ticket: Ticket | None = None
        self._deadline_slot = self._hedge_slot = self._pause_slot = NEVER
        self._default = b""
        self._over = False
        self._resolved: Resolved
        self._attempts: Attempts
        self._started = 0.0
        self._trace: Trace | None = None

    def __repr__(self) -> str:
        state = "over" if self._over else "waiting" if self._ticket else "begun" if self._begun else "under way"
        return f"<Exchange {state} copies={self._copies}>"

    # ── In ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        core, request = self._core, self.request
        if core.traces is not None:
            self._trace = core.traces.begin(request)
        try:
            self._default = self._default_answer()
            if self._default:
                request.deadline = hurried(request.deadline, core.time())
            if core.kept is not None:
                request.digest = core.kept.digest_of(request.as_call())
            entered = core.gate.enter(request, self._on_admission)
        except BerthError as error:
            self._refuse(error)
            return
        if isinstance(entered, Ticket):
            self._ticket = entered
        else:
            self._slot = entered
            self._proceed()

    def _default_answer(self) -> bytes:
        core, request = self._core, self.request
        if request.operation is not Operation.INFER:
            return b""
        try:
            # Remembered by the table, unlike what follows.
            return core.board.routes.resolve(
                request.api_key, request.model, request.version, request.reach
            ).default_answer
        except BerthError:
            return default_answer(core.board, request.operation, request.api_key, request.model)

    def _on_admission(self, how: Admitted | BerthError) -> bool:
        """Waiting has ended. What follows does so in a turn of its own: a thousand may be let in at once."""
        if self._over:
            return False
        self._ticket = None
        if isinstance(how, BerthError):
            self._core.call_soon(self._refuse, how)
        else:
            self._slot = how
            self._core.call_soon(self._proceed)
        return True

    def _proceed(self) -> None:
        if self._over:
            return
        core, request = self._core, self.request
        try:
            # Only now: the table may have changed while the request waited.
            resolved = core.board.routes.resolve(request.api_key, request.model, request.version, request.reach)
        except BerthError as error:
            self._refuse(error)
            return
        self._resolved = resolved
        if self._trace is not None:
            self._trace.resolved(resolved.key)
        self._started = now = core.time()
        if core.kept is not None and resolved.replicas:
            kept = core.kept.get(request.as_call(), resolved.key, now)
            if kept is not None:
                self._conclude(CACHED)
                request.answered(Answer.of(kept))
                return
        if request.deadline != float("inf"):
            self._deadline_slot = core.deadlines.add(self, request.deadline)
        account = core.budgets.account(resolved.key)
        in_hand = account.deposit(now)
        infer = request.operation is Operation.INFER
        self._line = core.latencies.line(resolved.key, len(request.body), now) if infer else None
        allowed = infer and request.hedge and request.idempotent
        self._attempts = Attempts(
            core.rules,
            account,
            deadline=request.deadline,
            idempotent=request.idempotent,
            hedge_after=core.hedging.arm(self._line, allowed=allowed, replicas=len(resolved.replicas), in_hand=in_hand),
        )
        self._step(resolved.replicas, resolved.beyond, now)

    def _step(self, candidates: tuple[ReplicaAddress, ...], beyond: tuple[ReplicaAddress, ...], now: float) -> None:
        """While no copy is under way: send one, pass the request on, wait, or give up."""
        core, attempts = self._core, self._attempts
        step = attempts.next_step(now, candidates, beyond)
        if isinstance(step, Send):
            if attempts.sent:
                core.metrics.retries.inc()
                self.request.went_to = ""
            address = core.selection.pick(step.among, now, core.dice)
            attempts.began(address)
            self._send(address, now)
            delay = attempts.hedge_delay(self._resolved.replicas)
            if delay is not None:
                if self._hedge_slot != NEVER:
                    core.hedges.discard(self, self._hedge_slot)
                self._hedge_slot = core.hedges.add(self, now + delay)
        elif isinstance(step, PassOn):
            self._pass_on(core.selection.first_fit(step.among, now), now)
        elif isinstance(step, Pause):
            core.paused.add(self)
            self._pause_slot = core.pauses.add(self, step.until)
        else:
            assert isinstance(step, GiveUp)
            self._refuse(step.error)

    def _send(self, address: ReplicaAddress, now: float, *, twin: bool = False) -> None:
        core = self._core
        copy = Copy(self, address, self._resolved.servable, twin)
        copy.done = core.selection.begin(address, now, self._line, twin=twin)
        copy.pool = core.upstreams.take(self.request.wire, address)
        if self._trace is not None:
            self._trace.attempt(copy, first=self._attempts.sent == 1)
        if core.tied and self._attempts.may_hedge:
            copy.fields = (*copy.fields, (TWIN, b"%b-%d" % (self.request.request_id, 1 if twin else 2)))
        self._copies.append(copy)
        copy.pool.upstream.send(copy)

    def _pass_on(self, address: ReplicaAddress, now: float) -> None:
        """To another cell's routers, as it came. Its answer says nothing of this cell's latencies, nor which version it
        is of; and what may have to be hedged is hedged there."""
        core, request = self._core, self.request
        if self._attempts.sent:
            core.metrics.retries.inc()
        core.metrics.passed_on.labels(address.cell).inc()
        if request.operation is Operation.INFER:
            core.gate.wish_for(self._resolved)
        request.went_to = address.cell
        self._attempts.began(address)
        copy = Copy(self, address, "", False)
        copy.done = core.selection.begin(address, now)
        copy.pool = core.upstreams.take(request.wire, address)
        if self._trace is not None:
            self._trace.attempt(copy, first=self._attempts.sent == 1)
        self._copies.append(copy)
        copy.pool.upstream.send(copy)

    def _look_again(self) -> None:
        """What could not be sent or did not come is asked of the newest table."""
        core, request = self._core, self.request
        now = core.time()
        try:
            self._resolved = core.board.routes.resolve(request.api_key, request.model, request.version, request.reach)
            candidates = core.selection.accepting_retries(self._resolved.replicas, now)
            beyond = self._resolved.beyond
        except Unavailable:
            # Its last replica has just been withdrawn; another may be about to come.
            candidates = beyond = ()
        except BerthError as error:
            self._refuse(error)
            return
        self._step(candidates, beyond, now)

    # ── What becomes of the copies ─────────────────────────────────────────────────────────────────────────────

    def answered(self, copy: Copy, answer: Answer) -> None:
        core = self._core
        now = core.time()
        self._copies.remove(copy)
        core.upstreams.give_back(copy.pool)
        copy.done(Outcome.FAULTY if answer.faulty else Outcome.ANSWERED, now)
        self._heed(copy.address, answer.pushback, now)
        if copy.begun:
            self._conclude(BAD if answer.faulty else GOOD, copy.address.replica)
            self.request.ended(answer)
            return
        if core.kept is not None and copy.servable:
            reply = answer.as_reply(self.request.wire)
            core.kept.put(self.request.as_call(), self._resolved.key, reply, now)
        if answer.faulty and self._copies:
            self._spare = answer
            self._spared_by = copy.address.replica
            return
        if copy.twin:
            core.hedging.count(Event.WON)
        if self._spare is not None:
            core.hedging.count(Event.WASTED)
        self._withdraw_losers()
        self._answer(answer, copy.address.replica)

    def begins(self, copy: Copy) -> None:
        """The answer is too long to be held back, or is wanted as it comes: this copy has won."""
        others = [other for other in self._copies if other is not copy]
        if others and self.request.wire.value == "rest" and copy.head is not None and copy.head.status >= 500:
            copy.held_back = WITHOUT_END
            return
        if copy.twin:
            self._core.hedging.count(Event.WON)
        if self._spare is not None:
            self._core.hedging.count(Event.WASTED)
            self._spare = None
        self._copies = others
        self._withdraw_losers()
        self._copies = [copy]
        self._begun = copy
        copy.begun = True
        self._core.hedges.discard(self, self._hedge_slot)
        answer = Answer(copy.head, copy.chunks, copy.size)
        answer.status = copy.head.status if copy.head is not None else 0
        copy.chunks = []
        self.request.begun(answer, copy)

    def begins_to_run(self, copy: Copy) -> None:
        """Of two tied copies the one that comes to be computed first withdraws the other, if that still waits."""
        copy.started = True
        waiting = [other for other in self._copies if not other.started]
        if not waiting or len(self._copies) < 2:
            return
        self._copies.remove(waiting[0])
        self._core.hedging.count(Event.RECALLED)
        # A first copy that has to give way has waited longer than is usual; a twin has only come too late.
        self._end(waiting, Outcome.OTHER if waiting[0].twin else Outcome.LOST)

    def failed(self, copy: Copy, failure: Failure, why: str, pushback: float | None) -> None:
        core = self._core
        now = core.time()
        self._copies.remove(copy)
        core.upstreams.give_back(copy.pool)
        copy.done(_OUTCOMES[failure], now)
        self._heed(copy.address, pushback, now)
        core.metrics.failures.labels(failure.value).inc()
        log.info(
            "attempt failed",
            request_id=self.request.request_id.decode("latin-1"),
            replica=copy.address.replica,
            failure=failure.value,
            why=why,
        )
        if copy.begun:
            self._conclude(BAD, copy.address.replica)
            self.request.broken()
            return
        self._attempts.failed(failure)
        if self._copies:
            return
        if self._spare is not None:
            self._answer(self._spare, self._spared_by)
            return
        if not self.request.repeatable:
            self._refuse(Unavailable("the replica was lost when much of the stream had gone to it"))
            return
        self._look_again()

    @property
    def only_copy(self) -> Copy | None:
        """The copy of a request that is never hedged, while it is under way."""
        return self._copies[0] if self._copies else None

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.request.deadline - self._core.time()

    # ── What happens meanwhile ─────────────────────────────────────────────────────────────────────────────────

    def hedge_due(self) -> None:
        """The first copy takes unusually long."""
        core, request = self._core, self.request
        if self._over or len(self._copies) != 1:
            return
        first = self._copies[0]
        if not first.servable:
            return
        try:
            current = core.board.routes.resolve(request.api_key, request.model, request.version, request.reach)
        except BerthError:
            # Whatever the current table says against the model, the copy under way may still answer.
            return
        now = core.time()
        address = core.hedging.twin(
            self._attempts,
            first.address,
            (self._resolved.key, current.key),
            current.replicas,
            now=now,
            dice=core.dice,
        )
        if isinstance(address, Denial):
            delay = core.hedging.again(address, now - self._started)
            if delay is not None:
                self._hedge_slot = core.hedges.add(self, now + delay)
            return
        self._attempts.began(address)
        self._send(address, now, twin=True)

    def pause_over(self) -> None:
        """Its time has passed, or a new table has come."""
        core = self._core
        if self in core.paused:
            core.paused.discard(self)
            core.pauses.discard(self, self._pause_slot)
            self._look_again()

    def deadline_passed(self) -> None:
        if self._over:
            return
        if self._begun is not None:
            replica = self._begun.address.replica
            self._end_copies(Outcome.LOST)
            self._conclude(BAD, replica)
            self.request.broken()
            return
        self._refuse(DeadlineExceeded("the deadline passed before a replica answered"))

    def cancel(self) -> None:
        """The client has gone: every copy is withdrawn."""
        if self._over:
            return
        replica = self._holder()
        self._end_copies(Outcome.OTHER)
        self._conclude(NONE, replica)

    # ── Out ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, answer: Answer, replica: str) -> None:
        request = self.request
        by_default = bool(self._default) and is_no_answer(request.as_call(), answer.as_reply(request.wire))
        self._conclude(BAD if answer.faulty else GOOD, replica)
        if by_default:
            self._answer_by_default("a replica's refusal")
        else:
            request.answered(answer)

    def _refuse(self, error: BerthError) -> None:
        if self._over:
            return
        if self._trace is not None:
            self._trace.refused(error)
        replica = self._holder()
        self._end_copies(Outcome.LOST if isinstance(error, DeadlineExceeded) else Outcome.OTHER)
        self._conclude(NONE, replica)
        if self._default and isinstance(error, DeadlineExceeded | Unavailable):
            self._answer_by_default(error.detail)
        else:
            self.request.refused(error)

    def _answer_by_default(self, instead_of: str) -> None:
        request = self.request
        log.debug("default answer", request_id=request.request_id.decode("latin-1"), instead_of=instead_of)
        self._core.metrics.defaults.inc()
        try:
            reply = default_reply(request.as_call(), self._default)
        except Exception:
            # A named boundary: what an operator stored as an answer may not be one.
            log.exception("default answer cannot be given")
            request.refused(Internal("internal error"))
            return
        request.answered(Answer.of(reply))

    def _conclude(self, outcome: str, replica: str = "") -> None:
        """Nothing is under way any more: give back what was taken. The answer is given after.

        `replica`: who gave it, or kept the request until it was given up; empty where nobody had it.
        """
        self._over = True
        # No cycles are left behind: what is over is freed at once, and the collector has nothing to look for.
        self._begun = self.request.exchange = None
        core = self._core
        if self._deadline_slot != NEVER:
            core.deadlines.discard(self, self._deadline_slot)
        if self._hedge_slot != NEVER:
            core.hedges.discard(self, self._hedge_slot)
        if self._pause_slot != NEVER:
            core.paused.discard(self)
            core.pauses.discard(self, self._pause_slot)
        if self._ticket is not None:
            core.gate.withdraw(self._ticket)
            self._ticket = None
        elif self._slot is not None:
            if self._started and core.tallies.counts:
                now, resolved = core.time(), self._resolved
                core.tallies.add(resolved.key, resolved.servable, replica, outcome, now - self._started, now)
            core.gate.leave(self._slot)
            self._slot = None
        if self._trace is not None:
            self._trace.end(outcome)
            self._trace = None

    def _holder(self) -> str:
        return self._copies[0].address.replica if self._copies else ""

    def _withdraw_losers(self) -> None:
        if self._copies:
            for _ in self._copies:
                self._core.hedging.count(Event.RECALLED)
            self._end_copies(Outcome.LOST)

    def _end_copies(self, end: Outcome) -> None:
        copies, self._copies = self._copies, []
        self._end(copies, end)

    def _end(self, copies: list[Copy], end: Outcome) -> None:
        if copies:
            core = self._core
            now = core.time()
            for copy in copies:
                copy.withdraw()
                core.upstreams.give_back(copy.pool)
                copy.done(end, now)

    def _heed(self, address: ReplicaAddress, pushback: float | None, now: float) -> None:
        if pushback is not None:
            self._core.selection.push_back(address, now + min(pushback, _LONGEST_PUSHBACK))
