"""Where requests wait: for a slot of the router, or for their model to be loaded. The shell around `Admission`.

It knows no engine. `enter` answers at once or later through a callable; `admit` is the same for coroutines. After
`withdraw` nobody is called, and a slot that nobody takes goes to the next in line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from berth.errors import BerthError, DeadlineExceeded
from berth.ids import VersionKey
from berth.model import TenantLimits
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes
from router.core.accounts import Admitted, NotAdmitted, Settled, Ticket, Why
from router.core.admission import Admission
from router.core.paths import Operation
from router.core.routes import ANYWHERE, NotLoaded, Resolved
from router.path.request import Request

OnAnswer = Callable[[Admitted | BerthError], bool]
"""Told how waiting ended. Returns False if nobody is left to use the slot."""

_Question = tuple[bytes | None, str, str, int]


class _Waiting(NamedTuple):
    """`question` and `key` only for a request that is held until its version is loaded."""

    ticket: Ticket
    on_answer: OnAnswer
    question: _Question | None = None
    key: VersionKey | None = None


class Gate:
    """One per process, shared by all ingresses."""

    def __init__(self, board: RouteBoard, admission: Admission, wishes: Wishes, metrics: RouterMetrics) -> None:
        self._board = board
        self._admission = admission
        self._wishes = wishes
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, _Waiting] = {}
        # The held ones, by their question: so a new table is asked each question once.
        self._held: dict[_Question, dict[int, _Waiting]] = {}
        self._timer: asyncio.TimerHandle | None = None
        board.watch(lambda _: self._look_again())

    def __repr__(self) -> str:
        return f"<Gate {self._admission!r}>"

    @property
    def admission(self) -> Admission:
        return self._admission

    def check(
        self, operation: Operation, api_key: bytes | None, model: str, version: str, reach: int = ANYWHERE
    ) -> None:
        """Raise the errors of `enter` that need no body: a request can be refused before its body is read."""
        limits: TenantLimits | None
        try:
            resolved = self._board.routes.resolve(api_key, model, version, reach)
            tenant, limits = resolved.key.tenant, resolved.limits
        except NotLoaded as error:
            if not self._may_hold(operation, error):
                raise
            tenant, limits = error.key.tenant, error.limits
        refused = self._admission.check(tenant, limits, self._loop.time())
        if refused is not None:
            raise self._counted(refused)

    def enter(self, request: Request, on_answer: OnAnswer) -> Admitted | Ticket:
        """A slot, or a ticket if it has to wait: then `on_answer` is told later, once. Raises `BerthError`.

        Whoever waited resolves it anew: the table may be another one.
        """
        now = self._loop.time()
        size = len(request.body)
        try:
            resolved = self._board.routes.resolve(request.api_key, request.model, request.version, request.reach)
        except NotLoaded as error:
            return self._enter_cold(request, error, on_answer, now)
        key = resolved.key
        answer = self._admission.enter(key.tenant, resolved.limits, now, size=size, deadline=request.deadline)
        if isinstance(answer, Admitted):
            return answer
        if isinstance(answer, NotAdmitted):
            raise self._counted(answer)
        self._wait(_Waiting(answer.ticket, on_answer))
        return answer.ticket

    def wish_for(self, resolved: Resolved) -> None:
        """Another cell answers for a version that is not loaded here. If it is to be loaded here, wish for it."""
        if resolved.assigned and not resolved.replicas:
            self._wishes.ask(resolved.key, self._loop.time())

    def leave(self, slot: Admitted) -> None:
        """Give a slot back. Those who get it are told before this returns."""
        now = self._loop.time()
        settled = self._admission.leave(slot, now)
        if settled:
            self._settle(settled, now)

    def withdraw(self, ticket: Ticket) -> None:
        """The client has gone. What has been answered already stays so: its slot is the caller's to give back."""
        self._admission.abandon(ticket)
        self._remove(ticket)
        self._measure()

    async def admit(self, request: Request) -> Admitted:
        """A slot for `request`, now or later. Raises `BerthError`. Cancelling it withdraws."""
        answer: asyncio.Future[Admitted] = self._loop.create_future()

        def on_answer(how: Admitted | BerthError) -> bool:
            if answer.done():
                return False
            if isinstance(how, BerthError):
                answer.set_exception(how)
            else:
                answer.set_result(how)
            return True

        entered = self.enter(request, on_answer)
        if isinstance(entered, Admitted):
            return entered
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # The slot was given just as the client left.
                self.leave(answer.result())
            self.withdraw(entered)
            raise

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _may_hold(self, operation: Operation, error: NotLoaded) -> bool:
        # Questions about a model can be answered while it is not loaded; only inference is worth loading it for.
        return operation is Operation.INFER and not error.failed and self._admission.holds

    def _enter_cold(self, request: Request, error: NotLoaded, on_answer: OnAnswer, now: float) -> Ticket:
        if request.operation is Operation.INFER and not error.failed:
            self._wishes.ask(error.key, now)
        if not self._may_hold(request.operation, error) or error.may_be_had_by(request.sender):
            self._metrics.refused.labels(Why.COLD.value).inc()
            raise error
        answer = self._admission.enter(
            error.key.tenant, error.limits, now, size=len(request.body), deadline=request.deadline, cold=True
        )
        # A held request has no slot.
        assert not isinstance(answer, Admitted)
        if isinstance(answer, NotAdmitted):
            refusal = self._counted(answer)
            raise error if answer.why is Why.COLD else refusal
        ticket = answer.ticket
        self._wishes.ask(error.key, ticket.until)
        question = (request.api_key, request.model, request.version, request.reach)
        self._wait(_Waiting(ticket, on_answer, question, error.key))
        return ticket

    def _look_again(self) -> None:
        """A new table: which held requests have their version loaded now, and which asked for one that is gone?"""
        if not self._held:
            return
        now = self._loop.time()
        settled: list[Settled] = []
        for question, held in list(self._held.items()):
            tickets = [waiting.ticket for waiting in held.values()]
            try:
                self._board.routes.resolve(*question)
            except NotLoaded as not_loaded:
                if not not_loaded.failed:
                    continue
                settled += self._refuse(tickets, not_loaded)
            except BerthError as error:
                settled += self._refuse(tickets, error)
            else:
                settled += self._admission.warm(tickets, now)
                del self._held[question]
            for key in {waiting.key for waiting in held.values() if waiting.key is not None}:
                self._wishes.fulfilled(key)
        self._settle(settled, now)

    def _refuse(self, tickets: list[Ticket], error: BerthError) -> list[Settled]:
        for ticket in tickets:
            self._admission.abandon(ticket)
        return [Settled(ticket, NotAdmitted(error, Why.COLD)) for ticket in tickets]

    def _wait(self, waiting: _Waiting) -> None:
        number = waiting.ticket.number
        self._waiting[number] = waiting
        if waiting.question is not None:
            self._held.setdefault(waiting.question, {})[number] = waiting
        self._arm()
        self._measure()

    def _remove(self, ticket: Ticket) -> _Waiting | None:
        waiting = self._waiting.pop(ticket.number, None)
        if waiting is not None and waiting.question is not None and waiting.question in self._held:
            held = self._held[waiting.question]
            held.pop(ticket.number, None)
            if not held:
                del self._held[waiting.question]
        return waiting

    def _settle(self, settled: list[Settled], now: float) -> None:
        # Not by recursion: a slot that nobody takes settles the next one, and a thousand may have left at once.
        left = deque(settled)
        while left:
            ticket, answer = left.popleft()
            waiting = self._remove(ticket)
            if isinstance(answer, NotAdmitted):
                if waiting is not None:
                    waiting.on_answer(self._progress(waiting, self._counted(answer)))
            elif waiting is None or not waiting.on_answer(answer):
                left.extend(self._admission.leave(answer, now))
        self._arm()
        self._measure()

    def _progress(self, waiting: _Waiting, error: BerthError) -> BerthError:
        """For a request that was held in vain: its version's state in the newest table."""
        if waiting.question is None or isinstance(error, NotLoaded):
            return error
        try:
            self._board.routes.resolve(*waiting.question)
        except BerthError as reason:
            if isinstance(reason, NotLoaded) and isinstance(error, DeadlineExceeded):
                return DeadlineExceeded(f"the deadline passed: {reason.detail}")
            return reason
        return error

    def _arm(self) -> None:
        at = self._admission.next_expiry()
        if self._timer is not None and (at is None or at < self._timer.when()):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and at is not None:
            self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._settle(self._admission.expire(now), now)

    def _counted(self, refused: NotAdmitted) -> BerthError:
        self._metrics.refused.labels(refused.why.value).inc()
        return refused.error

    def _measure(self) -> None:
        self._metrics.waiting.labels("slot").set(self._admission.queued)
        self._metrics.waiting.labels("model").set(self._admission.held)
