import json

import pytest

from berth import errors
from berth.client.problems import error_from

CLASSES = [
    errors.InvalidArgument,
    errors.UnsupportedArtifact,
    errors.DigestMismatch,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.NotFound,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.PayloadTooLarge,
    errors.QuotaExceeded,
    errors.InsufficientCapacity,
    errors.DeadlineExceeded,
    errors.Internal,
    errors.Unavailable,
    errors.RateLimited,
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_the_wire(cls: type[errors.BerthError]) -> None:
    sent = cls("what is wrong", short_of={"job-a": 12})
    body = json.dumps(errors.problem(sent, "r-7")).encode()
    got = error_from(sent.status.http, {}, body)
    assert type(got) is cls
    assert got.detail == "what is wrong"
    assert got.fields == {"short_of": {"job-a": 12}, "request": "urn:berth:request:r-7"}


def test_retry_after_comes_from_the_header() -> None:
    body = json.dumps(errors.problem(errors.RateLimited("slow down"))).encode()
    got = error_from(429, {"retry-after": "7"}, body)
    assert isinstance(got, errors.RateLimited)
    assert got.retry_after == 7.0


@pytest.mark.parametrize(
    ("status", "body", "cls", "detail"),
    [
        (400, b'{"error": "bad shape"}', errors.InvalidArgument, "bad shape"),
        (401, b'{"error": "no key"}', errors.Unauthenticated, "no key"),
        (403, b"", errors.PermissionDenied, "HTTP status 403"),
        (404, b'{"error": "unknown model"}', errors.NotFound, "unknown model"),
        (409, b"", errors.Conflict, "HTTP status 409"),
        (413, b"too big\nsecond line", errors.PayloadTooLarge, "too big"),
        (422, b"", errors.UnsupportedArtifact, "HTTP status 422"),
        (429, b"", errors.RateLimited, "HTTP status 429"),
        (503, b'{"error": "not loaded"}', errors.Unavailable, "not loaded"),
        (504, b"", errors.DeadlineExceeded, "HTTP status 504"),
        (418, b"[1, 2]", errors.InvalidArgument, "[1, 2]"),
        (502, b"\xff\xfe", errors.Internal, "\ufffd\ufffd"),
    ],
)
def test_answers_that_are_no_problem_documents(
    status: int, body: bytes, cls: type[errors.BerthError], detail: str
) -> None:
    got = error_from(status, {}, body)
    assert type(got) is cls
    assert got.detail == detail
