"""Repeated requests: the same idempotency key gets the same answer, also when both arrive at once.

The answer is remembered in the transaction that earns it. Of two at once, the second to commit meets the first one's
row. It is rolled back as a whole, runs again, and finds the answer (`transaction` counts that as a retry).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from berth.errors import Conflict
from controller.store import requests
from controller.store.records import RememberedRequest
from controller.store.transaction import Tx


class RequestMemo(NamedTuple):
    """An idempotency key of a caller's, and the SHA-256 of what it stands for."""

    actor: str
    key: str
    fingerprint: bytes


class ApiAnswer(NamedTuple):
    status: int
    body: dict[str, Any]
    replayed: bool = False


async def once(tx: Tx, memo: RequestMemo | None, act: Callable[[Tx], Awaitable[ApiAnswer]]) -> ApiAnswer:
    """The answer of `act`, or the one given to the same request before.

    Raises `Conflict` if the key stood for another request. Failures are not remembered: they may be tried again.
    """
    if memo is None:
        return await act(tx)
    known = await requests.recall(tx, memo.actor, memo.key)
    if known is not None:
        if known.fingerprint != memo.fingerprint:
            raise Conflict("this Idempotency-Key was used for a different request")
        return ApiAnswer(known.status, known.body, replayed=True)
    answer = await act(tx)
    await requests.remember(tx, memo.actor, memo.key, RememberedRequest(memo.fingerprint, answer.status, answer.body))
    return answer
