"""The last route deltas, so that a router that missed little is not sent everything.

Every router pulls from the one history at its own pace, so no router has a queue that could grow. A router that is too
slow finds its place gone, and is sent a snapshot.
"""

from __future__ import annotations

from collections import deque

from berth.model import NEVER, Order, RouteDelta


class DeltaHistory:
    """At most `most` deltas, each starting where the one before ends."""

    def __init__(self, most: int = 512) -> None:
        self._deltas: deque[RouteDelta] = deque(maxlen=most)
        self._latest = NEVER

    @property
    def latest(self) -> Order:
        """The order of the newest table; `NEVER` before the first."""
        return self._latest

    def append(self, delta: RouteDelta) -> None:
        """Remember the newest delta. A snapshot, or one that does not continue the last, starts the history anew."""
        if delta.base == 0 or (delta.order.epoch, delta.base) != self._latest:
            self._deltas.clear()
        if delta.base != 0:
            self._deltas.append(delta)
        self._latest = delta.order

    def since(self, order: Order) -> tuple[RouteDelta, ...] | None:
        """The deltas that lead from the table of `order` to the newest one; None if only a snapshot does."""
        if order == self._latest:
            return ()
        chain: list[RouteDelta] = []
        for delta in reversed(self._deltas):
            chain.append(delta)
            if (delta.order.epoch, delta.base) == order:
                return tuple(reversed(chain))
        return None
