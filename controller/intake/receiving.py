"""Receives an upload and takes it to its end: what a client waits for.

A refusal, a broken connection or a failure leaves nothing. If this controller dies or stops, the upload is in the
database. If it has an idempotency key and its bytes are in the store, another controller finishes it (`resuming`). The
client hears of the version when it asks again with the same key. In every other case nothing has come of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from berth.errors import BerthError, Unavailable
from berth.ids import ModelKey
from berth.settling import settle
from controller.core.intake import Blob, Requester, UploadTicket, wish
from controller.intake import transitions
from controller.intake.lease import keep_lease
from controller.intake.metrics import IntakeMetrics
from controller.intake.spool import Admit, digest_of, spool
from controller.intake.steps import Steps, Tools
from controller.store.transaction import Tx
from controller.usecases.requests import ApiAnswer, RequestMemo, once

log = structlog.get_logger(__name__)

# Leaving nothing behind may take this long, in seconds; what is left then is found when the lease has ended.
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a client says of an upload before its body. `declared_bytes` is 0 if it does not say.

    `fingerprint` takes the digest of what came, and gives what the idempotency key stands for.
    """

    key: ModelKey
    requester: Requester
    declared_bytes: int
    expected_sha256: str | None
    fingerprint: Callable[[str], bytes]


class Receiving:
    def __init__(self, tools: Tools, steps: Steps, holder: str, metrics: IntakeMetrics) -> None:
        self._tools = tools
        self._transactions = tools.transactions
        self._steps = steps
        self._holder = holder
        self._metrics = metrics

    async def receive(self, incoming: Incoming, body: AsyncIterator[bytes]) -> ApiAnswer:
        """Make a version of `body`, or repeat the answer that the same request got before.

        Raises `QuotaExceeded` and `RateLimited` before `body` is read, `InsufficientCapacity`, `UnsupportedArtifact`,
        `DigestMismatch`, `PayloadTooLarge`, `Conflict` for a key that stood for another request, and what `body`
        raises.
        """
        declared = min(incoming.declared_bytes, self._tools.max_artifact_bytes)
        ticket = await self._transactions.run(
            lambda tx: transitions.begin(tx, incoming.key, incoming.requester, declared, self._holder), uploads=True
        )
        if ticket is None:
            return await self._repeat(incoming, body)
        try:
            async with keep_lease(self._transactions, ticket):
                return await self._work(incoming, ticket, declared, body)
        except BaseException as error:
            await settle(self._end(ticket, error))
            raise

    async def _work(
        self, incoming: Incoming, ticket: UploadTicket, declared: int, body: AsyncIterator[bytes]
    ) -> ApiAnswer:
        admit = self._admit(incoming, ticket, declared)
        tools = self._tools
        async with spool(body, incoming.expected_sha256, tools.max_artifact_bytes, tools.spool, admit) as spooled:
            self._metrics.received_bytes.inc(spooled.size_bytes)
            blobs = (Blob(spooled.sha256, spooled.size_bytes),)
            keyed = incoming.requester.idempotency_key is not None
            fingerprint = incoming.fingerprint(spooled.sha256) if keyed else None
            upload = await self._transactions.run(
                lambda tx: transitions.record_received(tx, ticket, blobs, fingerprint), uploads=True
            )
            return await self._steps.finish(upload, spooled)

    def _admit(self, incoming: Incoming, ticket: UploadTicket, reserved: int) -> Admit:
        """Reserves what comes beyond `reserved` bytes, before it is spooled."""

        async def admit(size: int) -> None:
            nonlocal reserved
            if size > reserved:
                wished = wish(size, self._tools.max_artifact_bytes)
                reserved = await self._transactions.run(
                    lambda tx: transitions.grow(
                        tx, incoming.key, incoming.requester, ticket, needed=size, wished=wished
                    ),
                    uploads=True,
                )

        return admit

    async def _repeat(self, incoming: Incoming, body: AsyncIterator[bytes]) -> ApiAnswer:
        """The answer of before, if the body is that of before."""
        sha256 = await digest_of(body, incoming.expected_sha256, self._tools.max_artifact_bytes)
        assert incoming.requester.idempotency_key is not None
        memo = RequestMemo(incoming.requester.actor, incoming.requester.idempotency_key, incoming.fingerprint(sha256))
        return await self._transactions.run(lambda tx: once(tx, memo, _forgotten))

    async def _end(self, ticket: UploadTicket, error: BaseException) -> None:
        """Leave nothing of an upload that failed. If the controller stops, leave what another one can finish."""
        stopping = isinstance(error, asyncio.CancelledError)
        try:
            async with asyncio.timeout(_END_S):
                await (self._steps.leave(ticket) if stopping else self._steps.withdraw(ticket))
        except (BerthError, TimeoutError) as failure:
            log.warning("an upload is left to end by its lease", upload=ticket.upload, error=repr(failure))


async def _forgotten(tx: Tx) -> ApiAnswer:
    raise Unavailable("the answer to this Idempotency-Key was forgotten just now: ask again")
