"""Server-sent events without I/O: lines in, events out, and where to resume.

Only the three fields that the controller uses are kept (`id`, `data`, `retry`); the grammar is WHATWG's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class SseMessage(NamedTuple):
    id: str
    data: str


@dataclass(slots=True)
class EventStream:
    """Feed it lines without their line ends. `last_id` is what to resume from, also over a new connection."""

    last_id: str = ""
    retry_s: float = 1.0
    _data: list[str] = field(default_factory=list)
    _pending_id: str = ""

    def feed(self, line: str) -> SseMessage | None:
        """Take one line; an empty one ends a message, which is then returned if it carried data."""
        if line == "":
            return self._finish()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._pending_id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_s = min(int(value) / 1000, 60.0)
        return None

    def reset(self) -> None:
        """A connection ended: forget the half message it may have left."""
        self._data.clear()
        self._pending_id = ""

    def _finish(self) -> SseMessage | None:
        data, self._data = self._data, []
        pending, self._pending_id = self._pending_id, ""
        self.last_id = pending or self.last_id
        return SseMessage(self.last_id, "\n".join(data)) if data else None
