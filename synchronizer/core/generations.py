"""Numbers for what is given out: each set and each table has an order, the epoch first, and none is given out twice."""

from __future__ import annotations

from berth.model import Order

_RESERVE_BELOW = 10_000  # generations left; a step takes at most one, so this is minutes of constant change


class Generations:
    """Mutated by the cell's step alone. `epoch` is 0 while this process does not lead; `given` is the last number."""

    def __init__(self) -> None:
        self.epoch = 0
        self.given = 0
        self._upto = 0

    def __repr__(self) -> str:
        return f"<Generations epoch={self.epoch} given={self.given}/{self._upto}>"

    @property
    def next(self) -> Order:
        """The order of what is given out next."""
        return Order(self.epoch, self.given + 1)

    @property
    def are_left(self) -> bool:
        """Whether there is a number to give out: the disk remembers that it may have been."""
        return self.given < self._upto

    @property
    def reserve_after(self) -> int | None:
        """After which number more should be reserved; None while there are enough."""
        return self.given if self._upto - self.given < _RESERVE_BELOW else None

    def reserve(self, after: int, upto: int) -> None:
        """Numbers after `after` up to `upto` may be given out."""
        self.given = max(self.given, after)
        self._upto = max(self._upto, upto)

    def is_ahead(self, order: Order) -> bool:
        """Whether `order` is of our own epoch, but later than any that we remember giving out: the disk forgot it."""
        return self.epoch > 0 and order.epoch == self.epoch and order.generation > self.given

    def see(self, order: Order) -> int:
        """Someone has `order`. Of our own epoch: go on after it. Of a later one: the result is that epoch, else 0."""
        if self.is_ahead(order):
            self.given = order.generation
        return order.epoch if self.epoch > 0 and order.epoch > self.epoch else 0
