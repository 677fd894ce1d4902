"""Every operation of the control API, written once, as dialogues that yield requests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from berth.api import schemas
from berth.client.calls import ApiCall, Delay, Dialogue, FileBody, Progress, ignore, read_json
from berth.errors import Conflict, DeadlineExceeded, InvalidArgument
from berth.headers import (
    CONTENT_DIGEST_TEXT,
    CONTENT_TYPE_TEXT,
    IDEMPOTENCY_KEY_TEXT,
    IF_MATCH_TEXT,
    LAST_EVENT_ID_TEXT,
)
from berth.states import Role, Runtime, ServiceClass, VersionState

T = TypeVar("T")

_PAGE_LIMIT = 200
_POLL_FIRST_S = 0.02
_POLL_MOST_S = 0.5
# An upload answers after the controller has stored and parsed everything it was sent.
_UPLOAD_TIMEOUT_S = 600.0


class Scope:
    """Whose things are meant. A tenant's own key needs no name given: the first call asks for it, once."""

    def __init__(self, tenant: str | None) -> None:
        self._tenant = tenant
        self._known = tenant is not None

    def __repr__(self) -> str:
        return f"<Scope {self._tenant or ('platform' if self._known else 'of the key')}>"

    def tenant(self) -> Dialogue[str | None]:
        """The tenant named, else the one the key belongs to; None for a platform key."""
        if not self._known:
            identity: schemas.Identity = yield from whoami(self)
            self._tenant, self._known = identity.tenant, True
        return self._tenant

    def path(self, *rest: str) -> Dialogue[str]:
        """The path of something that only tenants have."""
        tenant = yield from self.tenant()
        if tenant is None:
            raise InvalidArgument("this key belongs to the platform: say which tenant is meant")
        return _path("tenants", tenant, *rest)

    def wide_path(self, collection: str) -> Dialogue[str]:
        """The path of a collection that exists for a tenant and for the whole platform."""
        tenant = yield from self.tenant()
        return _path(collection) if tenant is None else _path("tenants", tenant, collection)


def _path(*segments: str) -> str:
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def _get(path: str, kind: type[T], **query: str) -> ApiCall[T]:
    return ApiCall(method="GET", path=path, query=query, parse=read_json(kind), repeatable=True)


def _send(method: str, path: str, body: BaseModel, kind: type[T], etag: str | None = None) -> ApiCall[T]:
    headers = {CONTENT_TYPE_TEXT: "application/json"}
    if etag is not None:
        headers[IF_MATCH_TEXT] = _quoted(etag)
    # Creating twice is a conflict; setting twice is not.
    return ApiCall(
        method=method,
        path=path,
        headers=headers,
        body=body.model_dump_json(exclude_unset=True).encode(),
        parse=read_json(kind),
        repeatable=method != "POST",
    )


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _delete(path: str, etag: str | None = None) -> ApiCall[None]:
    headers = {} if etag is None else {IF_MATCH_TEXT: _quoted(etag)}
    return ApiCall(method="DELETE", path=path, headers=headers, parse=ignore, repeatable=True)


def _all(path: str, kind: type[schemas.Page[T]], **query: str) -> Dialogue[list[T]]:
    items: list[T] = []
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page: schemas.Page[T] = yield _get(path, kind, limit=str(_PAGE_LIMIT), **query, **more)
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


def whoami(_: Scope) -> Dialogue[schemas.Identity]:
    """Who the key is."""
    identity: schemas.Identity = yield _get("/v1/whoami", schemas.Identity)
    return identity


# Tenants and keys ---------------------------------------------------------------------------------------------------


def create_tenant(_: Scope, name: str, quota: schemas.TenantQuota | None = None) -> Dialogue[schemas.Tenant]:
    """Create a tenant. Raises `Conflict` if it exists."""
    body = schemas.TenantCreate(name=name, quota=quota) if quota else schemas.TenantCreate(name=name)
    tenant: schemas.Tenant = yield _send("POST", "/v1/tenants", body, schemas.Tenant)
    return tenant


def list_tenants(_: Scope) -> Dialogue[list[schemas.Tenant]]:
    """All tenants, by name."""
    return (yield from _all("/v1/tenants", schemas.Page[schemas.Tenant]))


def get_tenant(_: Scope, name: str) -> Dialogue[schemas.Tenant]:
    """One tenant and its quota."""
    tenant: schemas.Tenant = yield _get(_path("tenants", name), schemas.Tenant)
    return tenant


def update_tenant(_: Scope, name: str, quota: schemas.TenantQuota, *, etag: str) -> Dialogue[schemas.Tenant]:
    """Replace a tenant's quota, if it is still at `etag`; else `PreconditionFailed`."""
    body = schemas.TenantUpdate(quota=quota)
    tenant: schemas.Tenant = yield _send("PATCH", _path("tenants", name), body, schemas.Tenant, etag)
    return tenant


def delete_tenant(_: Scope, name: str) -> Dialogue[None]:
    """Delete a tenant that has no models left; else `Conflict`."""
    yield _delete(_path("tenants", name))


def create_key(scope: Scope, role: Role | str, description: str = "") -> Dialogue[schemas.KeyCreated]:
    """Create a key; `.secret` of the result is shown this once. Platform roles make platform keys."""
    role = Role(role)
    body = schemas.KeyCreate(role=role, description=description)
    path = "/v1/keys" if role.is_platform else (yield from scope.path("keys"))
    key: schemas.KeyCreated = yield _send("POST", path, body, schemas.KeyCreated)
    return key


def list_keys(scope: Scope) -> Dialogue[list[schemas.Key]]:
    """The keys of the tenant, or the platform's if the client names no tenant."""
    return (yield from _all((yield from scope.wide_path("keys")), schemas.Page[schemas.Key]))


def revoke_key(scope: Scope, key_id: str) -> Dialogue[None]:
    """Revoke a key of the tenant, or of the platform if the client names no tenant."""
    path = yield from scope.wide_path("keys")
    yield _delete(f"{path}/{quote(key_id, safe='')}")


# Models, labels, versions -------------------------------------------------------------------------------------------


def create_model(
    scope: Scope, name: str, description: str = "", *, cells: Sequence[str] = ()
) -> Dialogue[schemas.Model]:
    """Create a model without versions, to have a copy in each of `cells`. Uploading a version creates it too."""
    body = schemas.ModelCreate(name=name, description=description, cells=list(cells))
    model: schemas.Model = yield _send("POST", (yield from scope.path("models")), body, schemas.Model)
    return model


def list_models(scope: Scope) -> Dialogue[list[schemas.Model]]:
    """The tenant's models, by name."""
    return (yield from _all((yield from scope.path("models")), schemas.Page[schemas.Model]))


def get_model(scope: Scope, name: str) -> Dialogue[schemas.Model]:
    """One model."""
    model: schemas.Model = yield _get((yield from scope.path("models", name)), schemas.Model)
    return model


def describe_model(scope: Scope, name: str, description: str) -> Dialogue[schemas.Model]:
    """Replace a model's description."""
    return (yield from _update_model(scope, name, schemas.ModelUpdate(description=description)))


def pin_version(scope: Scope, name: str, version: int) -> Dialogue[schemas.Model]:
    """Answer requests that name no version with `version`, until unpinned. A retired version is assigned again."""
    serving = schemas.ServingPolicy(policy="pinned", version=version)
    return (yield from _update_model(scope, name, schemas.ModelUpdate(serving=serving)))


def unpin_version(scope: Scope, name: str) -> Dialogue[schemas.Model]:
    """Answer with the newest version again."""
    serving = schemas.ServingPolicy(policy="latest")
    return (yield from _update_model(scope, name, schemas.ModelUpdate(serving=serving)))


def set_cells(scope: Scope, name: str, cells: Sequence[str]) -> Dialogue[schemas.Model]:
    """Have a copy of the model in each of `cells`; none of them: in one cell, whichever has room."""
    return (yield from _update_model(scope, name, schemas.ModelUpdate(cells=list(cells))))


def set_default_answer(scope: Scope, name: str, answer: schemas.DefaultAnswer | None) -> Dialogue[schemas.Model]:
    """What to answer when no replica does in time; None: an error again."""
    return (yield from _update_model(scope, name, schemas.ModelUpdate(default_answer=answer)))


def _update_model(scope: Scope, name: str, body: schemas.ModelUpdate) -> Dialogue[schemas.Model]:
    # No If-Match: one member is set to what the caller said, whatever it was.
    model: schemas.Model = yield _send("PATCH", (yield from scope.path("models", name)), body, schemas.Model)
    return model


def delete_model(scope: Scope, name: str) -> Dialogue[None]:
    """Delete a model and its versions; they drain first."""
    yield _delete((yield from scope.path("models", name)))


def set_label(scope: Scope, model: str, label: str, version: int) -> Dialogue[schemas.Model]:
    """Point a label at a version."""
    path = yield from scope.path("models", model, "labels", label)
    yield ApiCall(
        method="PUT",
        path=path,
        headers={CONTENT_TYPE_TEXT: "application/json"},
        body=schemas.LabelSet(version=version).model_dump_json().encode(),
        parse=ignore,
        repeatable=True,
    )
    return (yield from get_model(scope, model))


def delete_label(scope: Scope, model: str, label: str) -> Dialogue[None]:
    """Remove a label; the version it points at stays."""
    yield _delete((yield from scope.path("models", model, "labels", label)))


def upload_version(
    scope: Scope,
    model: str,
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    idempotency_key: str | None = None,
) -> Dialogue[schemas.Version]:
    """Upload a file as the model's next version, creating the model if there is none.

    The file is read twice, first for its SHA-256, then for the body, in constant memory. An upload cut short is
    repeated under the same idempotency key, so it makes one version. Raises `UnsupportedArtifact`,
    `InsufficientCapacity`, `QuotaExceeded`, `OSError`.
    """
    target = yield from scope.path("models", model, "versions")
    source = Path(path)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        size = file.tell()
    version: schemas.Version = yield ApiCall(
        method="POST",
        path=target,
        headers={
            CONTENT_TYPE_TEXT: "application/octet-stream",
            "content-length": str(size),
            CONTENT_DIGEST_TEXT: f"sha-256=:{base64.b64encode(digest).decode()}:",
            IDEMPOTENCY_KEY_TEXT: idempotency_key or uuid.uuid4().hex,
        },
        body=FileBody(source, size, progress),
        parse=read_json(schemas.Version),
        repeatable=True,
        timeout_s=_UPLOAD_TIMEOUT_S,
    )
    return version


def list_versions(scope: Scope, model: str) -> Dialogue[list[schemas.Version]]:
    """A model's versions with their observed states."""
    return (yield from _all((yield from scope.path("models", model, "versions")), schemas.Page[schemas.Version]))


def get_version(scope: Scope, model: str, version: int) -> Dialogue[schemas.Version]:
    """One version and what is observed of it now."""
    path = yield from scope.path("models", model, "versions", str(version))
    found: schemas.Version = yield _get(path, schemas.Version)
    return found


def delete_version(scope: Scope, model: str, version: int) -> Dialogue[None]:
    """Delete a version; it drains first."""
    yield _delete((yield from scope.path("models", model, "versions", str(version))))


def wait_available(scope: Scope, model: str, version: int, timeout: float = 60.0) -> Dialogue[schemas.Version]:
    """Wait until a version can be queried, at most `timeout` seconds.

    Raises `Conflict` with the reason when it failed to load or is not going to be loaded, `DeadlineExceeded` when
    time is up.
    """
    deadline: float | None = None
    delay = _POLL_FIRST_S
    while True:
        found: schemas.Version = yield from get_version(scope, model, version)
        match found.state:
            case VersionState.AVAILABLE:
                return found
            case VersionState.FAILED:
                raise Conflict(f"{model} version {version} failed to load: {found.reason}", state=str(found.state))
            case VersionState.RETIRED | VersionState.DRAINING:
                raise Conflict(f"{model} version {version} is {found.state}: {found.reason}", state=str(found.state))
        now: float = yield Delay(delay)
        deadline = now + timeout if deadline is None else deadline
        if now >= deadline:
            raise DeadlineExceeded(
                f"{model} version {version} is still {found.state} after {timeout:g} s"
                + (f": {found.reason}" if found.reason else ""),
                state=str(found.state),
            )
        delay = min(delay * 1.5, _POLL_MOST_S, max(deadline - now, _POLL_FIRST_S))


def list_assignments(scope: Scope) -> Dialogue[list[schemas.Assignment]]:
    """Which version lives on which job: the tenant's, or all if the client names no tenant."""
    return (yield from _all((yield from scope.wide_path("assignments")), schemas.Page[schemas.Assignment]))


# The fleet ----------------------------------------------------------------------------------------------------------


def create_job(
    _: Scope,
    name: str,
    *,
    runtime: Runtime | str = Runtime.ONNXRUNTIME,
    replicas: int = 1,
    memory_per_replica: int = 1 << 30,
    cell: str = "local",
    dedicated_tenant: str | None = None,
    service_class: ServiceClass | str = ServiceClass.PROD,
) -> Dialogue[schemas.Job]:
    """Create a job; memory in bytes. With `dedicated_tenant` it holds models of that tenant alone."""
    body = schemas.JobCreate(
        name=name,
        cell=cell,
        runtime=Runtime(runtime),
        replicas=replicas,
        memory_per_replica=memory_per_replica,
        dedicated_tenant=dedicated_tenant,
        service_class=ServiceClass(service_class),
    )
    job: schemas.Job = yield _send("POST", "/v1/jobs", body, schemas.Job)
    return job


def list_jobs(_: Scope) -> Dialogue[list[schemas.Job]]:
    """All jobs."""
    return (yield from _all("/v1/jobs", schemas.Page[schemas.Job]))


def get_job(_: Scope, name: str) -> Dialogue[schemas.Job]:
    """One job."""
    job: schemas.Job = yield _get(_path("jobs", name), schemas.Job)
    return job


def update_job(
    _: Scope,
    name: str,
    *,
    replicas: int | None = None,
    memory_per_replica: int | None = None,
    scaling: Mapping[str, Any] | None = None,
) -> Dialogue[schemas.Job]:
    """Change a job's replicas, memory per replica in bytes, or members of its scaling; what is left out stays."""
    wanted = {"replicas": replicas, "memory_per_replica": memory_per_replica, "scaling": scaling}
    body = schemas.JobUpdate.model_validate({key: value for key, value in wanted.items() if value is not None})
    job: schemas.Job = yield _send("PATCH", _path("jobs", name), body, schemas.Job)
    return job


def delete_job(_: Scope, name: str) -> Dialogue[None]:
    """Delete a job that holds no version; else `Conflict`."""
    yield _delete(_path("jobs", name))


def list_replicas(_: Scope) -> Dialogue[list[schemas.Replica]]:
    """Every replica as last observed."""
    return (yield from _all("/v1/replicas", schemas.Page[schemas.Replica]))


# Events -------------------------------------------------------------------------------------------------------------


def list_events(scope: Scope) -> Dialogue[list[schemas.Event]]:
    """What happened so far, oldest first: the tenant's, or all if the client names no tenant."""
    return (yield from _all((yield from scope.wide_path("events")), schemas.Page[schemas.Event]))


def events_path(scope: Scope) -> Dialogue[str]:
    """Where the event stream of the tenant, or of the platform, is."""
    return (yield from scope.wide_path("events"))


def event_stream(path: str, last_id: str) -> ApiCall[None]:
    """The request that opens the stream after event `last_id` ("" for the beginning)."""
    headers: Mapping[str, str] = {"accept": "text/event-stream", **({LAST_EVENT_ID_TEXT: last_id} if last_id else {})}
    return ApiCall(method="GET", path=path, headers=headers, parse=ignore, repeatable=True)


def read_event(data: str) -> schemas.Event:
    """The event that one message of the stream carries."""
    return schemas.Event.model_validate(json.loads(data), extra="ignore")
