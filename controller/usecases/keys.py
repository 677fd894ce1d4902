"""API keys: who calls, and giving and taking that right."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode

from berth.auth import keys
from berth.errors import InvalidArgument, Unauthenticated
from berth.states import Role
from controller.core import events
from controller.core.commands import START, Caller, Command
from controller.store import keys as store
from controller.store.records import KeyRecord
from controller.store.scope import PLATFORM, owner_of
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.tenants import get as get_tenant
from controller.usecases.told import key_members

BOOTSTRAP = "bootstrap"


async def authenticate(tx: Tx, key: str | None) -> Caller:
    """Raises `Unauthenticated`, in the same words for an unknown and a revoked key."""
    if key is None:
        raise Unauthenticated("send an API key: Authorization: Bearer KEY")
    found = await store.find_by_hash(tx, keys.digest(key))
    if found is None or found.revoked_at is not None:
        raise Unauthenticated("the API key is unknown or revoked")
    return Caller(found.id, found.role, found.tenant)


async def still_valid(tx: Tx, caller: Caller) -> None:
    """Raises `Unauthenticated` if the caller's key was revoked since: long answers ask again and again."""
    key = await store.find(tx, owner_of(caller.tenant), caller.key_id)
    if key is None or key.revoked_at is not None:
        raise Unauthenticated("the API key is unknown or revoked")


def make_secret(seed: bytes | None) -> str:
    """A new key. With a `seed` it can be made again: a repeated request gets the same answer without its being stored.

    The seed must contain a secret of the caller's.
    """
    if seed is None:
        return keys.new_key()
    return keys.PREFIX + urlsafe_b64encode(hmac.digest(seed, b"berth api key", hashlib.sha256)).rstrip(b"=").decode()


async def create(
    tx: Tx, command: Command, tenant: str | None, *, role: Role, description: str, secret: str
) -> KeyRecord:
    """Add a key of the platform (`tenant` None) or of a tenant. Raises `InvalidArgument` if the role does not fit."""
    if role.is_platform != (tenant is None):
        wanted = "admin or operator" if tenant is None else "developer or viewer"
        raise InvalidArgument(f"role {role} does not fit: {wanted} is expected here")
    if tenant is not None:
        await get_tenant(tx, tenant)
    key_id = f"key-{secrets.token_hex(6)}"
    naming.check_text("description", description)
    key = await store.add(tx, owner_of(tenant), key_id, keys.digest(secret), role=role, description=description)
    tx.change_desired()
    tx.tell(command, events.KeyWasCreated(events.key_subject(tenant, key_id), role, key_members(key)))
    return key


async def revoke(tx: Tx, command: Command, tenant: str | None, key_id: str) -> None:
    """From this commit on the controller refuses it, and routers as soon as the feed reaches them.

    Raises `NotFound` for a key that is not the tenant's (or the platform's). Revoking twice is no error.
    """
    if tenant is not None:
        await get_tenant(tx, tenant)
    key = await store.find(tx, owner_of(tenant), key_id) if naming.storable(key_id) else None
    if key is None:
        raise naming.no_key(key_id)
    if key.revoked_at is None:
        await store.revoke(tx, owner_of(tenant), key_id)
        tx.change_desired()
        tx.tell(command, events.KeyRevoked(events.key_subject(tenant, key_id), key_members(key)))


async def accept_bootstrap(tx: Tx, secret: str) -> None:
    """Make `secret` the platform's first admin key; a key given earlier under this id ends."""
    known = await store.find_by_hash(tx, keys.digest(secret))
    if known is None or known.revoked_at is not None:
        key = await store.add(
            tx, PLATFORM, BOOTSTRAP, keys.digest(secret), role=Role.ADMIN, description="given at start"
        )
        tx.change_desired()
        tx.tell(START, events.KeyWasCreated(events.key_subject(None, BOOTSTRAP), key.role, key_members(key)))
