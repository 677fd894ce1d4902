"""What an inference client sees of a `BerthError`: OIP's `{"error": ...}` over REST, a status and a text over gRPC."""

from __future__ import annotations

import json
import math

import grpc

from berth.errors import BerthError, Retryable, Unauthenticated
from berth.headers import CONTENT_TYPE_TEXT, REQUEST_ID_TEXT, RETRY_AFTER_TEXT


def rest_error(error: BerthError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer. `Retry-After` is in whole seconds, rounded up."""
    headers = {CONTENT_TYPE_TEXT: "application/json", REQUEST_ID_TEXT: request_id}
    if isinstance(error, Retryable):
        headers[RETRY_AFTER_TEXT] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return error.status.http, headers, error_body(error.detail)


def error_body(detail: str) -> bytes:
    """OIP's error document."""
    return json.dumps({"error": detail}).encode()


def grpc_status(error: BerthError) -> tuple[grpc.StatusCode, str]:
    """Code and details of the answer."""
    return grpc.StatusCode[error.status.grpc], error.detail
