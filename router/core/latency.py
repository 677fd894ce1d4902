"""How long a version usually takes, and from when on it is unusual: hedging and health go by this.

One line per version and body-size class, for versions with recent traffic only. A line gives two figures: the typical
latency (the median), and the beginning of the tail (the quantile that `share` of the requests exceed). Both come from a
sketch of fixed size. The first request of a second works them out for its line: a timer that walked ten thousand lines
would make the requests behind it wait.

The tail begins as early as what was seen allows:

* *A short memory.* No more is remembered than the quantile needs: a line with much traffic forgets a bad spell in
  seconds. With half a minute of memory, five seconds of general slowness moved the tail's beginning there for a minute.
* *Chance is on its side.* Of few observations the share beyond the quantile is uncertain; the quantile is taken as low
  as that allows. Too high, it hedges nobody; too low, it costs tokens, and the budget stretches the delay (`hedging`).
* *It is not the slow ones themselves.* When more than `share` are slow, the quantile lies among them, and a twin sent
  then helps nobody. The tail begins at most `_REACH` times beyond nine tenths of the requests.

What is recorded decides whether hedging can be trusted with its own trigger. Three rules, kept by `selection`:

1. One observation per request, that of its first copy. A twin is only sent into the tail and would add quick answers
   that no request without a tail has.
2. A first copy that lost to its twin was never seen to end: it is a censored observation. It counts with the time
   it had run. That time is at least the twin's delay, and no twin is sent before the tail begins. So the observation
   stays in the tail, and the tail's share is the same as if nobody had hedged. Left out, every hedge would remove one
   slow observation, the delay would sink, and more would be hedged, until the budget is all that holds.
3. Replicas that are ejected or clearly slower than their peers are not recorded: with one slow replica of three, the
   pooled tail *is* that replica, and no hedge would ever come before it. Observations of such a replica just before it
   was found out are taken back.
"""

from __future__ import annotations

import math
from array import array
from itertools import islice
from typing import Final, NamedTuple

from berth.ids import VersionKey

# Below this, differences are the router's and the kernel's own noise: no hedge is sent sooner, no replica is judged.
FLOOR: Final = 0.001

# Octaves from 2^-14 s (61 us) to 2^8 s, each cut in eight: a bucket is 6 to 12 % wide.
_LOWEST: Final = -14
_OCTAVES: Final = 22
_CUTS: Final = 8
_BUCKETS: Final = _OCTAVES * _CUTS
_LIMITS: Final = [
    math.ldexp(0.5 + cut / (2 * _CUTS), _LOWEST + 1 + octave) for octave in range(_OCTAVES) for cut in range(_CUTS)
]
_LIMITS.append(math.ldexp(0.5, _LOWEST + 1 + _OCTAVES))
_EMPTY: Final = bytes(4 * _BUCKETS)

_REFRESH: Final = 1.0
# So many observations in the tail make a pane; it ends then, or after so many seconds.
_IN_THE_TAIL: Final = 8
_PANE: Final = 30.0
# How far chance is trusted to go, in standard deviations.
_DOUBT: Final = 1.5
# Seconds in which the typical latency follows what is seen. Replicas are judged by it, some by requests of seconds ago.
# If it jumped, replicas without newer requests would look much slower or quicker than the others.
_SETTLING: Final = 20.0
# What is certainly no tail, and how many times as long the delay may be.
_BODY: Final = 0.9
_REACH: Final = 4.0
_KIB: Final = 1024
_SIZES: Final = (4 * _KIB, 64 * _KIB, 1024 * _KIB)


def size_class(size: int) -> int:
    """0 to 3: a body of up to 4 KiB, 64 KiB, 1 MiB, more. Sending and decoding it are part of its latency."""
    if size <= _SIZES[0]:
        return 0
    if size <= _SIZES[1]:
        return 1
    return 2 if size <= _SIZES[2] else 3


class Sketch:
    """Counts of the last one to two panes, in buckets that grow with the value; about 1.5 KB. A pane ends after `pane`
    seconds, or when `turn` finds `enough` values in it.

    Panes slide instead of decaying: a far quantile rests on few values, and an old value that fades slowly would hold
    it up for many half-lives. The buckets are HdrHistogram's (linear within each power of two).
    """

    __slots__ = ("_count", "_current", "_ends", "_enough", "_old_count", "_pane", "_previous")

    def __init__(self, now: float, pane: float = _PANE, enough: int = 2**31) -> None:
        self._pane = pane
        self._enough = enough
        self._ends = now + pane
        self._current = array("I", _EMPTY)
        self._previous = array("I", _EMPTY)
        self._count = 0
        self._old_count = 0

    def __repr__(self) -> str:
        return f"<Sketch count={self._count + self._old_count}>"

    def record(self, now: float, value: float) -> int:
        """Count `value`, in seconds. What is returned is good for `take_back`."""
        if now >= self._ends:
            self._slide(now)
        mantissa, exponent = math.frexp(value)
        index = (exponent - _LOWEST - 1) * _CUTS + int((mantissa - 0.5) * (2 * _CUTS))
        if index < 0 or value <= 0.0:
            index = 0
        elif index >= _BUCKETS:
            index = _BUCKETS - 1
        self._current[index] += 1
        self._count += 1
        return index

    def take_back(self, index: int) -> None:
        """Make one value that was recorded as `index` unrecorded, if it has not slid out already."""
        if self._current[index]:
            self._current[index] -= 1
            self._count -= 1
        elif self._previous[index]:
            self._previous[index] -= 1
            self._old_count -= 1

    def turn(self, now: float) -> None:
        """End the pane if there is enough in it. Not done by `record`, which every request pays for."""
        if self._count >= self._enough:
            self._slide(min(now, self._ends))

    def count(self, now: float) -> int:
        """How many values are remembered."""
        if now >= self._ends:
            self._slide(now)
        return self._count + self._old_count

    def quantile(self, now: float, q: float) -> float | None:
        """The quantile `q` of the remembered values, within a bucket's width; None without any."""
        total = self.count(now)
        if not total:
            return None
        rank = q * total
        seen = 0
        for index, number in enumerate(map(int.__add__, self._current, self._previous)):
            if number and seen + number >= rank:
                low, high = _LIMITS[index], _LIMITS[index + 1]
                return low + (high - low) * max(0.0, rank - seen) / number
            seen += number
        return _LIMITS[-1]

    def _slide(self, now: float) -> None:
        if now < self._ends + self._pane:
            self._previous, self._old_count = self._current, self._count
        else:
            self._previous, self._old_count = array("I", _EMPTY), 0
        self._current, self._count = array("I", _EMPTY), 0
        self._ends = now + self._pane


class LineState(NamedTuple):
    """A line for the operator's eyes. Seconds; None without enough history."""

    key: VersionKey
    size_class: int
    observations: int
    typical: float | None
    tail: float | None


class LatencyLine:
    """The latencies of one version for one size of body. Requests hold on to their line while they are under way."""

    __slots__ = ("_fresh_until", "_least", "_share", "_sketch", "_tail", "_typical", "_typical_at", "used_at")

    def __init__(self, now: float, share: float, least: int) -> None:
        self._sketch = Sketch(now, enough=_IN_THE_TAIL * least)
        self._share = share
        self._least = least
        self._typical: float | None = None
        self._typical_at = now
        self._tail: float | None = None
        self._fresh_until = now
        self.used_at = now

    @property
    def typical(self) -> float | None:
        """The median, s, which follows the requests in `_SETTLING` seconds; None before there is any history."""
        return self._typical

    @property
    def tail(self) -> float | None:
        """Where the tail begins, s, at least `FLOOR`: about `share` of the requests take longer. None until there is
        enough history."""
        return self._tail

    @property
    def observations(self) -> int:
        return self._sketch.count(self.used_at)

    def record(self, now: float, seconds: float) -> int:
        """An observation of a healthy replica; the module's docstring says which ones count."""
        return self._sketch.record(now, seconds)

    def take_back(self, observation: int) -> None:
        """The replica of this observation was not healthy after all."""
        self._sketch.take_back(observation)

    def refresh(self, now: float) -> None:
        """Work the figures out anew, if that is due."""
        self.used_at = now
        if now < self._fresh_until:
            # The first typical latency is needed as soon as there is one: until then nobody can be called slow.
            if self._typical is None:
                self._follow(now, self._sketch.count(now))
            return
        self._fresh_until = now + _REFRESH
        count = self._sketch.count(now)
        self._follow(now, count)
        self._tail = self._beginning(now, count) if count >= self._least else None
        self._sketch.turn(now)

    def _follow(self, now: float, count: int) -> None:
        median = self._sketch.quantile(now, 0.5) if count >= _FEW else None
        if median is not None and self._typical is not None:
            weight = min(1.0, (now - self._typical_at) / _SETTLING)
            median = self._typical * (median / self._typical) ** weight
        self._typical = median
        self._typical_at = now

    def _beginning(self, now: float, count: int) -> float | None:
        beyond = self._share + _DOUBT * math.sqrt(self._share * (1.0 - self._share) / count)
        tail, body = self._sketch.quantile(now, max(0.0, 1.0 - beyond)), self._sketch.quantile(now, _BODY)
        return None if tail is None or body is None else max(FLOOR, min(tail, _REACH * body))


_FEW: Final = 10
_LOOKED_AT: Final = 4


class Latencies:
    """The lines of versions with recent traffic: at most `most`, about 2 KB each.

    A line unused for `idle` seconds has forgotten everything anyway, and makes room for another. While there is no
    room, further versions are simply not hedged.
    """

    def __init__(self, share: float, *, most: int = 4096, idle: float = 60.0) -> None:
        self._share = share
        # One observation in the tail at least: fewer say nothing about where it begins.
        self._least = max(2 * _FEW, math.ceil(1.0 / share)) if share > 0.0 else 10**9
        self._most = most
        self._idle = idle
        self._lines: dict[tuple[VersionKey, int], LatencyLine] = {}

    def __repr__(self) -> str:
        return f"<Latencies lines={len(self._lines)} of {self._most}>"

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, key: VersionKey, size: int, now: float) -> LatencyLine | None:
        """The line of `key` for a body of `size` bytes, its figures up to date; None if there is no room for it."""
        name = (key, size_class(size))
        line = self._lines.get(name)
        if line is None:
            if len(self._lines) >= self._most and not self._made_room(now):
                return None
            line = self._lines[name] = LatencyLine(now, self._share, self._least)
        line.refresh(now)
        return line

    def states(self, most: int) -> list[LineState]:
        """The lines used last, `most` of them at the most."""
        recent = sorted(self._lines.items(), key=lambda item: item[1].used_at, reverse=True)[:most]
        return [LineState(key, kind, line.observations, line.typical, line.tail) for (key, kind), line in recent]

    def _made_room(self, now: float) -> bool:
        # A few at a time, going round: a walk over thousands would make the requests behind it wait.
        for name in list(islice(self._lines, _LOOKED_AT)):
            line = self._lines.pop(name)
            if line.used_at < now - self._idle:
                return True
            self._lines[name] = line
        return False
