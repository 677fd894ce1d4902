"""What goes because something else went: dependents of a deleted owner, and the content of a deleted namespace.

The garbage and namespace controllers of a cluster, which no client can do without; they always run.
"""

from __future__ import annotations

from doubles.kubernetes.deletion import FOREGROUND, ORPHAN, Deletion
from doubles.kubernetes.kinds import BY_NAME, KINDS, Kind, Object, kind_of
from doubles.kubernetes.registry import Registry
from doubles.kubernetes.store import Event

_NAMESPACES = BY_NAME["namespaces"]


class Garbage:
    """Looks at each event once; what it does makes events that it looks at in turn."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._seen: dict[str, int] = {kind.resource: self._store.version for kind in KINDS}

    def collect(self) -> None:
        """Bring everything up to date with what happened since the last time."""
        while self._step():
            pass

    def _step(self) -> bool:
        version = self._store.version
        events = [event for kind in KINDS for event in self._store.recent(kind, self._seen[kind.resource])]
        self._seen = dict.fromkeys(self._seen, version)
        for event in sorted(events, key=lambda event: event.version):
            self._look(event)
        self._finish_namespaces()
        return self._store.version != version

    def _look(self, event: Event) -> None:
        metadata = event.object["metadata"]
        if event.deleted:
            self._release(metadata["uid"])
            for owner in metadata.get("ownerReferences") or ():
                self._finish_owner(owner)
            return
        value = self._store.get(event.kind, metadata.get("namespace", ""), metadata["name"])
        if value is None or value["metadata"]["uid"] != metadata["uid"]:
            return
        finalizers = value["metadata"].get("finalizers") or ()
        if "deletionTimestamp" in value["metadata"] and FOREGROUND in finalizers:
            self._delete_before(event.kind, value)
        elif "deletionTimestamp" in value["metadata"] and ORPHAN in finalizers:
            self._orphan(event.kind, value)
        owners = value["metadata"].get("ownerReferences") or ()
        if owners and not any(self._store.find(owner["uid"]) for owner in owners):
            self._delete(value)

    def _release(self, uid: str) -> None:
        """Delete those whose last owner went; the others lose only the reference."""
        for value in self._store.dependents(uid):
            owners = value["metadata"]["ownerReferences"]
            left = [owner for owner in owners if self._store.find(owner["uid"])]
            if left:
                self._write(value, {"ownerReferences": left})
            else:
                self._delete(value)

    def _delete_before(self, kind: Kind, owner: Object) -> None:
        """Foreground: dependents go first, and the owner waits for those that block it."""
        for value in self._store.dependents(owner["metadata"]["uid"]):
            if "deletionTimestamp" not in value["metadata"]:
                self._delete(value, "Foreground")
        self._finish_foreground(kind, owner)

    def _finish_owner(self, reference: Object) -> None:
        found = self._store.find(reference["uid"])
        if found is not None:
            self._finish_foreground(*found)

    def _finish_foreground(self, kind: Kind, owner: Object) -> None:
        metadata = owner["metadata"]
        if "deletionTimestamp" not in metadata or FOREGROUND not in (metadata.get("finalizers") or ()):
            return
        blocking = any(
            reference.get("blockOwnerDeletion")
            for value in self._store.dependents(metadata["uid"])
            for reference in value["metadata"]["ownerReferences"]
            if reference["uid"] == metadata["uid"]
        )
        current = self._store.get(kind, metadata.get("namespace", ""), metadata["name"])
        if not blocking and current is not None:
            self._drop_finalizer(kind, current, FOREGROUND)

    def _orphan(self, kind: Kind, owner: Object) -> None:
        uid = owner["metadata"]["uid"]
        for value in self._store.dependents(uid):
            kept = [reference for reference in value["metadata"]["ownerReferences"] if reference["uid"] != uid]
            self._write(value, {"ownerReferences": kept})
        self._drop_finalizer(kind, owner, ORPHAN)

    def _drop_finalizer(self, kind: Kind, value: Object, finalizer: str) -> None:
        kept = [name for name in value["metadata"].get("finalizers") or () if name != finalizer]
        metadata = value["metadata"] | {"finalizers": kept}
        self._registry.change(kind, value, value | {"metadata": metadata})

    def _write(self, value: Object, metadata: Object) -> None:
        self._registry.change(kind_of(value), value, value | {"metadata": value["metadata"] | metadata})

    def _delete(self, value: Object, propagation: str = "Background") -> None:
        metadata = value["metadata"]
        if "deletionTimestamp" in metadata:
            return
        self._registry.delete(
            kind_of(value),
            metadata.get("namespace", ""),
            metadata["name"],
            Deletion(propagation=propagation, uid=metadata["uid"]),
        )

    def _finish_namespaces(self) -> None:
        for space in self._store.items(_NAMESPACES):
            if "deletionTimestamp" not in space["metadata"]:
                continue
            content = [
                value
                for kind in KINDS
                if kind.namespaced
                for value in self._store.items(kind, space["metadata"]["name"])
            ]
            for value in content:
                self._delete(value)
            if not content:
                self._registry.finish_namespace(space)
