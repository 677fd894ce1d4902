"""Remembers what a run of header bytes meant.

Most requests of a connection carry the same header bytes as the one before. Looking them up costs a hash; parsing
and checking them costs fifty times that. The memory is bounded in bytes, so a client that never repeats itself costs
little. When full it forgets everything at once: the few blocks that matter are back after one request each.
"""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")


class Memo(dict[bytes, V], Generic[V]):
    """A dict from header bytes to their meaning. Look up with `get`; store only through `keep`."""

    __slots__ = ("_limit", "_size")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._size = 0

    def keep(self, block: bytes, meaning: V) -> None:
        """Remember `meaning`; blocks longer than a quarter of the limit are not worth it."""
        size = len(block)
        if size > self.longest:
            return
        if self._size + size > self._limit:
            self.forget()
        self._size += size
        self[block] = meaning

    @property
    def longest(self) -> int:
        """The longest block that is worth remembering."""
        return self._limit // 4

    def forget(self) -> None:
        self.clear()
        self._size = 0
