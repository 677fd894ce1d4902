"""Refusals as the API server words them: a `Status` body, a reason for programs and a message for people."""

from __future__ import annotations

from typing import Any

from doubles.kubernetes.kinds import Kind, Object


class ApiError(Exception):
    """A request that is refused with `code`; `body` is the Status to answer with."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        *,
        metadata: Object | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}

    @property
    def body(self) -> Object:
        body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            body["details"] = self.details
        return body | {"code": self.code}

    @property
    def retry_after(self) -> int | None:
        """Seconds after which to ask again; None: the server does not say."""
        return None if self.details is None else self.details.get("retryAfterSeconds")


def named(kind: Kind, name: str, **more: Any) -> Object:
    """The `details` of a Status about one object."""
    group = {"group": kind.group} if kind.group else {}
    return {"name": name, **group, "kind": kind.plural, **more}


def success(kind: Kind, name: str, uid: str) -> Object:
    """The answer to a deletion of a kind that does not answer with the object."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": named(kind, name, uid=uid),
    }


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', named(kind, name))


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', named(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, named(kind, name))


def invalid(kind: Kind, name: str, field: str, message: str, reason: str = "FieldValueInvalid") -> ApiError:
    group = {"group": kind.group} if kind.group else {}
    cause = {"reason": reason, "message": message, "field": field}
    details = {"name": name, **group, "kind": kind.kind, "causes": [cause]}
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {field}: {message}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported_media_type(accepted: tuple[str, ...], why: str = "") -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return ApiError(415, "UnsupportedMediaType", f"{message}; {why}" if why else message)


def too_many_requests(message: str, retry_after_s: int, causes: list[Object] | None = None) -> ApiError:
    details: Object = {"causes": causes} if causes else {}
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    return ApiError(429, "TooManyRequests", message, details)


def expired(message: str, continue_: str = "") -> ApiError:
    """History that a list or watch asks for is gone: 410."""
    return ApiError(410, "Expired", message, metadata={"continue": continue_} if continue_ else {})


def too_large_resource_version(asked: int, current: int) -> ApiError:
    message = f"Too large resource version: {asked}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1})


def forbidden(message: str, details: Object) -> ApiError:
    return ApiError(403, "Forbidden", message, details)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")
