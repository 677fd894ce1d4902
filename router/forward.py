"""Carries a request to a replica that holds its version: resolves, admits, picks, races, repeats.

What to do next is decided by `router.core`; this shell performs it. It knows no engine: upstreams are a protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from berth.errors import BerthError, DeadlineExceeded, Unavailable
from berth.model import ReplicaAddress
from router.board import RouteBoard
from router.call import Call, Failed, Reply
from router.core.admission import Admission
from router.core.attempts import Attempts, Failure, GiveUp, Pause, Rules, Send
from router.core.budget import Budget
from router.core.routes import Resolved
from router.core.selection import Dice, Outcome, Selection
from router.metrics import RouterMetrics
from router.upstreams import Upstreams

log = structlog.get_logger(__name__)

_OUTCOMES = {
    Failure.UNREACHED: Outcome.UNREACHABLE,
    Failure.BROKEN: Outcome.UNREACHABLE,
    Failure.NOT_STARTED: Outcome.OTHER,
}


@dataclass(slots=True)
class Forwarder:
    """One per process, shared by all ingresses: budget, admission and load are the process's."""

    board: RouteBoard
    upstreams: Upstreams
    selection: Selection
    admission: Admission
    budget: Budget
    rules: Rules
    metrics: RouterMetrics
    dice: Dice
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, repr=False)

    def check(self, api_key: bytes | None, model: str, version: str) -> None:
        """Raise what `forward` would raise at once, so that a request can be refused before its body is read."""
        self.board.routes.resolve(api_key, model, version)

    async def forward(self, call: Call) -> Reply:
        """The answer of a replica, good or bad. Raises `BerthError` when none could give one.

        Cancelling it withdraws every copy of the request before it returns.
        """
        now = self._loop.time()
        resolved = self.board.routes.resolve(call.api_key, call.model, call.version)
        tenant = resolved.key.tenant
        self.admission.enter(tenant, resolved.limits, now)
        self.metrics.in_flight.inc()
        try:
            self.budget.deposit(now)
            async with asyncio.timeout_at(call.deadline):
                return await self._answer(call, resolved)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a replica answered") from None
        finally:
            self.admission.leave(tenant)
            self.metrics.in_flight.dec()

    async def _answer(self, call: Call, resolved: Resolved) -> Reply:
        attempts = Attempts(self.rules, self.budget, deadline=call.deadline, idempotent=call.idempotent)
        candidates = resolved.replicas
        while True:
            # Taken before deciding, so that a table that comes meanwhile ends the pause.
            changed = self.board.next_change
            match attempts.next_step(self._loop.time(), candidates):
                case Send(among):
                    if attempts.sent:
                        self.metrics.retries.inc()
                    reply = await self._race(attempts, call, resolved, among)
                    if reply is not None:
                        return reply
                case Pause(until):
                    await _wait_until(changed, until)
                case GiveUp(error):
                    raise error
            try:
                resolved = self.board.routes.resolve(call.api_key, call.model, call.version)
                candidates = resolved.replicas
            except Unavailable:
                # Its last replica has just been withdrawn; another may be about to come.
                candidates = ()

    async def _race(
        self, attempts: Attempts, call: Call, resolved: Resolved, among: Sequence[ReplicaAddress]
    ) -> Reply | None:
        """The answer of one copy, or of its twin if that comes first; None if both failed.

        As in trio's happy eyeballs: start one, wait for the delay, start the other, the first success cancels the
        rest, and nobody is left behind.
        """
        address = self._pick(attempts, among)
        delay = attempts.hedge_delay(resolved.replicas)
        if delay is None:
            return await self._send(attempts, call, resolved, address)
        spare: Reply | None = None
        async with asyncio.TaskGroup() as group:
            primary = group.create_task(self._send(attempts, call, resolved, address))
            twin: asyncio.Task[Reply | None] | None = None
            copies = [primary]
            try:
                await asyncio.wait(copies, timeout=delay)
                if not primary.done() and (other := self._pick_twin(attempts, call, resolved)) is not None:
                    twin = group.create_task(self._send(attempts, call, resolved, other))
                    copies.append(twin)
                while copies:
                    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                    for copy in [copy for copy in copies if copy.done()]:
                        copies.remove(copy)
                        reply = copy.result()
                        if reply is None:
                            continue
                        if reply.faulty and copies:
                            spare = reply
                            continue
                        if copy is twin:
                            self.metrics.hedges.labels("won").inc()
                        return reply
            finally:
                for copy in copies:
                    copy.cancel()
        return spare

    def _pick(self, attempts: Attempts, among: Sequence[ReplicaAddress]) -> ReplicaAddress:
        address = self.selection.pick(among, self._loop.time(), self.dice)
        attempts.began(address)
        return address

    def _pick_twin(self, attempts: Attempts, call: Call, resolved: Resolved) -> ReplicaAddress | None:
        try:
            current = self.board.routes.resolve(call.api_key, call.model, call.version)
        except BerthError:
            # Whatever the current table says against the model, the copy under way may still answer.
            return None
        step = attempts.hedge(self._loop.time(), resolved.key, current.key, current.replicas)
        self.metrics.hedges.labels("denied" if step is None else "sent").inc()
        return None if step is None else self._pick(attempts, step.among)

    async def _send(self, attempts: Attempts, call: Call, resolved: Resolved, address: ReplicaAddress) -> Reply | None:
        """One copy to one replica: its answer, or None after telling `attempts` why there is none."""
        done = self.selection.begin(address)
        outcome = Outcome.OTHER
        try:
            with self.upstreams.use(call.wire, address) as upstream:
                reply = await upstream.send(call, resolved.key.servable, call.deadline - self._loop.time())
            outcome = Outcome.ANSWERED
        except Failed as failed:
            outcome = _OUTCOMES[failed.failure]
            attempts.failed(failed.failure)
            self.metrics.failures.labels(failed.failure.value).inc()
            log.info(
                "attempt failed",
                request_id=call.request_id,
                replica=address.replica,
                failure=failed.failure.value,
                why=str(failed),
            )
            return None
        else:
            return reply
        finally:
            done(outcome, self._loop.time())


async def _wait_until(event: asyncio.Event, until: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await event.wait()
