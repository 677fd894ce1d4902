"""How many bytes of bodies this process keeps in memory, for all connections together."""

from __future__ import annotations


class Ledger:
    """Requests not yet complete, answers held back, and what waits for slow readers. One per process."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @property
    def full(self) -> bool:
        return self.held > self.limit

    def __repr__(self) -> str:
        return f"<Ledger {self.held} of {self.limit} bytes>"
