"""Creating, changing and deleting as the API server does it: identity, generations, locking, grace, finalizers.

Every function is synchronous and whole: it checks, decides and writes the store in one step, so that requests never
interleave. Refusals are `ApiError`.
"""

from __future__ import annotations

import copy
import random
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from doubles.kubernetes import defaults
from doubles.kubernetes.deletion import Deletion, grace_of, marked, shortened, with_propagation
from doubles.kubernetes.kinds import BY_NAME, Kind, Object
from doubles.kubernetes.moments import stamp
from doubles.kubernetes.patches import MERGE_PATCH, merge_patch
from doubles.kubernetes.status import (
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    named,
    not_found,
    success,
    unsupported_media_type,
)
from doubles.kubernetes.store import Store

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: generated names never spell a word
_ATTEMPTS = 8  # as the real one tries generated names
_PLAIN = Deletion()
_SERVER_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


class Registry:
    """The rules between a request and the store."""

    def __init__(self, store: Store, clock: Callable[[], datetime], rng: random.Random | None = None) -> None:
        self.store = store
        self._rng = rng or random.Random()
        self.clock = clock

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise not_found(kind, name)
        return found

    def create(self, kind: Kind, namespace: str, value: Object) -> Object:
        """Store a new object. Raises 400, 403, 404, 409 or 422."""
        value = _pruned(value)
        metadata = _metadata(kind, namespace, value)
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._generate(kind, namespace, metadata["generateName"])
        name = metadata.get("name", "")
        self._check_namespace(kind, metadata.get("namespace", ""), name)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp(self.clock())}
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "generation"):
            metadata.pop(field, None)
        if kind.generation:
            metadata["generation"] = 1
        if kind.has_status and kind.kind != "Node":  # a kubelet registers its node complete with status
            value.pop("status", None)
        defaults.check_name(kind, name)
        defaults.complete(kind, value)
        defaults.check(kind, value)
        if self.store.get(kind, namespace, name) is not None:
            raise already_exists(kind, name)
        return self.store.write(kind, value)

    def replace(
        self, kind: Kind, namespace: str, name: str, value: Object, subresource: str = ""
    ) -> tuple[Object, bool]:
        """PUT: the object as stored, and whether it was created. Raises 400, 404, 409 or 422."""
        value = _pruned(value)
        metadata = _metadata(kind, namespace, value)
        if metadata.setdefault("name", name) != name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        current = self.store.get(kind, namespace, name)
        if current is None:
            if not kind.create_on_update or subresource:
                raise not_found(kind, name)
            if metadata.get("uid"):
                raise conflict(
                    kind, name, f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
                )
            metadata.pop("resourceVersion", None)
            return self.create(kind, namespace, value), True
        if not metadata.get("resourceVersion") and not kind.unconditional_update:
            message = "Invalid value: 0x0: must be specified for an update"
            raise invalid(kind, name, "metadata.resourceVersion", message)
        return self.change(kind, current, value, subresource), False

    def patch(
        self, kind: Kind, namespace: str, name: str, content_type: str, patch: Any, subresource: str = ""
    ) -> Object:
        """PATCH: the object as stored. Raises 400, 404, 409, 415 or 422."""
        current = self.get(kind, namespace, name)
        changed = _pruned(patched(current, content_type, patch))
        _metadata(kind, namespace, changed)
        return self.change(kind, current, changed, subresource)

    def change(self, kind: Kind, current: Object, proposed: Object, subresource: str = "") -> Object:
        """Store `proposed` in the place of `current`: with its identity, and only the part that the subresource owns.

        What changes nothing is not written and gets no new version."""
        metadata, held = proposed["metadata"], current["metadata"]
        if self.store.get(kind, held.get("namespace", ""), held["name"]) is not current:
            raise conflict(kind, held["name"])  # the caller decided on a state that is past
        self._check_lock(kind, metadata, held)
        if proposed == current:
            return current
        kept = {field: held[field] for field in _SERVER_METADATA if field in held}
        new = {name: value for name, value in metadata.items() if name not in _SERVER_METADATA} | kept
        new |= {"resourceVersion": held["resourceVersion"]}
        new.pop("managedFields", None)
        if subresource == "status":
            if kind.kind not in {"Pod", "Node"}:
                new = _with(new, "labels", held.get("labels"))
            new = _with(new, "ownerReferences", held.get("ownerReferences"))
            changed = _with(current | {"metadata": new}, "status", proposed.get("status"))
        else:
            changed = proposed | {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": new}
            if kind.has_status:
                changed = _with(changed, "status", current.get("status"))
            changed = copy.deepcopy(changed)
            defaults.complete(kind, changed)
            defaults.check(kind, changed)
            defaults.check_change(kind, current, changed)
            if kind.generation and _desired(changed) != _desired(current):
                changed["metadata"]["generation"] = held.get("generation", 0) + 1
        self._check_finalizers(kind, changed["metadata"], held)
        if changed == current:
            return changed
        return self._write_or_finish(kind, changed)

    def bind(self, pod: Object, node: str) -> Object:
        """Give a pod its node, as the scheduler's Binding does. Raises a 409 for a pod that has one."""
        kind, metadata = BY_NAME["pods"], pod["metadata"]
        if pod["spec"].get("nodeName"):
            raise conflict(kind, metadata["name"], f"pod {metadata['name']} is already assigned to node {node!r}")
        return self.store.write(kind, pod | {"spec": pod["spec"] | {"nodeName": node}})

    def delete(self, kind: Kind, namespace: str, name: str, deletion: Deletion = _PLAIN) -> Object:
        """DELETE: the body of the answer. The object may stay, with a deletionTimestamp. Raises 404 or 409."""
        value = self.get(kind, namespace, name)
        metadata = value["metadata"]
        deletion.check(kind, metadata)
        going, now = with_propagation(kind, value, deletion.propagation), self.clock()
        grace = grace_of(kind, going, deletion.grace_s)
        if grace > 0 or going["metadata"].get("finalizers") or kind.kind == "Namespace":
            held = shortened(going, grace, now) if grace > 0 else marked(going, now)
            return value if held == value else self.store.write(kind, held)
        self.store.remove(kind, value)
        return value if kind.returns_deleted else success(kind, name, metadata["uid"])

    def finish_namespace(self, value: Object) -> None:
        """Take out a namespace that is empty."""
        self.store.remove(BY_NAME["namespaces"], value)

    # ---- the parts ----

    def _generate(self, kind: Kind, namespace: str, prefix: str) -> str:
        """A name that is free: among a thousand pods two meet by chance one time in thirty."""
        for _ in range(_ATTEMPTS):
            name = prefix + "".join(self._rng.choices(_SUFFIX, k=5))
            if self.store.get(kind, namespace, name) is None:
                break
        return name

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        spaces = BY_NAME["namespaces"]
        found = self.store.get(spaces, "", namespace)
        if found is None:
            raise not_found(spaces, namespace)
        if "deletionTimestamp" in found["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
            message = f'{kind.resource} "{name}" is forbidden: {why}'
            raise forbidden(message, named(kind, name, causes=[cause | {"field": "metadata.namespace"}]))

    @staticmethod
    def _check_lock(kind: Kind, given: Object, held: Object) -> None:
        name = held["name"]
        if given.get("uid", held["uid"]) != held["uid"]:
            why = f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {held['uid']}"
            raise conflict(kind, name, why)
        if given.get("resourceVersion") and given["resourceVersion"] != held["resourceVersion"]:
            raise conflict(kind, name)

    @staticmethod
    def _check_finalizers(kind: Kind, new: Object, held: Object) -> None:
        added = set(new.get("finalizers") or ()) - set(held.get("finalizers") or ())
        if "deletionTimestamp" in held and added:
            message = (
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                f"{sorted(added)}"
            )
            raise invalid(kind, held["name"], "metadata.finalizers", message, "FieldValueForbidden")

    def _write_or_finish(self, kind: Kind, value: Object) -> Object:
        """Write, unless the last finalizer of an object that waits only for it went: then it is gone."""
        metadata = value["metadata"]
        waiting = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds") or kind.kind == "Namespace"
        if "deletionTimestamp" in metadata and not waiting:
            return self.store.remove(kind, value)
        return self.store.write(kind, value)


def patched(current: Object, content_type: str, patch: Any) -> Object:
    """`current` with a merge patch. Raises 400 or 415."""
    if content_type != MERGE_PATCH:
        raise unsupported_media_type((MERGE_PATCH,))
    result = merge_patch(current, patch)
    if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
        raise bad_request("the patch leaves no object")
    return result


def _metadata(kind: Kind, namespace: str, value: Object) -> Object:
    """The metadata of an object that came in, with the namespace of its URL. Raises a 400 where they disagree."""
    for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        if value.setdefault(field, expected) != expected:
            raise bad_request(
                f"the API version in the data ({value.get('apiVersion')}, Kind={value.get('kind')}) does not match "
                f"the expected API version ({kind.api_version}, Kind={kind.kind})"
            )
    metadata: Object = value.setdefault("metadata", {})
    if not kind.namespaced:
        metadata.pop("namespace", None)
    elif metadata.setdefault("namespace", namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    return metadata


def _pruned(value: Any) -> Any:
    """A copy without nulls: to the API server they are the same as fields left out."""
    if isinstance(value, dict):
        return {name: _pruned(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    return value


def _with(value: Object, field: str, content: Any) -> Object:
    """A copy with one field set, or without it."""
    if content is None:
        return {name: item for name, item in value.items() if name != field}
    return value | {field: content}


def _desired(value: Object) -> Object:
    return {name: item for name, item in value.items() if name not in {"metadata", "status"}}
