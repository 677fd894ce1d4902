"""What URLs ask for, and which headers pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidArgument, NotFound
from berth.http.http1.grammar import parse_request
from router.core.paths import ModelQuestion, Operation, ServerQuestion, method_of, parse_path
from router.path.fields import grpc_to_client, grpc_to_worker, rest_to_client, rest_to_worker
from router.path.request import Envelope, Request, Wire
from router.path.said import request_id_is_good, timeout_of
from router.path.upstream.rest_heads import head_for


@pytest.mark.parametrize(
    ("path", "expected", "method"),
    [
        ("/v2", ServerQuestion.METADATA, "GET"),
        ("/v2/health/live", ServerQuestion.LIVE, "GET"),
        ("/v2/health/ready", ServerQuestion.READY, "GET"),
        ("/v2/models/m", ModelQuestion(Operation.METADATA, "m", ""), "GET"),
        ("/v2/models/m/ready", ModelQuestion(Operation.READY, "m", ""), "GET"),
        ("/v2/models/m/infer", ModelQuestion(Operation.INFER, "m", ""), "POST"),
        ("/v2/models/m/versions/3", ModelQuestion(Operation.METADATA, "m", "3"), "GET"),
        ("/v2/models/m/versions/stable/ready", ModelQuestion(Operation.READY, "m", "stable"), "GET"),
        ("/v2/models/m/versions/3/infer", ModelQuestion(Operation.INFER, "m", "3"), "POST"),
        ("/v2/models/a%2Fb/infer", ModelQuestion(Operation.INFER, "a/b", ""), "POST"),
        ("/v2/models/%2e%2e/infer", ModelQuestion(Operation.INFER, "..", ""), "POST"),
        ("/v2/models/caf%C3%A9", ModelQuestion(Operation.METADATA, "caf\u00e9", ""), "GET"),
    ],
)
def test_paths(path: str, expected: object, method: str) -> None:
    question = parse_path(path)
    assert question == expected
    assert method_of(question) == method


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v2/",
        "//v2",
        "/v2/health",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/m/",
        "/v2/models/m/infer/",
        "/v2/models/m/versions",
        "/v2/models/m/versions/",
        "/v2/models/m/versions//infer",
        "/v2/models/m/versions/1/infer/x",
        "/v2/models/m/../n/infer",
        "/v2/repository/index",
        "/v2/models/m/stats",
    ],
)
def test_other_paths_are_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        parse_path(path)


def test_paths_that_are_not_utf8() -> None:
    with pytest.raises(InvalidArgument):
        parse_path("/v2/models/%ff/infer")


@given(st.text(max_size=60))
def test_no_path_is_a_fault(path: str) -> None:
    try:
        question = parse_path("/v2/models/" + path)
    except (NotFound, InvalidArgument) as error:
        refused = error
    else:
        assert isinstance(question, ModelQuestion)
        return
    assert refused.detail.isascii()


def test_a_client_cannot_speak_as_a_part_of_berth() -> None:
    sent = (
        "Authorization: Bearer key",
        "Berth-Credential: stolen",
        "berth-timeout-ms: 5",
        "BERTH-anything: x",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Host: h",
        "Cookie: c",
        "X-Request-Id: id",
        "Content-Length: 3",
        "Expect: 100-continue",
        "Content-Type: application/json",
        "Content-Encoding: gzip",
        "Inference-Header-Content-Length: 10",
        "Traceparent: 00-1",
    )
    head = parse_request("\r\n".join(("POST / HTTP/1.1", *sent)).encode(), b"http", 100).head
    assert dict(rest_to_worker(head.fields)) == {
        b"content-type": b"application/json",
        b"content-encoding": b"gzip",
        b"inference-header-content-length": b"10",
    }
    metadata = (
        (b"authorization", b"Bearer key"),
        (b"berth-credential", b"stolen"),
        (b"x-request-id", b"id"),
        (b"user-agent", b"u"),
        (b"grpc-trace-bin", b"MQ"),
        (b"traceparent", b"00-1"),
        (b"mine-bin", b"AA"),
    )
    assert grpc_to_worker(metadata) == [(b"mine-bin", b"AA")]


def test_a_worker_tells_clients_only_who_answered() -> None:
    said = (
        (b"berth-replica", b"w1"),
        (b"berth-not-started", b"1"),
        (b"berth-credential", b"oops"),
        (b"server", b"aiohttp"),
        (b"x-request-id", b"id"),
        (b"inference-header-content-length", b"7"),
    )
    kept = [(b"berth-replica", b"w1"), (b"inference-header-content-length", b"7")]
    assert rest_to_client(said) == kept
    assert grpc_to_client(said) == kept


@pytest.mark.parametrize("given_id", ["a", "req-1", "x" * 128, "trace/1:2"])
def test_a_good_request_id_is_kept(given_id: str) -> None:
    assert request_id_is_good(given_id.encode())


@pytest.mark.parametrize("given_id", ["", "x" * 129, "a b", "a\nb", "caf\u00e9"])
def test_another_is_replaced(given_id: str) -> None:
    assert not request_id_is_good(given_id.encode())


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 30.0), ("1", 0.001), ("2500", 2.5), ("999999999", 600.0), ("0100", 0.1)]
)
def test_timeouts(text: str | None, seconds: float) -> None:
    assert timeout_of(text, default=30.0, longest=600.0) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "abc", "\u0663", "9" * 13])
def test_bad_timeouts(text: str) -> None:
    with pytest.raises(InvalidArgument):
        timeout_of(text, default=30.0, longest=600.0)


@pytest.mark.parametrize(("seconds", "text"), [(1.5, "1500"), (0.0004, "1"), (-1.0, "1"), (0.9999, "999")])
def test_the_next_hop_never_gets_more_time(seconds: float, text: str) -> None:
    request = Request(Wire.REST, Operation.INFER, Envelope())
    assert head_for(request, "t~m~1", seconds, b"").endswith(b"berth-timeout-ms: %b\r\n" % text.encode())
