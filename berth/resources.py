"""Amounts of memory by kind: what a version takes, what a job has, what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HOST: Final = "host"
"""The memory of the machine. The one device that there is today; another would be a GPU's own memory."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Bytes by device, as a value: add, subtract, and ask whether it fits.

    `parts` are in order of their devices and leave out 0 bytes, so that equal amounts are equal values; `host` and
    `of` see to it. A difference may be below 0 on a device. There is no `<`: of two amounts each may be larger on one
    device. `fits_in` and `short_of` say what is meant.
    """

    parts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def host(cls, size: int) -> Resources:
        """`size` bytes of the machine's memory."""
        return cls(((HOST, size),)) if size else cls()

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Resources:
        return cls(tuple(sorted((device, size) for device, size in sizes.items() if size)))

    def __getitem__(self, device: str) -> int:
        """Bytes of `device`; 0 of one that is not named."""
        for name, size in self.parts:
            if name == device:
                return size
        return 0

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __add__(self, other: Resources) -> Resources:
        return self._with(other, 1)

    def __sub__(self, other: Resources) -> Resources:
        return self._with(other, -1)

    def __str__(self) -> str:
        """In words, for people: "100 bytes", "100 bytes and 50 bytes of gpu"."""
        named = (f"{size} bytes" if device == HOST else f"{size} bytes of {device}" for device, size in self.parts)
        return " and ".join(named) or "0 bytes"

    @property
    def total(self) -> int:
        """Bytes of all devices together."""
        return sum(size for _, size in self.parts)

    def fits_in(self, room: Resources) -> bool:
        """Whether it is at most `room` on every device, named or not."""
        return not self.short_of(room)

    def short_of(self, room: Resources) -> Resources:
        """What `room` lacks to take it, on each device where it lacks anything."""
        return Resources(tuple((device, size) for device, size in (self - room).parts if size > 0))

    def _with(self, other: Resources, sign: int) -> Resources:
        if len(self.parts) == len(other.parts) == 1 and self.parts[0][0] == other.parts[0][0]:
            # Nearly always: the machine's memory alone.
            (device, size), (_, more) = *self.parts, *other.parts
            return Resources(((device, size + sign * more),)) if size + sign * more else Resources()
        sizes = dict(self.parts)
        for device, size in other.parts:
            sizes[device] = sizes.get(device, 0) + sign * size
        return Resources.of(sizes)
