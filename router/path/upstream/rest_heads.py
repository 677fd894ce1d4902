"""The heads of requests that go by HTTP/1.1: to a replica, and as they came to another cell's routers."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from berth.headers import PASSED_ON
from berth.http.head import Field
from berth.http.http1 import encoding
from router.core.paths import Operation
from router.path import fields as of
from router.path.fields import Door
from router.path.request import Envelope, Request, Wire

_ROUTES: Final = {
    Operation.INFER: (b"POST", b"/infer"),
    Operation.GENERATE: (b"POST", b"/generate"),
    Operation.GENERATE_STREAM: (b"POST", b"/generate_stream"),
    Operation.METADATA: (b"GET", b""),
    Operation.READY: (b"GET", b"/ready"),
}


class RestHead:
    """The part of a head that is the same for all requests, kept with its envelope: for the replicas of one servable,
    and for the routers of one other cell."""

    __slots__ = ("block", "door", "door_block", "servable")

    def __init__(self) -> None:
        self.servable = ""
        self.block = b""
        self.door: Door | None = None
        self.door_block = b""


def _kept(envelope: Envelope) -> RestHead:
    kept = envelope.written
    if type(kept) is not RestHead:
        kept = envelope.written = RestHead()
    return kept


def head_for(request: Request, servable: str, seconds: float, credential: bytes) -> bytes:
    """The encoded head for a replica; `seconds` are left until the deadline."""
    kept = _kept(request.envelope)
    if kept.servable != servable:
        method, suffix = _ROUTES[request.operation]
        path = b"/v2/models/%b%b" % (servable.encode(), suffix)
        kept.block = encoding.encode_request(method, of.WORKER, path, _for_worker(request))
        kept.servable = servable
    return b"%b%bx-request-id: %b\r\nberth-timeout-ms: %d\r\n" % (
        kept.block, credential, request.request_id, max(1, int(seconds * 1000.0)),
    )  # fmt: skip


def head_to_router(request: Request, door: Door, seconds: float) -> bytes:
    """The same for another cell's routers, who know the model by the words that the client used."""
    kept = _kept(request.envelope)
    if kept.door is not door:
        envelope = request.envelope
        method, path = (envelope.method, envelope.path) if envelope.path else _asked_by_router(request)
        fields = (*of.rest_to_router(envelope.fields), (PASSED_ON, door.sender))
        kept.door, kept.door_block = door, encoding.encode_request(method, door.authority, path, fields)
    return b"%bx-request-id: %b\r\nberth-timeout-ms: %d\r\n" % (
        kept.door_block, request.request_id, max(1, int(seconds * 1000.0)),
    )  # fmt: skip


def _for_worker(request: Request) -> list[Field]:
    """A worker that is asked over REST gets none of gRPC's fields about messages."""
    pass_on = of.rest_to_worker if request.wire is Wire.REST else of.grpc_to_worker
    return pass_on(request.envelope.fields)


def _asked_by_router(request: Request) -> tuple[bytes, bytes]:
    method, suffix = _ROUTES[request.operation]
    version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
    return method, f"/v2/models/{quote(request.model, safe='')}{version}".encode() + suffix
