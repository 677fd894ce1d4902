"""Every error looks as OIP wants it, over both protocols."""

from __future__ import annotations

import json

import grpc
import pytest

from berth import errors
from berth.headers import CONTENT_TYPE_TEXT, RETRY_AFTER_TEXT
from berth.model import Signature, TensorSpec
from berth.oip import metadata
from berth.oip.errors import grpc_status, rest_error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidArgument("no"), 400, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.Unauthenticated("no"), 401, grpc.StatusCode.UNAUTHENTICATED),
        (errors.NotFound("no"), 404, grpc.StatusCode.NOT_FOUND),
        (errors.PayloadTooLarge("no"), 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.RateLimited("no"), 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Internal("no"), 500, grpc.StatusCode.INTERNAL),
        (errors.Unavailable("no"), 503, grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("no"), 504, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_status_and_body(error: errors.BerthError, status: int, code: grpc.StatusCode) -> None:
    got, headers, body = rest_error(error, "r-1")

    assert got == status
    assert json.loads(body) == {"error": "no"}
    assert headers["x-request-id"] == "r-1"
    assert headers[CONTENT_TYPE_TEXT] == "application/json"
    assert (RETRY_AFTER_TEXT in headers) == isinstance(error, errors.Retryable)
    assert grpc_status(error) == (code, "no")


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert rest_error(errors.Unavailable("no", retry_after=0.05), "r")[1][RETRY_AFTER_TEXT] == "1"
    assert rest_error(errors.RateLimited("no", retry_after=2.1), "r")[1][RETRY_AFTER_TEXT] == "3"
    assert rest_error(errors.Unauthenticated("no"), "r")[1]["WWW-Authenticate"] == "Bearer"


def test_metadata_is_the_same_over_both_protocols() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "INT64", (-1,)),))
    document = json.loads(metadata.model_metadata_json("digits", "3", signature))
    message = metadata.model_metadata_message("digits", "3", signature)

    assert document["name"] == message.name == "digits"
    assert document["versions"] == list(message.versions) == ["3"]
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in message.inputs] == [
        ("x", "FP32", [-1, 64])
    ]
    server = json.loads(metadata.server_metadata_json())
    assert (server["name"], server["version"]) == ("berth", metadata.server_metadata_message().version)
    assert "binary_tensor_data" in server["extensions"]
    assert json.loads(metadata.live_json(True)) == {"live": True}
    assert json.loads(metadata.ready_json(False)) == {"ready": False}
    assert json.loads(metadata.model_ready_json("digits", True)) == {"name": "digits", "ready": True}
