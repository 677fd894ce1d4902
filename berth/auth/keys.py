"""API keys: 32 random bytes shown once, known afterwards only by their SHA-256.

A slow password hash would add nothing: there is no dictionary for 256 random bits, and routers check a key per request.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

from berth.headers import AUTHORIZATION_TEXT

PREFIX = "berth_"


def new_key() -> str:
    """A fresh key. The caller shows it once and stores `digest(key)`."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """The SHA-256 of a key, 32 bytes: what is stored, sent to routers and compared."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def key_from_headers(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer KEY`, or None if there is none. `headers` must match names in lower case."""
    scheme, _, value = headers.get(AUTHORIZATION_TEXT, "").partition(" ")
    value = value.strip()
    return value if scheme.lower() == "bearer" and value else None
