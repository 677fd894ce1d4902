"""What the demo observed, reduced to promises that hold or do not. Pure: samples in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Promise(NamedTuple):
    """Something Berth promises, whether it held this time, and the figures that show it."""

    what: str
    held: bool
    shown: str


class TimedRequest(Protocol):
    """One request of the load; `berth.demo.load.LoadSample` has these."""

    @property
    def due_at(self) -> float: ...
    @property
    def ended_at(self) -> float: ...
    @property
    def version(self) -> str: ...


class Switch(NamedTuple):
    """How answers moved from one version to the next. Instants are those of the samples; None: it never came."""

    first_new_at: float | None
    last_old_at: float | None
    old: int
    new: int
    strangers: int


def find_switch(samples: Iterable[TimedRequest], old: str, new: str) -> Switch:
    """When the answers changed from `old` to `new`. `strangers` counts answers of any other version."""
    answered = [sample for sample in samples if sample.version]
    olds = [sample.ended_at for sample in answered if sample.version == old]
    news = [sample.ended_at for sample in answered if sample.version == new]
    return Switch(
        first_new_at=min(news, default=None),
        last_old_at=max(olds, default=None),
        old=len(olds),
        new=len(news),
        strangers=len(answered) - len(olds) - len(news),
    )


def accuracy(given: Sequence[int], truth: Sequence[int]) -> float:
    """Share of answers that are right; 0 if there are none."""
    return sum(one == other for one, other in zip(given, truth, strict=True)) / len(truth) if truth else 0.0
