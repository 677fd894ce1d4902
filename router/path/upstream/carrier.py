"""A connection to a replica: what carries copies of requests, whichever wire it speaks."""

from __future__ import annotations

from abc import abstractmethod

from berth.http_shell.link import Link
from router.connection.common import Common
from router.path.request import Copy


class Carrier(Link):
    """Keeps the copies that it carries, and tells each what becomes of it."""

    __slots__ = ("common",)

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self.common = common

    @abstractmethod
    def push(self, copy: Copy, chunk: bytes, ended: bool) -> int:
        """Send more of a request that was not complete. Returns how much went; `Copy.went` tells of the rest."""

    @abstractmethod
    def consumed(self, copy: Copy, size: int) -> None:
        """So many bytes of the answer went on to the client."""

    @abstractmethod
    def withdraw(self, copy: Copy) -> None:
        """Nobody wants the answer any more. Nothing more is said to the copy."""
