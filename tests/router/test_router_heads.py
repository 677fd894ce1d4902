"""A replica's head is written on its side, for its wire, whichever wire the client used."""

from hpack import Decoder

from berth.http.http1.grammar import parse_request
from router.core.paths import Operation
from router.path.fields import Door
from router.path.request import Envelope, Request, Wire
from router.path.upstream import grpc_heads, rest_heads

KEY = (b"authorization", b"Bearer secret")
DOOR = Door(b"https", b"other:443", b"here")
PREFIX = b"\0\0\0\0\x03"


def over_rest() -> Request:
    fields = (KEY, (b"content-type", b"application/json"), (b"x-tier", b"gold"))
    request = Request(Wire.REST, Operation.INFER, Envelope(fields, b"POST", b"/v2/models/m/infer?a=1"))
    request.body, request.request_id = b"abc", b"id-1"
    return request


def over_grpc() -> Request:
    path = b"/inference.GRPCInferenceService/ModelInfer"
    fields = (KEY, (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip"), (b"x-tier", b"gold"))
    request = Request(Wire.GRPC, Operation.INFER, Envelope(fields, b"POST", path))
    request.body, request.offset, request.request_id = PREFIX + b"abc", len(PREFIX), b"id-1"
    return request


def read_grpc(block: bytes) -> dict[bytes, bytes]:
    return {bytes(name): bytes(value) for name, value in Decoder().decode(block, raw=True)}


def read_rest(block: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    head = parse_request(block.removesuffix(b"\r\n"), b"http", 100).head
    return head.path, dict(head.fields)


def test_a_question_over_rest_is_put_to_a_replica_over_grpc() -> None:
    said = read_grpc(grpc_heads.head_for(over_rest(), b"http", 1.5, b""))
    assert said[b":path"] == b"/inference.GRPCInferenceService/ModelInfer"
    assert (said[b"content-type"], said[b"grpc-timeout"], said[b"x-request-id"]) == (
        b"application/grpc",
        b"1500m",
        b"id-1",
    )
    assert said[b"x-tier"] == b"gold"
    assert b"authorization" not in said


def test_a_question_over_grpc_is_put_to_a_replica_over_rest() -> None:
    path, said = read_rest(rest_heads.head_for(over_grpc(), "t~m~1", 1.5, b""))
    assert path == b"/v2/models/t~m~1/infer"
    assert (said[b"berth-timeout-ms"], said[b"x-request-id"], said[b"x-tier"]) == (b"1500", b"id-1", b"gold")
    assert said.keys().isdisjoint({b"authorization", b"content-type", b"grpc-encoding"})


def test_the_message_is_the_same_on_both() -> None:
    assert over_rest().message() == over_grpc().message() == b"abc"
    [one], [other] = (grpc_heads.body_for(request, "t~m~1") for request in (over_rest(), over_grpc()))
    assert one == other
    assert grpc_heads.body_for(over_rest(), "") == grpc_heads.body_for(over_grpc(), "") == [PREFIX + b"abc"]


def test_what_is_kept_with_an_envelope_is_of_one_wire() -> None:
    request = over_rest()
    before = rest_heads.head_for(request, "t~m~1", 1.0, b"")
    grpc_heads.head_for(request, b"http", 1.0, b"")
    assert rest_heads.head_for(request, "t~m~1", 1.0, b"") == before
    assert rest_heads.head_for(request, "t~m~2", 1.0, b"") != before


def test_to_another_cell_it_goes_as_it_came_with_the_clients_own_key() -> None:
    path, said = read_rest(rest_heads.head_to_router(over_rest(), DOOR, 1.0))
    assert (path, said[b"authorization"], said[b"berth-passed-on"]) == (
        b"/v2/models/m/infer?a=1",
        b"Bearer secret",
        b"here",
    )
    heard = read_grpc(grpc_heads.head_to_router(over_grpc(), DOOR, 1.0))
    assert (heard[b":authority"], heard[b"authorization"]) == (b"other:443", b"Bearer secret")
    assert "secret" not in repr(over_grpc().envelope)
