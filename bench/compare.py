"""From rounds of figures to rows: medians of ratios, each ratio within one round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from bench.results import Row

Rounds = Mapping[str, Sequence[float]]
"""A figure per round, by side; `ours` is the side `berth`."""

OURS = "berth"
BESIDE = "beside"
"""The side that is the router of another checkout."""
KEPT = 0.97
"""The least share of another checkout's figure that counts as no loss."""


def medians(rounds: Rounds) -> dict[str, float]:
    return {side: statistics.median(figures) for side, figures in rounds.items() if figures}


def ratio(
    what: str, rounds: Rounds, peer: str, target: float | None, better: Literal["higher", "lower"] = "higher"
) -> Row | None:
    """Ours over the peer's, round by round; None if either was not measured."""
    ours, theirs = rounds.get(OURS, ()), rounds.get(peer, ())
    pairs = [(mine, its) for mine, its in zip(ours, theirs, strict=False) if its]
    if not pairs:
        return None
    value = statistics.median(mine / its for mine, its in pairs)
    return Row(f"{what}, over {peer}", value, "x", target, better, medians(rounds))


def ratios(
    what: str, rounds: Rounds, targets: Mapping[str, float | None], better: Literal["higher", "lower"] = "higher"
) -> list[Row]:
    """A row for each peer of `targets` that was measured."""
    rows = (ratio(what, rounds, peer, target, better) for peer, target in targets.items())
    return [row for row in rows if row is not None]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of an ascending sequence that is not empty."""
    rank = -(-round(share * len(ordered) * 1e6) // 1_000_000)
    return ordered[max(0, rank - 1)]
