"""The four ways to change a part of an object: JSON Patch (RFC 6902), merge patch (RFC 7386), strategic merge, apply.

Strategic merge knows which lists of the API are maps in disguise, by the names of their fields: the table below is the
part of the API's schema that says so. Patches never change what they are given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from doubles.kubernetes.kinds import Object

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
ACCEPTED = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)

# Field of a list -> the fields that may identify its elements, the first that the elements have counts:
# container ports go by containerPort and service ports by port.
_LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "ports": ("containerPort", "port"),
    "resourceClaims": ("name",),
    "secrets": ("name",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_MERGED_SETS = frozenset({"finalizers", "podCIDRs"})


class PatchError(Exception):
    """A patch that cannot be applied to what is there; its text says why."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def strategic_merge_patch(target: Any, patch: Any) -> Any:
    """Merge patch, but lists with a key merge element by element, and `$patch`, `$retainKeys`,
    `$deleteFromPrimitiveList/…` and `$setElementOrder/…` direct it."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            _drop(result, name.partition("/")[2], value)
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, list):
            result[name] = _merge_lists(name, _listed(result.get(name)), value)
        else:
            result[name] = strategic_merge_patch(result.get(name), value)
    for name, order in patch.items():
        if name.startswith("$setElementOrder/"):
            _reorder(result, name.partition("/")[2], order)
    return result


def _drop(result: Object, name: str, values: Sequence[Any]) -> None:
    result[name] = [value for value in result.get(name) or () if value not in values]


def _listed(value: Any) -> list[Any]:
    """A list; what was something else before is replaced as a whole."""
    return value if isinstance(value, list) else []


def list_key(name: str, *lists: Sequence[Any]) -> str | None:
    """The field that identifies the elements of list `name`; None where the list is one value."""
    elements = [element for some in lists for element in some]
    if not all(isinstance(element, dict) for element in elements):
        return None
    named = [element for element in elements if set(element) - {"$patch"}]
    return next((key for key in _LIST_KEYS.get(name, ()) if all(key in element for element in named)), None)


def _merge_lists(name: str, target: Sequence[Any], patch: Sequence[Any]) -> list[Any]:
    if name in _MERGED_SETS:
        return [*target, *(value for value in patch if value not in target)]
    key = list_key(name, target, patch)
    if key is None:
        return [copy.deepcopy(value) for value in patch]
    if any(element.get("$patch") == "replace" for element in patch):
        return [copy.deepcopy(element) for element in patch if "$patch" not in element]
    result = {element[key]: element for element in target}
    for element in patch:
        if element.get("$patch") == "delete":
            result.pop(element.get(key), None)
        else:
            result[element[key]] = strategic_merge_patch(result.get(element[key]), element)
    return list(result.values())


def _reorder(result: Object, name: str, order: Sequence[Any]) -> None:
    """Put the elements named in `order` in that order; those that it does not name stay behind them."""
    elements = result.get(name)
    if not isinstance(elements, list):
        return
    key = list_key(name, elements)
    if key is None:
        rank = {value: position for position, value in enumerate(order)}
        elements.sort(key=lambda value: rank.get(value, len(rank)))
    else:
        rank = {value[key]: position for position, value in enumerate(order)}
        elements.sort(key=lambda value: rank.get(value[key], len(rank)))


def apply_patch(target: Any, applied: Any, before: Any) -> Any:
    """Server-side apply without owners of single fields: `applied` is merged, and what the same manager applied
    `before` and no longer does is taken out."""
    if not isinstance(applied, dict):
        return copy.deepcopy(applied)
    before = before if isinstance(before, dict) else {}
    result = dict(target) if isinstance(target, dict) else {}
    for name in before.keys() - applied.keys():
        result.pop(name, None)
    for name, value in applied.items():
        old, current = before.get(name), result.get(name)
        if isinstance(value, list):
            result[name] = _apply_list(name, _listed(current), value, _listed(old))
        else:
            result[name] = apply_patch(current, value, old)
    return result


def _apply_list(name: str, target: Sequence[Any], applied: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    key = list_key(name, target, applied, before)
    if key is None:
        return [copy.deepcopy(value) for value in applied]
    old = {element[key]: element for element in before}
    wanted = {element[key]: element for element in applied}
    current = {element[key]: element for element in target}
    kept = [current[value] for value in current if value not in wanted and value not in old]
    return [apply_patch(current.get(value), wanted[value], old.get(value)) for value in wanted] + kept


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises `PatchError` where an operation does not fit, among them a `test` that fails."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    document = copy.deepcopy(target)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise PatchError(f"{operation}: {error!r}") from error
    return document


def _operate(document: Any, operation: Object) -> Any:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "test":
            if _read(document, path) != operation.get("value"):
                raise PatchError(f"testing value {operation['path']} failed")
            return document
        case "add":
            return _add(document, path, copy.deepcopy(operation["value"]))
        case "replace":
            _read(document, path)
            return (
                _add(_remove(document, path), path, copy.deepcopy(operation["value"])) if path else operation["value"]
            )
        case "remove":
            return _remove(document, path)
        case "move":
            source = _pointer(operation["from"])
            value = _read(document, source)
            return _add(_remove(document, source), path, value)
        case "copy":
            return _add(document, path, copy.deepcopy(_read(document, _pointer(operation["from"]))))
        case other:
            raise PatchError(f"unexpected kind: {other}")


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _read(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _read(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        position = len(parent) if last == "-" else int(last)
        if not 0 <= position <= len(parent):
            raise PatchError(f"index {last} is out of bounds")
        parent.insert(position, value)
    else:
        parent[last] = value
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    parent, last = _read(document, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return document
