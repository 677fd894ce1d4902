"""Pages for an operator while something is wrong: /debug/routes and /debug/hedging of the admin port.

Both are bounded: replicas and the latest lines always, models only as many as are asked for. Times are seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from berth.errors import InvalidArgument
from berth.model import ModelRoute
from router.control.board import RouteBoard
from router.core.budget import Budgets
from router.core.hedging import Hedging
from router.core.latency import Latencies
from router.core.selection import Selection

_DEFAULT_LIMIT = 100
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Debug:
    board: RouteBoard
    selection: Selection
    latencies: Latencies
    hedging: Hedging
    budgets: Budgets

    def routes(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The table and the replicas. `tenant`, `model` and `limit` choose which models are shown.

        Raises `InvalidArgument` for a limit that is none.
        """
        table = self.board.table
        now = asyncio.get_running_loop().time()
        states = {(state.replica, state.incarnation): state._asdict() for state in self.selection.states(now)}
        shown = (
            route
            for key, route in table.models.items()
            if query.get("tenant", key.tenant) == key.tenant and query.get("model", key.model) == key.model
        )
        return {
            "order": table.order._asdict(),
            "counts": {"models": len(table.models), "replicas": len(table.replicas), "keys": len(table.keys)},
            "replicas": [
                {**asdict(address), "seen": states.get((address.replica, address.incarnation))}
                for address in table.replicas.values()
            ],
            "other_cells": [
                {
                    "cell": cell,
                    "rest": place.http,
                    "grpc": place.grpc,
                    "seen": states.get((place.replica, place.incarnation)),
                }
                for cell, place in self.board.others.items()
            ],
            "models": [_model(route) for route in islice(shown, _limit(query))],
        }

    def hedges(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Delays, counts and budget. `limit` is how many of the lines used last are shown.

        Raises `InvalidArgument` for a limit that is none.
        """
        budget = self.budgets.everything
        delay = self.hedging.delay
        return {
            "delay": "auto" if delay is None else delay,
            "events": {event.value: number for event, number in self.hedging.events.items()},
            "denied": {denial.value: number for denial, number in self.hedging.denials.items()},
            "unarmed": {reason.value: number for reason, number in self.hedging.unarmed.items()},
            "ejections": {cause.value: number for cause, number in self.selection.ejections.items()},
            "budget": {"tokens": budget.tokens, "hedge_tokens": budget.hedge_tokens},
            "lines": [{**state._asdict(), "key": str(state.key)} for state in self.latencies.states(_limit(query))],
        }


def _model(route: ModelRoute) -> dict[str, Any]:
    return {
        "tenant": route.key.tenant,
        "model": route.key.model,
        "default": route.serving.default,
        "shares": {str(share.version): share.weight for share in route.serving.versions},
        "labels": dict(route.serving.labels),
        "versions": [
            {"version": entry.version, "replicas": list(entry.replicas), "reason": entry.reason}
            for entry in route.versions
        ],
        "elsewhere": {str(version): list(cells) for version, cells in route.elsewhere.items()},
    }


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(_DEFAULT_LIMIT))
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise InvalidArgument(f"limit is a number of at most {_MOST}, not {text[:50]!a}")
    return min(int(text), _MOST)
