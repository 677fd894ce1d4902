"""Memory of a moving stretch of time: means of what was seen, and the greatest of what was needed."""

from __future__ import annotations

from collections import deque


class Window:
    """Values of the last `seconds`. Times must not go back: an earlier time is taken for the newest so far."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._values: deque[tuple[float, float]] = deque()

    def __repr__(self) -> str:
        return f"<Window {self.seconds:g} s of {len(self._values)}>"

    def add(self, value: float, now: float) -> None:
        if self._values:
            now = max(now, self._values[-1][0])
        self._values.append((now, value))
        while self._values[0][0] < now - self.seconds:
            self._values.popleft()

    def greatest(self) -> float:
        """0 if nothing is known."""
        return max((value for _, value in self._values), default=0.0)

    def mean(self, seconds: float, ago: float = 0.0) -> float:
        """Of `seconds` up to so long ago. Where nothing is known of that time, the value nearest to it; else 0."""
        if not self._values:
            return 0.0
        until = self._values[-1][0] - ago
        values = [value for at, value in self._values if until - seconds <= at <= until]
        return sum(values) / len(values) if values else self._values[0][1]

    def growth(self, seconds: float) -> float:
        """Per second, over the newest `seconds`: how fast the value grows, below zero if it shrinks."""
        if len(self._values) < 2:
            return 0.0
        since = self._values[-1][0] - seconds
        first_at, first = next((at, value) for at, value in self._values if at >= since or at == self._values[-2][0])
        last_at, last = self._values[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0
