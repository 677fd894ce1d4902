"""Answers that are kept: bounded by bytes and by age, least recently used first out, never from one tenant to another.

A key holds the whole `VersionKey`, so two tenants never share an entry, whatever they send. Version numbers are given
out once, so an entry is never out of date. Entries of versions that leave the route table are dropped all the same:
nobody can ask for them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from berth.ids import VersionKey

V = TypeVar("V")

# What an entry costs besides its answer: keys, digests, the objects around them.
ENTRY_OVERHEAD = 512
# No entry takes more than this share of the whole: one large answer must not push out all others.
_LARGEST_SHARE = 8


class CacheKey(NamedTuple):
    version: VersionKey
    digest: bytes


def digest_of(wire: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """256 bits of everything an answer depends on. Parts carry their lengths, so that no two lists look alike."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in (wire, *(text for pair in sorted(headers) for text in pair)):
        encoded = part.encode(errors="surrogateescape")
        hasher.update(len(encoded).to_bytes(8, "big"))
        hasher.update(encoded)
    # The number of headers comes before the body. The body needs no length: nothing follows it.
    hasher.update(b"\xff" * 8)
    hasher.update(body)
    return hasher.digest()


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    expires: float


class AnswerCache(Generic[V]):
    """At most `capacity` bytes of answers, each for `ttl` seconds. Memory of one process."""

    def __init__(self, capacity: int, ttl: float) -> None:
        self._capacity = capacity
        self._ttl = ttl
        self._entries: OrderedDict[CacheKey, _Entry[V]] = OrderedDict()
        self._by_version: dict[VersionKey, set[bytes]] = {}
        self.size = 0

    def __repr__(self) -> str:
        return f"<AnswerCache entries={len(self._entries)} bytes={self.size}/{self._capacity}>"

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey, now: float) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def keep(self, key: CacheKey, value: V, size: int, now: float) -> bool:
        """Keep `value` of `size` bytes, instead of what was kept under `key`; False if it is too large to keep."""
        size += ENTRY_OVERHEAD
        if key in self._entries:
            self._drop(key)
        if size > self._capacity // _LARGEST_SHARE:
            return False
        while self.size + size > self._capacity:
            self._drop(next(iter(self._entries)))
        self._entries[key] = _Entry(value, size, now + self._ttl)
        self._by_version.setdefault(key.version, set()).add(key.digest)
        self.size += size
        return True

    def retain(self, still_served: Callable[[VersionKey], bool]) -> None:
        """Drop the answers of versions that are served no more."""
        for version in [version for version in self._by_version if not still_served(version)]:
            for digest in list(self._by_version[version]):
                self._drop(CacheKey(version, digest))

    def validate(self) -> None:
        assert self.size == sum(entry.size for entry in self._entries.values()) <= self._capacity, "bytes disagree"
        indexed = {CacheKey(version, digest) for version, kept in self._by_version.items() for digest in kept}
        assert indexed == set(self._entries), "the index disagrees"
        assert all(self._by_version.values()), "the index holds versions without entries"

    def _drop(self, key: CacheKey) -> None:
        self.size -= self._entries.pop(key).size
        kept = self._by_version[key.version]
        kept.discard(key.digest)
        if not kept:
            del self._by_version[key.version]
