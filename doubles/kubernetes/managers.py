"""Server-side apply: who has applied what, and whose opinions are in the way.

Fields that were written by PUT or PATCH have no owner here; in a real cluster they do.
"""

from __future__ import annotations

from typing import Any

from doubles.kubernetes.kinds import Object
from doubles.kubernetes.patches import apply_patch
from doubles.kubernetes.status import ApiError


class Managers:
    """What each manager applied last, by object and subresource."""

    def __init__(self) -> None:
        self._applied: dict[tuple[str, str, str], Object] = {}

    def merge(self, current: Object, applied: Object, manager: str, subresource: str, *, force: bool) -> Object:
        """`current` as the manager wants it. Raises a 409 for what another manager wants differently."""
        uid = current["metadata"]["uid"]
        if not force:
            self._check(uid, manager, _opinions(applied))
        return apply_patch(current, applied, self._applied.get((uid, manager, subresource)))  # type: ignore[no-any-return]

    def remember(self, uid: str, manager: str, subresource: str, applied: Object) -> None:
        self._applied[uid, manager, subresource] = _opinions(applied)

    def _check(self, uid: str, manager: str, opinions: Object) -> None:
        for (owned, other, _), held in self._applied.items():
            fields = sorted(_disputed(opinions, held)) if owned == uid and other != manager else []
            if fields:
                plural = "" if len(fields) == 1 else "s"
                message = f"Apply failed with {len(fields)} conflict{plural}: "
                message += f'conflict{plural} with "{other}": {", ".join(fields)}'
                cause = {"reason": "FieldManagerConflict", "message": f'conflict with "{other}"'}
                raise ApiError(409, "Conflict", message, {"causes": [cause | {"field": field} for field in fields]})


def _opinions(applied: Object) -> Object:
    """What a manager holds an opinion on: not the names by which it found the object."""
    metadata = {name: item for name, item in applied["metadata"].items() if name in {"labels", "annotations"}}
    content = {name: item for name, item in applied.items() if name not in {"apiVersion", "kind", "metadata"}}
    return content | ({"metadata": metadata} if metadata else {})


def _disputed(applied: Any, other: Any, path: str = "") -> set[str]:
    """Paths of the fields that both give, differently."""
    if isinstance(applied, dict) and isinstance(other, dict):
        found: set[str] = set()
        for name in applied.keys() & other.keys():
            found |= _disputed(applied[name], other[name], f"{path}.{name}")
        return found
    return {path} if applied != other else set()
