"""Lists: in pages of one consistent moment, from the past where a client asks for it, 410 where that is forgotten."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.selectors import matcher
from doubles.kubernetes.status import ApiError, bad_request, expired, invalid, too_large_resource_version
from doubles.kubernetes.store import Store

_CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
LIST_OPTIONS = Kind("meta.k8s.io", "", "ListOptions", "")


def read_version(text: str) -> int:
    """A resourceVersion of a query. Raises a 400."""
    if text and not text.isdigit():
        raise bad_request(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text or 0)


def list_objects(store: Store, kind: Kind, namespace: str, query: Mapping[str, str]) -> Object:
    """The answer to a list. Raises 400, 410, 422 or 504."""
    match = matcher(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""), namespace)
    limit = int(query.get("limit") or 0)
    version, start = _moment(store, query)
    try:
        items = store.items(kind) if version == store.version else store.items_at(kind, version)
    except ApiError:
        if "continue" in query:
            raise expired(_CONTINUE_EXPIRED, _token(0, start)) from None
        raise expired("The resourceVersion for the provided list is too old.") from None
    found = [item for item in items if match is None or match(item)]
    rest = [item for item in found if _place(item) >= start] if start else found
    page = rest[:limit] if limit else rest
    metadata: Object = {"resourceVersion": str(version)}
    if len(page) < len(rest):
        metadata["continue"] = _token(version, _place(rest[limit]))
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            metadata["remainingItemCount"] = len(rest) - len(page)
    return {
        "kind": f"{kind.kind}List",
        "apiVersion": kind.api_version,
        "metadata": metadata,
        "items": [_bare(item) for item in page],
    }


def _moment(store: Store, query: Mapping[str, str]) -> tuple[int, str]:
    """The version to list at, and the place to begin at."""
    given, rule = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    _check_rule(given, rule, query)
    if query.get("continue"):
        version, start = _read_token(query["continue"])
        return version or store.version, start
    version = read_version(given)
    if version > store.version:
        raise too_large_resource_version(version, store.version)
    exact = rule == "Exact" or (not rule and query.get("limit") and version)  # a limit without a rule means Exact
    return (version if exact else store.version), ""


def _check_rule(given: str, rule: str, query: Mapping[str, str]) -> None:
    message = ""
    if rule and not given:
        message = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
    elif rule and query.get("continue"):
        message = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
    elif rule not in {"", "Exact", "NotOlderThan"}:
        message = f'Unsupported value: "{rule}": supported values: "Exact", "NotOlderThan", ""'
    elif rule == "Exact" and given == "0":
        message = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
    if message:
        raise invalid(LIST_OPTIONS, "", "resourceVersionMatch", message, "FieldValueForbidden")
    if query.get("continue") and given not in {"", "0"}:
        raise bad_request("specifying resource version is not allowed when using continue")


def _place(value: Object) -> str:
    metadata = value["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _bare(value: Object) -> Object:
    """Items of a typed list do not repeat their kind."""
    return {name: item for name, item in value.items() if name not in {"kind", "apiVersion"}}


def _token(version: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        value = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(value["rv"]), str(value["start"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise bad_request("continue key is not valid") from None
