"""How things are called in refusals, and what text may be stored.

A thing of someone else and a thing that does not exist are refused in the same words, taken from the request.
"""

from __future__ import annotations

from berth.errors import InvalidArgument, NotFound
from berth.ids import ModelKey


def no_tenant(name: str) -> NotFound:
    return NotFound(f"there is no tenant {name!r}")


def no_model(key: ModelKey) -> NotFound:
    return NotFound(f"tenant {key.tenant!r} has no model {key.model!r}")


def no_version(key: ModelKey, version: object) -> NotFound:
    return NotFound(f"model {key.model!r} of tenant {key.tenant!r} has no version {str(version)!r}")


def no_job(name: str) -> NotFound:
    return NotFound(f"there is no job {name!r}")


def no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id!r}")


def check_text(what: str, text: str) -> str:
    """Return `text`, or raise `InvalidArgument` for what PostgreSQL cannot store: NUL and lone surrogates."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidArgument(f"{what} contains a NUL character or half of a surrogate pair")
    return text


def storable(name: str) -> bool:
    """Whether a name that a caller only looks up can exist at all."""
    return 0 < len(name) <= 255 and name.isprintable() and name.isascii()
