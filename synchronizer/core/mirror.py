"""What a server keeps in a collection, followed by its events: a set that is complete or says why it cannot be.

The rules of a list and a watch of Kubernetes, without the HTTP. A list gives everything as of a version; events, in
order, give what changed since; anything else is a gap, and after a gap only another list helps. What is known is kept
over a gap: a set that is a little old beats an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Json = Mapping[str, Any]


class Gap(Exception):
    """The events do not go on from what is known: list again. `reason` is one word, fit for a metric's label."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Mirror(Generic[T]):
    """Mutated by `read_list` and `read_event` alone. `read` makes a value of an object: only its changes count."""

    def __init__(self, read: Callable[[Json], T]) -> None:
        self._read = read
        self._items: dict[str, T] = {}
        self._version: str | None = None

    def __repr__(self) -> str:
        return f"<Mirror {len(self._items)} at {self._version}>"

    @property
    def version(self) -> str | None:
        """The version from which a watch goes on; None before the first list."""
        return self._version

    @property
    def items(self) -> Mapping[str, T]:
        """Everything by name, as a value of its own."""
        return dict(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def read_list(self, objects: Iterable[Json], version: str) -> bool:
        """Take over a complete list as of `version`; whether anything is different, or known for the first time."""
        items = {_name(item): self._value(item) for item in objects}
        first = self._version is None
        changed = first or items != self._items
        self._items, self._version = items, version
        return changed

    def read_event(self, event: Json) -> bool:
        """Take in the next event; whether anything is different. Raises `Gap`, and is then as it was before."""
        kind, item = event.get("type"), event.get("object")
        if not isinstance(item, Mapping):
            raise Gap("malformed", "an event without an object")
        if kind == "ERROR":
            code = item.get("code")
            raise Gap("gone" if code == 410 else "refused", f"{code} {item.get('message', '')}")
        version = (item.get("metadata") or {}).get("resourceVersion")
        if not version:
            raise Gap("malformed", "an event without a version")
        changed = False
        if kind in ("ADDED", "MODIFIED"):
            name, value = _name(item), self._value(item)
            changed = name not in self._items or self._items[name] != value
            self._items[name] = value
        elif kind == "DELETED":
            changed = self._items.pop(_name(item), None) is not None
        elif kind != "BOOKMARK":
            raise Gap("malformed", f"an event of type {kind!r}")
        self._version = str(version)
        return changed

    def _value(self, item: Json) -> T:
        try:
            return self._read(item)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Gap("malformed", f"{_name(item)}: {error!r}") from None


def _name(item: Json) -> str:
    name = (item.get("metadata") or {}).get("name")
    if not name:
        raise Gap("malformed", "an object without a name")
    return str(name)
