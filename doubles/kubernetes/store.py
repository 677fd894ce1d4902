"""Objects and their history. State of its own: the only one of the server besides faults, calls and tokens.

Every write gets the next resourceVersion of the whole store and is kept as an event, so that a watch can start in the
past and a list can be read as it was; history is bounded and can be compacted, and then both are refused with 410.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.status import expired
from doubles.news import News

FIRST_VERSION = 1000


class Key(NamedTuple):
    """Where an object lives. `namespace` is empty for kinds of the cluster."""

    resource: str
    namespace: str
    name: str


class Event:
    """One write: the object before and after it. A deletion's `object` is the last state, at the version of its end."""

    __slots__ = ("_line", "deleted", "kind", "object", "previous", "version")

    def __init__(self, kind: Kind, version: int, previous: Object | None, value: Object, *, deleted: bool) -> None:
        self.kind = kind
        self.version = version
        self.previous = previous
        self.object = value
        self.deleted = deleted
        self._line: bytes | None = None

    def line(self) -> bytes:
        """The object as JSON. Encoded once however many watches it goes to."""
        if self._line is None:
            self._line = json.dumps(self.object, separators=(",", ":")).encode()
        return self._line


class Store:
    """Every object of the server by key, with the history of each resource."""

    def __init__(self, history: int = 20_000) -> None:
        self.version = FIRST_VERSION
        self.news = News()
        self._history = history
        self._objects: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._kinds: dict[str, Kind] = {}
        self._log: dict[str, list[Event]] = defaultdict(list)
        self._compacted: dict[str, int] = defaultdict(lambda: FIRST_VERSION)
        self._by_uid: dict[str, Key] = {}
        self._dependents: dict[str, set[Key]] = defaultdict(set)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(found)} {resource}" for resource, found in sorted(self._objects.items()) if found)
        return f"<Store at {self.version}: {counts or 'empty'}>"

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects[kind.resource].get((namespace if kind.namespaced else "", name))

    def items(self, kind: Kind, namespace: str = "") -> list[Object]:
        """All objects of a kind, or those of one namespace, by namespace and name."""
        found = self._objects[kind.resource]
        return [found[place] for place in sorted(found) if not namespace or place[0] == namespace]

    def find(self, uid: str) -> tuple[Kind, Object] | None:
        """The object with a uid, wherever it lives."""
        key = self._by_uid.get(uid)
        if key is None:
            return None
        return self._kinds[key.resource], self._objects[key.resource][key.namespace, key.name]

    def dependents(self, uid: str) -> list[Object]:
        """Objects that name `uid` among their owners, by name."""
        keys = sorted(self._dependents.get(uid, ()))
        return [self._objects[key.resource][key.namespace, key.name] for key in keys]

    def write(self, kind: Kind, value: Object) -> Object:
        """Put `value` at its key, as a new version. The caller has decided that it may and that it differs."""
        key = self._key(kind, value)
        self.version += 1
        stored = value | {"metadata": value["metadata"] | {"resourceVersion": str(self.version)}}
        previous = self._objects[kind.resource].get((key.namespace, key.name))
        if previous is not None:
            self._unlink(key, previous)
        self._objects[kind.resource][key.namespace, key.name] = stored
        self._link(kind, key, stored)
        self._append(Event(kind, self.version, previous, stored, deleted=False))
        return stored

    def remove(self, kind: Kind, value: Object) -> Object:
        """Take an object out; returns its last state with the version at which it ended."""
        key = self._key(kind, value)
        previous = self._objects[kind.resource].pop((key.namespace, key.name))
        self._unlink(key, previous)
        self.version += 1
        last = value | {"metadata": value["metadata"] | {"resourceVersion": str(self.version)}}
        self._append(Event(kind, self.version, previous, last, deleted=True))
        return last

    def events(self, kind: Kind, after: int) -> Sequence[Event]:
        """What happened to a kind after a version. Raises a 410 where history does not reach back that far."""
        compacted = self._compacted[kind.resource]
        if after < compacted:
            raise expired(f"too old resource version: {after} ({compacted})")
        log = self._log[kind.resource]
        return log[bisect_right(log, after, key=lambda event: event.version) :]

    def recent(self, kind: Kind, after: int) -> Sequence[Event]:
        """What is still known to have happened to a kind after a version: for those who may miss what is forgotten."""
        return self.events(kind, max(after, self._compacted[kind.resource]))

    def items_at(self, kind: Kind, version: int) -> list[Object]:
        """The objects of a kind as they were at a version. Raises a 410 where history does not reach back."""
        found = dict(self._objects[kind.resource])
        for event in reversed(self.events(kind, version)):
            metadata = event.object["metadata"]
            place = metadata.get("namespace", ""), metadata["name"]
            if event.previous is None:
                found.pop(place, None)
            else:
                found[place] = event.previous
        return [found[place] for place in sorted(found)]

    def compact(self, resources: Iterable[str] | None = None) -> None:
        """Forget history: every version before the present one is too old from now on. Running watches go on."""
        for resource in list(self._log) if resources is None else list(resources):
            self._log[resource] = []
            self._compacted[resource] = self.version

    def _append(self, event: Event) -> None:
        resource = event.kind.resource
        log = self._log[resource]
        log.append(event)
        if len(log) > 2 * self._history:  # in halves, so that trimming costs nothing per write
            self._compacted[resource] = log[-self._history - 1].version
            del log[: -self._history]
        self.news.tell()

    def _link(self, kind: Kind, key: Key, value: Object) -> None:
        self._kinds[key.resource] = kind
        self._by_uid[value["metadata"]["uid"]] = key
        for owner in value["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].add(key)

    def _unlink(self, key: Key, value: Object) -> None:
        self._by_uid.pop(value["metadata"]["uid"], None)
        for owner in value["metadata"].get("ownerReferences") or ():
            found = self._dependents[owner["uid"]]
            found.discard(key)
            if not found:
                del self._dependents[owner["uid"]]

    @staticmethod
    def _key(kind: Kind, value: Object) -> Key:
        metadata = value["metadata"]
        return Key(kind.resource, metadata.get("namespace", ""), metadata["name"])
