"""From an HTTP error answer back to the class of `berth.errors` that the server raised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from berth.errors import BerthError, Internal, InvalidArgument, Retryable, Unavailable, status_of
from berth.headers import RETRY_AFTER_TEXT

_TYPE_PREFIX = "urn:berth:problem:"
_KNOWN = frozenset({"type", "title", "status", "detail", "instance"})


def _tree(cls: type[BerthError]) -> Iterator[type[BerthError]]:
    """The classes of the vocabulary. A server's own, loaded in the same process, must not stand in for them."""
    for child in cls.__subclasses__():
        if child.__module__ == BerthError.__module__:
            yield child
        yield from _tree(child)


# Retryable itself has no row of its own and would shadow Internal.
_CONCRETE = [cls for cls in _tree(BerthError) if cls is not Retryable]
_BY_SLUG = {status_of(cls).slug: cls for cls in _CONCRETE}
# The first class with a status stands for it where a server names no type: general ones come before special ones.
_BY_HTTP = {status_of(cls).http: cls for cls in reversed(_CONCRETE)}


def error_from(status: int, headers: Mapping[str, str], body: bytes) -> BerthError:
    """The error that an answer with an HTTP status of 400 or more stands for.

    Understands problem+json (controller) and OIP's `{"error": …}` (router, worker); anything else keeps its first
    line. Header names must be in lower case.
    """
    document = _document(body)
    slug = str(document.get("type", "")).removeprefix(_TYPE_PREFIX)
    cls = _BY_SLUG.get(slug) or _BY_HTTP.get(status) or (InvalidArgument if status < 500 else Internal)
    detail = str(document.get("detail") or document.get("error") or _first_line(body) or f"HTTP status {status}")
    fields: dict[str, Any] = {}
    if slug in _BY_SLUG:
        fields = {key: value for key, value in document.items() if key not in _KNOWN}
    if "instance" in document:
        fields["request"] = document["instance"]
    if issubclass(cls, Retryable):
        fields.pop("retry_after", None)
        return cls(detail, retry_after=_seconds(headers.get(RETRY_AFTER_TEXT)), **fields)
    fields.pop("detail", None)
    return cls(detail, **fields)


def unreachable(server: str, url: str, reason: str) -> Unavailable:
    """The error for a server that could not be spoken to."""
    return Unavailable(f"cannot reach the {server} at {url}: {reason}", retry_after=0.2)


def _document(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first_line(body: bytes) -> str:
    text = body[:500].decode("utf-8", "replace").strip()
    return text.splitlines()[0] if text else ""


def _seconds(header: str | None) -> float:
    try:
        return min(60.0, max(0.0, float(header or "1")))
    except ValueError:
        return 1.0
