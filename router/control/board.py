"""The route table of this process: one reference that is swapped, and the listeners that are told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from berth.errors import Unavailable
from berth.model import NEVER, Order, RouteTable
from berth.wake import Wake
from router.core.routes import OtherCells, Routes
from router.core.selection import ReplicaPlace


class RouteBoard:
    """What every request starting now is routed by. `others` are the routers of other cells that this one knows."""

    def __init__(self, others: OtherCells | None = None) -> None:
        self._routes: Routes | None = None
        self._others: OtherCells = others or {}
        # Those are of no table, and stay.
        self._beyond = frozenset(map(ReplicaPlace.of, self._others.values()))
        # Up after every swap.
        self.changes: Final = Wake()
        self._watchers: list[Callable[[frozenset[ReplicaPlace]], None]] = []

    def __repr__(self) -> str:
        return f"<RouteBoard {self._routes!r}>"

    @property
    def ready(self) -> bool:
        return self._routes is not None

    @property
    def routes(self) -> Routes:
        """Raises `Unavailable` until a table has come: without one, clients and strangers look alike."""
        if self._routes is None:
            raise Unavailable("the router has no routes yet", retry_after=1.0)
        return self._routes

    @property
    def table(self) -> RouteTable:
        """The current table, the empty one before the first has come."""
        return RouteTable() if self._routes is None else self._routes.table

    @property
    def others(self) -> OtherCells:
        """Where the routers of other cells are."""
        return self._others

    @property
    def order(self) -> Order:
        return NEVER if self._routes is None else self._routes.table.order

    def watch(self, on_places: Callable[[frozenset[ReplicaPlace]], None]) -> None:
        """Have `on_places` called with the places of every new table, after the swap."""
        self._watchers.append(on_places)

    def swap(self, table: RouteTable) -> None:
        """From now on requests are routed by `table`."""
        self._routes = Routes(table, self._others, dice=random.random)
        self.changes.up()
        places = self._beyond.union(map(ReplicaPlace.of, table.replicas.values()))
        for watcher in self._watchers:
            watcher(places)
