"""The catalogue of events: every kind there is, and what it carries.

A kind is a class. Its fields are the members of `data`, as clients see them. Beside them there are, where they apply:

* `before` and `after`: what the thing was and is, as the API spells it; for an update, only the members that were set.
  What was made has no `before`; what is gone has no `after`. Of `job.scaled` and `job.recommended` they are numbers of
  replicas.
* `from` and `request_id`: the client's address as the controller sees it, and the id of its request. What the
  controller does by itself has neither.

An event shows no secret, and nothing of any tenant but its own: whoever has a key of the tenant reads it. What is long
(a default answer) is told by its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from berth.ids import ModelKey, VersionKey
from berth.states import Role, VersionState
from controller.core.commands import Command

Members = Mapping[str, Any]
"""Members of a resource, as the API spells them."""


class Subject(NamedTuple):
    """What an event happened to, and the tenant that may see it; None: only the platform."""

    tenant: str | None
    path: str


def tenant_subject(name: str) -> Subject:
    return Subject(name, f"tenant/{name}")


def key_subject(tenant: str | None, key_id: str) -> Subject:
    """`tenant` is None for a key of the platform."""
    return Subject(tenant, f"key/{key_id}")


def model_subject(key: ModelKey) -> Subject:
    return Subject(key.tenant, f"model/{key.model}")


def version_subject(key: VersionKey) -> Subject:
    return Subject(key.tenant, f"model/{key.model}/versions/{key.version}")


def job_subject(name: str) -> Subject:
    return Subject(None, f"job/{name}")


@dataclass(frozen=True)
class Happening:
    """Something that happened to `of`, and is told if the transaction commits."""

    KIND: ClassVar[str]

    of: Subject

    def data(self, by: Command) -> dict[str, Any]:
        """The members of `data`, with from where it was asked for."""
        told: dict[str, Any] = {}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name == _SAID:
                told |= _spell(value)
            elif value is not None or field.name not in _OPTIONAL:
                told[field.name] = _spell(value)
        if by.address:
            told["from"] = by.address
        if by.request_id:
            told["request_id"] = by.request_id
        return told


_SAID = "said"
"""A field whose own members become members of `data`: what was asked for, as it was said."""
_OPTIONAL = frozenset({"cells", "after"})


def difference(before: Members, after: Members) -> tuple[Members, Members]:
    """Of each the members that are not the same in the other."""
    differ = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return (
        {name: before[name] for name in sorted(differ) if name in before},
        {name: after[name] for name in sorted(differ) if name in after},
    )


def _spell(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _spell(member) for name, member in value.items()}
    return [_spell(member) for member in value] if isinstance(value, list | tuple) else value


# ── Tenants and keys ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TenantCreated(Happening):
    KIND = "tenant.created"

    after: Members


@dataclass(frozen=True)
class TenantUpdated(Happening):
    KIND = "tenant.updated"

    quota: Members
    before: Members
    after: Members


@dataclass(frozen=True)
class TenantDeleted(Happening):
    KIND = "tenant.deleted"

    before: Members


@dataclass(frozen=True)
class KeyWasCreated(Happening):
    """The key itself is nobody's business but its owner's."""

    KIND = "key.created"

    role: Role
    after: Members


@dataclass(frozen=True)
class KeyRevoked(Happening):
    KIND = "key.revoked"

    before: Members


# ── Models, labels, versions ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ModelCreated(Happening):
    KIND = "model.created"

    after: Members


@dataclass(frozen=True)
class ModelUpdated(Happening):
    """`cells` only where they were set."""

    KIND = "model.updated"

    before: Members
    after: Members
    cells: list[str] | None = None


@dataclass(frozen=True)
class ModelPinned(Happening):
    KIND = "model.pinned"

    version: int
    before: Members
    after: Members


@dataclass(frozen=True)
class ModelUnpinned(Happening):
    KIND = "model.unpinned"

    before: Members
    after: Members


@dataclass(frozen=True)
class ModelDeleted(Happening):
    KIND = "model.deleted"

    before: Members


@dataclass(frozen=True)
class LabelPut(Happening):
    KIND = "label.set"

    label: str
    version: int
    before: Members
    after: Members


@dataclass(frozen=True)
class LabelRemoved(Happening):
    KIND = "label.removed"

    label: str
    before: Members


@dataclass(frozen=True)
class VersionUploaded(Happening):
    """`job` are the names of its jobs, with commas; None: it was not placed."""

    KIND = "version.uploaded"

    sha256: str
    size_bytes: int
    job: str | None
    after: Members


@dataclass(frozen=True)
class VersionAvailable(Happening):
    KIND = "version.available"

    reason: str
    before: Members
    after: Members


@dataclass(frozen=True)
class VersionFailed(Happening):
    KIND = "version.failed"

    reason: str
    before: Members
    after: Members


@dataclass(frozen=True)
class VersionRetired(Happening):
    KIND = "version.retired"

    reason: str
    before: Members
    after: Members


@dataclass(frozen=True)
class VersionDeleted(Happening):
    KIND = "version.deleted"

    before: Members


# ── Jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class JobCreated(Happening):
    KIND = "job.created"

    said: Members
    after: Members


@dataclass(frozen=True)
class JobUpdated(Happening):
    KIND = "job.updated"

    said: Members
    before: Members
    after: Members


@dataclass(frozen=True)
class JobDeleted(Happening):
    KIND = "job.deleted"

    before: Members


@dataclass(frozen=True)
class JobScaled(Happening):
    """By Berth's autoscaler, which has its cell scale it."""

    KIND = "job.scaled"

    replicas: int
    before: int | None
    reason: str
    sustainable: float
    after: int


@dataclass(frozen=True)
class JobRecommended(Happening):
    """By Berth's autoscaler, for HPA or KEDA to follow."""

    KIND = "job.recommended"

    replicas: int
    before: int | None
    reason: str
    sustainable: float
    after: int


@dataclass(frozen=True)
class PoolConflict(Happening):
    """The pools file's wish for the job cannot be done."""

    KIND = "pool.conflict"

    reason: str
    before: Members
    after: Members


@dataclass(frozen=True)
class PoolResolved(Happening):
    """It can, or is not wished for any more."""

    KIND = "pool.resolved"

    reason: str
    before: Members
    after: Members


STATE_EVENTS: Mapping[VersionState, type[VersionAvailable | VersionFailed | VersionRetired]] = {
    VersionState.AVAILABLE: VersionAvailable,
    VersionState.FAILED: VersionFailed,
    VersionState.RETIRED: VersionRetired,
}
"""The kinds of what is told of a version's state."""


def catalogue() -> Iterator[type[Happening]]:
    """Every kind."""
    yield from sorted(Happening.__subclasses__(), key=lambda kind: kind.KIND)
