"""Recorded loads: how many requests came in each interval, read from what people have at hand.

`read` takes four kinds of file and tells them apart by their content:

* a JSON object with `counts` and, if they are not of one second each, `interval_s`: what `bench/loads` holds;
* numbers, one a line: requests of each second;
* the access log of routers (`BERTH_ACCESS_LOG_SAMPLE`), JSON lines among other lines, of any number of routers in any
  order, with or without what `kubectl logs --prefix` writes before them;
* lines that begin with the time of a request (ISO 8601), such as a CSV file with or without a header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

LOADS = Path(__file__).parent / "loads"
# A line whose clock was wrong would stretch a recording over years.
_LONGEST_S = 31 * 86_400
_FIRST_S = 60.0


class Recording(NamedTuple):
    """Requests that came in each interval, one after the other without a gap."""

    interval_s: float
    counts: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return self.interval_s * len(self.counts)

    @property
    def at_first(self) -> float:
        """Requests a second in the first minute."""
        first = self.counts[: max(1, round(_FIRST_S / self.interval_s))]
        return sum(first) / (self.interval_s * len(first))

    @property
    def highest(self) -> float:
        """Requests a second in the fullest interval."""
        return max(self.counts) / self.interval_s

    def rate(self, times: float = 1.0) -> Callable[[float], float]:
        """Requests a second at a time since the beginning, `times` as many as were recorded."""
        per_second = [times * count / self.interval_s for count in self.counts]
        return lambda now: per_second[min(int(now / self.interval_s), len(per_second) - 1)]


def read(path: Path) -> Recording:
    """The recording in a file. Raises `ValueError` if there is none in it, `OSError` if it cannot be read."""
    return parse(path.read_text(encoding="utf-8-sig"))


def parse(text: str) -> Recording:
    """The recording in a text, in any of the forms above. Raises `ValueError` with the reason if there is none."""
    whole = _object(text)
    if whole is not None and "counts" in whole:
        return _checked(whole.get("interval_s", 1.0), whole["counts"])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return _checked(1.0, [float(line) for line in lines])
    except ValueError:
        if all(_is_number(line) for line in lines):
            raise
    times = [at for line in lines if (at := _came_at(line)) is not None]
    if not times:
        raise ValueError("no line is a number, a request of an access log, or begins with a time")
    return _counted(times)


def _checked(interval_s: object, counts: object) -> Recording:
    if not isinstance(interval_s, int | float) or not 0 < interval_s < math.inf:
        raise ValueError(f"interval_s is {interval_s!r}: not a number of seconds")
    if not isinstance(counts, list) or not counts:
        raise ValueError("there are no counts")
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < math.inf:
            raise ValueError(f"{count!r} is not a number of requests")
    if not any(counts):
        raise ValueError("not one request was recorded")
    return Recording(float(interval_s), tuple(float(count) for count in counts))


def _counted(times: Iterable[float]) -> Recording:
    """Requests of each second from the first to the last."""
    seconds = sorted(math.floor(at) for at in times)
    length = seconds[-1] - seconds[0] + 1
    if length > _LONGEST_S:
        raise ValueError(f"its requests are {length / 86_400:,.0f} days apart: is the time of one of them wrong?")
    counts = [0.0] * length
    for second in seconds:
        counts[second - seconds[0]] += 1
    return Recording(1.0, tuple(counts))


def _came_at(line: str) -> float | None:
    """When the request of a line came, in seconds since 1970; None if the line is of something else."""
    if (brace := line.find("{")) >= 0:
        entry = _object(line[brace:])
        return _logged_at(entry) if entry is not None else None
    return _time(line.split(",", 1)[0].strip('"'))


def _logged_at(entry: dict[str, Any]) -> float | None:
    """A router writes its line when it has answered, and in it how long that took."""
    ms = entry.get("ms")
    if entry.get("event") != "request" or not isinstance(ms, int | float):
        return None
    answered_at = _time(str(entry.get("timestamp")))
    return answered_at - ms / 1e3 if answered_at is not None else None


def _time(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
