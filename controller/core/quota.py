"""Checks a tenant's own limits. Each raises `QuotaExceeded` with the fields quota, limit, used and asked.

Here 0 allows nothing; only the rates, which routers enforce, know an unlimited.
"""

from __future__ import annotations

from dataclasses import dataclass

from berth.errors import QuotaExceeded

MAX_DEFAULT_ANSWERS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have, in bytes and per second; of the rates, which routers enforce, 0 is unlimited."""

    max_models: int
    max_bytes: int
    requests_per_second: float = 0.0
    max_concurrent: int = 0
    bytes_per_second: float = 0.0
    weight: float = 1.0


def check_models(limit: int, used: int, asked: int = 1) -> None:
    """Allow `asked` more models beside the `used` there are."""
    _check("max_models", "models", limit, used, asked)


def check_bytes(limit: int, used: int, asked: int) -> None:
    """Allow an artifact of `asked` bytes beside the `used` bytes that are stored."""
    _check("max_bytes", "bytes of artifacts", limit, used, asked)


def check_default_answers(used: int, asked: int) -> None:
    """Allow a default answer of `asked` bytes beside the `used` bytes of the tenant's others.

    All of them travel to every router with each change of a cell, so their sum is bounded for everyone alike.
    """
    _check("default_answer_bytes", "bytes of default answers", MAX_DEFAULT_ANSWERS, used, asked)


def _check(quota: str, what: str, limit: int, used: int, asked: int) -> None:
    # Asking for nothing is allowed even over the limit: an operator may have lowered it.
    if asked > 0 and used + asked > limit:
        raise QuotaExceeded(
            f"the tenant may have {limit} {what}, has {used} and asked for {asked} more",
            quota=quota,
            limit=limit,
            used=used,
            asked=asked,
        )
