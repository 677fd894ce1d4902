"""From a method, a path and a query to what is asked of which resource. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from doubles.kubernetes.kinds import BY_PATH, Kind
from doubles.kubernetes.status import method_not_allowed

_MAIN = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCE_VERBS = {
    "status": frozenset({"get", "update", "patch"}),
    "scale": frozenset({"get", "update", "patch"}),
    "eviction": frozenset({"create"}),
    "token": frozenset({"create"}),
}


class Target(NamedTuple):
    """One request on a resource. `namespace` is empty for all of them, `name` for the collection."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def is_true(text: str | None) -> bool:
    return text in {"1", "true", "True", ""}


def find_target(method: str, path: str, query: Mapping[str, str]) -> Target | None:
    """What a request is about; None where the server has no such path. Raises a 405."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    kind = BY_PATH.get((group, version, rest[0])) if rest else None
    if kind is None or len(rest) > 3 or (bool(namespace) and not kind.namespaced):
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource and subresource not in kind.subresources:
        return None
    if name and kind.namespaced and not namespace:
        return None
    return Target(_verb(method, query, kind, namespace, name, subresource), kind, namespace, name, subresource)


def _verb(method: str, query: Mapping[str, str], kind: Kind, namespace: str, name: str, subresource: str) -> str:
    verb = _MAIN.get(method)
    if not name:
        listing = "watch" if "watch" in query and is_true(query["watch"]) else "list"
        verb = {"get": listing, "create": "create"}.get(verb or "")
        if verb == "create" and kind.namespaced and not namespace:
            verb = None
    elif not subresource and verb == "create":
        verb = None
    if verb is None or (subresource and verb not in _SUBRESOURCE_VERBS[subresource]):
        raise method_not_allowed()
    return verb
