"""Waiting for the world outside to get somewhere, with a limit and a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(reached: Callable[[], T | None], *, within: float, what: str, every: float = 0.05) -> T:
    """The first truthy answer of `reached`, asked again `every` seconds; fails naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = reached()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what} (last answer: {answer!r})")
        time.sleep(every)
