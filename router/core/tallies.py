"""How many requests there were and how long they took, by version, replica and outcome, within bounds.

The number of models, versions and replicas has no bound; the number of series on a metrics page must have one. The
first to come get series of their own. A series that was not used for a while is given up when another needs room: pods
come and go under new names for ever. Requests without room for a series are counted together, as `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from berth.ids import ModelKey, VersionKey

GOOD: Final = "good"
BAD: Final = "bad"
"""A replica's answer that another replica might have bettered."""
NONE: Final = "none"
"""No answer came: refused, too late, or the client has gone."""
CACHED: Final = "cached"

OTHER: Final = "other"
_IDLE: Final = 600.0
"""Seconds without a request after which a series may be given up; scrapers have long seen its last value."""
_LOOK: Final = 10.0
"""Seconds between two searches for idle series, so that a page that is full costs little."""


class DurationTally:
    """Requests by how long they took. `limits` are upper bounds of its buckets, seconds, rising."""

    __slots__ = ("buckets", "limits", "seconds")

    def __init__(self, limits: tuple[float, ...]) -> None:
        self.limits = limits
        self.buckets = [0] * (len(limits) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(self.limits, seconds)] += 1
        self.seconds += seconds

    def up_to(self) -> list[tuple[str, float]]:
        """Each bound, as Prometheus spells it, and how many requests took no longer."""
        so_far = 0
        found: list[tuple[str, float]] = []
        for limit, count in zip((*map(str, self.limits), "+Inf"), self.buckets, strict=True):
            so_far += count
            found.append((limit, float(so_far)))
        return found


class Labels(NamedTuple):
    tenant: str
    model: str
    version: str
    replica: str
    """Who answered, or kept the request until it was given up; empty where nobody had it."""


class _Series:
    __slots__ = ("labels", "tallies", "used_at")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.tallies: dict[str, DurationTally] = {}
        self.used_at = 0.0


class Tallies:
    """For `most_models` models (0: nothing is counted), and for `most_series` pairs of a version and a replica.

    Beyond that there is at most one series more for each model, and one for all other models together.
    """

    __slots__ = ("_limits", "_looked_at", "_models", "_most_models", "_most_series", "_others", "_rest", "_series")

    def __init__(self, most_models: int, most_series: int, limits: tuple[float, ...]) -> None:
        self._most_models = most_models
        self._most_series = most_series
        self._limits = limits
        # Series by (servable, replica); how many of them each model has; and what was counted together.
        self._series: dict[tuple[str, str], _Series] = {}
        self._models: dict[ModelKey, int] = {}
        self._others: dict[ModelKey, _Series] = {}
        self._rest = _Series(Labels("", OTHER, "", ""))
        self._looked_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Tallies models={len(self._models)} series={len(self._series)}>"

    @property
    def counts(self) -> bool:
        """Whether there is anything to be told."""
        return self._most_models > 0

    def add(self, key: VersionKey, servable: str, replica: str, outcome: str, seconds: float, now: float) -> None:
        """A request for `key`, which `servable` names, ended at `now` after `seconds` at `replica`."""
        series = self._series.get((servable, replica))
        if series is None:
            series = self._new(key, servable, replica, now)
        series.used_at = now
        tally = series.tallies.get(outcome)
        if tally is None:
            tally = series.tallies[outcome] = DurationTally(self._limits)
        tally.add(seconds)

    def rows(self) -> Iterator[tuple[Labels, str, DurationTally]]:
        """What was counted: labels, outcome, and the requests."""
        for series in self._all():
            for outcome, tally in series.tallies.items():
                yield series.labels, outcome, tally

    def validate(self) -> None:
        """Raise AssertionError where the bounds are not kept or the pieces contradict each other."""
        assert len(self._series) <= self._most_series
        assert len(self._models) <= self._most_models
        counted: dict[ModelKey, int] = {}
        for series in self._series.values():
            model = ModelKey(series.labels.tenant, series.labels.model)
            counted[model] = counted.get(model, 0) + 1
        assert counted == {model: count for model, count in self._models.items() if count}
        assert self._others.keys() <= self._models.keys()

    def _all(self) -> Iterable[_Series]:
        return [*self._series.values(), *self._others.values(), self._rest]

    def _new(self, key: VersionKey, servable: str, replica: str, now: float) -> _Series:
        model = key.model_key
        if not self._has_room(model) and now >= self._looked_at + _LOOK:
            self._looked_at = now
            self._give_up(now - _IDLE)
        if model not in self._models:
            if len(self._models) >= self._most_models:
                return self._rest
            self._models[model] = 0
        if len(self._series) >= self._most_series:
            other = self._others.get(model)
            if other is None:
                other = self._others[model] = _Series(Labels(key.tenant, key.model, OTHER, OTHER))
            return other
        self._models[model] += 1
        series = self._series[servable, replica] = _Series(Labels(key.tenant, key.model, str(key.version), replica))
        return series

    def _has_room(self, model: ModelKey) -> bool:
        known = model in self._models or len(self._models) < self._most_models
        return known and len(self._series) < self._most_series

    def _give_up(self, unused_since: float) -> None:
        for place, series in list(self._series.items()):
            if series.used_at < unused_since:
                del self._series[place]
                self._models[ModelKey(series.labels.tenant, series.labels.model)] -= 1
        for model, count in list(self._models.items()):
            other = self._others.get(model)
            if count == 0 and (other is None or other.used_at < unused_since):
                del self._models[model]
                self._others.pop(model, None)
