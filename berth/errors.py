"""Every error that Berth raises on purpose, and what a caller sees of it.

    BerthError
    ├── InvalidArgument            the request is wrong, and will be wrong again
    │   ├── UnsupportedArtifact    the uploaded bytes are not a model Berth serves
    │   └── DigestMismatch         the bytes are not those the caller announced
    ├── Unauthenticated            no key, or one that is unknown or revoked
    ├── PermissionDenied           the key's role does not allow it
    ├── NotFound                   does not exist, or belongs to someone else: the two look alike
    ├── Conflict                   the state forbids it now (exists already, still in use)
    │   └── PreconditionFailed     If-Match did not match: read again
    ├── PayloadTooLarge
    ├── QuotaExceeded              the tenant's own limit
    ├── InsufficientCapacity       no job has room; names each job and how many bytes it was short of
    ├── DeadlineExceeded
    ├── Internal                   a fault of ours; details go to the log, not to the caller
    └── Retryable                  nothing is wrong with the request: try again
        ├── Unavailable            no replica, not loaded yet, or a peer is away
        └── RateLimited            the tenant sends more than its limits allow

Retryable is a class, never a message: callers test with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class BerthError(Exception):
    """Root of the tree. `detail` is for the caller; `fields` are extra problem+json members (JSON values)."""

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields: Mapping[str, Any] = fields

    @property
    def status(self) -> Status:
        return status_of(type(self))


class InvalidArgument(BerthError):
    pass


class UnsupportedArtifact(InvalidArgument):
    pass


class DigestMismatch(InvalidArgument):
    pass


class Unauthenticated(BerthError):
    pass


class PermissionDenied(BerthError):
    pass


class NotFound(BerthError):
    pass


class Conflict(BerthError):
    pass


class PreconditionFailed(Conflict):
    pass


class PayloadTooLarge(BerthError):
    pass


class QuotaExceeded(BerthError):
    pass


class InsufficientCapacity(BerthError):
    pass


class DeadlineExceeded(BerthError):
    pass


class Internal(BerthError):
    pass


class Retryable(BerthError):
    """`retry_after` is in seconds."""

    def __init__(self, detail: str, *, retry_after: float = 1.0, **fields: Any) -> None:
        super().__init__(detail, **fields)
        self.retry_after = retry_after


class Unavailable(Retryable):
    pass


class RateLimited(Retryable):
    pass


class Status(NamedTuple):
    """How one class looks outside: HTTP status, name of a gRPC status code, problem type and title."""

    http: int
    grpc: str
    slug: str
    title: str


_STATUS: dict[type[BerthError], Status] = {
    InvalidArgument: Status(400, "INVALID_ARGUMENT", "invalid-argument", "The request is not valid"),
    UnsupportedArtifact: Status(422, "INVALID_ARGUMENT", "unsupported-artifact", "The artifact cannot be served"),
    DigestMismatch: Status(422, "INVALID_ARGUMENT", "digest-mismatch", "The bytes do not match their digest"),
    Unauthenticated: Status(401, "UNAUTHENTICATED", "unauthenticated", "An API key is required"),
    PermissionDenied: Status(403, "PERMISSION_DENIED", "permission-denied", "The key does not allow this"),
    NotFound: Status(404, "NOT_FOUND", "not-found", "No such resource"),
    Conflict: Status(409, "ABORTED", "conflict", "The current state does not allow this"),
    PreconditionFailed: Status(412, "FAILED_PRECONDITION", "precondition-failed", "The resource has changed"),
    PayloadTooLarge: Status(413, "RESOURCE_EXHAUSTED", "payload-too-large", "The request is too large"),
    QuotaExceeded: Status(403, "RESOURCE_EXHAUSTED", "quota-exceeded", "The tenant's quota is exhausted"),
    InsufficientCapacity: Status(507, "RESOURCE_EXHAUSTED", "insufficient-capacity", "No job has room"),
    DeadlineExceeded: Status(504, "DEADLINE_EXCEEDED", "deadline-exceeded", "The deadline passed"),
    Internal: Status(500, "INTERNAL", "internal", "Internal error"),
    Unavailable: Status(503, "UNAVAILABLE", "unavailable", "Not available now"),
    RateLimited: Status(429, "RESOURCE_EXHAUSTED", "rate-limited", "Too many requests"),
}


def status_of(error: type[BerthError]) -> Status:
    """The row of the nearest class in the tree; `Internal`'s for a class that has none."""
    for cls in error.__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    return _STATUS[Internal]


def problem(error: BerthError, instance: str | None = None) -> dict[str, Any]:
    """An RFC 9457 problem document for `error`; `instance` is the request id."""
    status = error.status
    body: dict[str, Any] = {
        "type": f"urn:berth:problem:{status.slug}",
        "title": status.title,
        "status": status.http,
        "detail": error.detail,
        **error.fields,
    }
    if instance is not None:
        body["instance"] = f"urn:berth:request:{instance}"
    return body
