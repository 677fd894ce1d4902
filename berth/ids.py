"""Names and keys: what identifies a tenant, a model, a version and a servable.

Tenants, models, labels and jobs share one grammar. A runtime sees a name derived from (tenant, model, version). Its
separator is excluded by the grammar, so that no two servables can collide and no tenant can choose one.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from berth.errors import InvalidArgument

NAME_PATTERN = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
SHA256_PATTERN = r"[0-9a-f]{64}"

_NAME = re.compile(NAME_PATTERN)
_SHA256 = re.compile(SHA256_PATTERN)
_SEPARATOR = "~"
# The largest value of PostgreSQL's bigint, and of int64 on the wire.
MAX_VERSION = 2**63 - 1


def check_name(kind: str, name: str) -> str:
    """Return `name`, or raise `InvalidArgument` that says which `kind` of name is wrong and what is allowed."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{kind} name {name[:80]!r} is not valid: 1 to 63 characters of a-z, 0-9, '.', '_' and '-', "
            "starting and ending with a letter or digit"
        )
    return name


def check_sha256(digest: str) -> str:
    """Return `digest`, or raise `InvalidArgument` unless it is 64 lower-case hexadecimal digits."""
    if _SHA256.fullmatch(digest) is None:
        raise InvalidArgument(f"{digest[:80]!r} is not a SHA-256 digest: 64 lower-case hexadecimal digits are expected")
    return digest


def parse_version(text: str) -> int | None:
    """The version number that `text` spells canonically ("7", not "07" or "+7"), or None if it spells none."""
    if not text.isascii() or not text.isdigit() or text.startswith("0") or len(text) > 19:
        return None
    number = int(text)
    return number if number <= MAX_VERSION else None


class ModelKey(NamedTuple):
    """A model of a tenant. A named tuple because it is hashed on every request, and tuples hash in C."""

    tenant: str
    model: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.model}"


class VersionKey(NamedTuple):
    """One immutable version of a model."""

    tenant: str
    model: str
    version: int

    @property
    def model_key(self) -> ModelKey:
        return ModelKey(self.tenant, self.model)

    @property
    def servable(self) -> str:
        """The name that runtimes, worker endpoints and cache folders use; unique across tenants."""
        return f"{self.tenant}{_SEPARATOR}{self.model}{_SEPARATOR}{self.version}"

    @classmethod
    def from_servable(cls, name: str) -> Self:
        """Invert `servable`. Raises `InvalidArgument` for anything `servable` cannot have produced."""
        parts = name.split(_SEPARATOR)
        version = parse_version(parts[-1]) if len(parts) == 3 else None
        if version is None or not all(_NAME.fullmatch(part) for part in parts[:2]):
            raise InvalidArgument(f"{name[:200]!r} is not a servable name")
        return cls(parts[0], parts[1], version)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.model}:{self.version}"
