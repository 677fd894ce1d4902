"""Errors as problem+json (RFC 9457): every one, also those of the framework, of validation and of ourselves."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from berth.errors import BerthError, InvalidArgument, Retryable, Status, problem
from berth.headers import RETRY_AFTER_TEXT

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong. `type` tells kinds apart; other members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for code, text in (("4XX", "The request was refused"), ("5XX", "It could not be done now"))
}


class RequestTimeout(InvalidArgument):
    @property
    def status(self) -> Status:
        return Status(408, "DEADLINE_EXCEEDED", "request-timeout", "The request did not arrive in time")


class MethodNotAllowed(InvalidArgument):
    @property
    def status(self) -> Status:
        return Status(405, "UNIMPLEMENTED", "method-not-allowed", "The resource does not know this method")


class NoSuchPath(InvalidArgument):
    @property
    def status(self) -> Status:
        return Status(404, "NOT_FOUND", "not-found", "No such resource")


class UnsupportedMediaType(InvalidArgument):
    @property
    def status(self) -> Status:
        return Status(415, "INVALID_ARGUMENT", "unsupported-media-type", "The body has another media type")


def respond(error: BerthError, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response that tells a caller of `error`."""
    sent = dict(headers or {})
    if isinstance(error, Retryable):
        sent[RETRY_AFTER_TEXT] = str(math.ceil(error.retry_after))
    if error.status.http == 401:
        sent["WWW-Authenticate"] = 'Bearer realm="berth"'
    return JSONResponse(problem(error, request_id), status_code=error.status.http, headers=sent, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have `app` answer with problem documents, whatever is raised."""

    async def on_berth_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BerthError)
        return respond(error, request.state.request_id)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"where": ".".join(str(part) for part in item["loc"]), "what": item["msg"]} for item in error.errors()
        ]
        said = "; ".join(f"{item['where']}: {item['what']}" for item in errors[:5])
        return respond(InvalidArgument(said, errors=errors[:50]), request.state.request_id)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return respond(_translate(request, error), request.state.request_id, dict(error.headers or {}))

    app.add_exception_handler(BerthError, on_berth_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _translate(request: Request, error: HTTPException) -> BerthError:
    # FastAPI wraps what the body's stream raised: a limit of ours, most likely.
    if isinstance(error.__cause__, BerthError):
        return error.__cause__
    if error.status_code == 404:
        return NoSuchPath("there is nothing at this path")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not possible here")
    return InvalidArgument(str(error.detail))
