"""Heads and bodies of requests that come as a `Call`, those that the router itself makes.

And heads of what goes as it came to the routers of other cells.
"""

from __future__ import annotations

import math
from typing import Final
from urllib.parse import quote

from berth.headers import AUTHORIZATION, CONTENT_TYPE, NO_HEDGE, PASSED_ON, REQUEST_ID, TIMEOUT_MS
from berth.http.grpc import messages
from berth.http.head import Fields
from berth.http.http1 import encoding
from berth.http.http2 import header_codec
from berth.oip import metadata
from router.core.message import name_fields
from router.core.paths import Operation
from router.path import fields as of
from router.path import rpc
from router.path.call import Call, Wire

METHODS: Final = {
    Operation.INFER: b"ModelInfer",
    Operation.METADATA: b"ModelMetadata",
    Operation.READY: b"ModelReady",
}
ROUTES: Final = {
    Operation.INFER: (b"POST", b"/infer"),
    Operation.GENERATE: (b"POST", b"/generate"),
    Operation.GENERATE_STREAM: (b"POST", b"/generate_stream"),
    Operation.METADATA: (b"GET", b""),
    Operation.READY: (b"GET", b"/ready"),
}
GRPC_FIELDS: Final[Fields] = (
    (b"te", b"trailers"),
    (CONTENT_TYPE, b"application/grpc"),
    (b"user-agent", b"berth-router"),
)


def path_of(operation: Operation, servable: str) -> bytes:
    """Where a worker answers REST."""
    return b"/v2/models/%b%b" % (servable.encode(), ROUTES[operation][1])


def rest_block(call: Call, servable: str, seconds: float, credential: bytes) -> bytes:
    method, _ = ROUTES[call.operation]
    block = encoding.encode_request(method, of.WORKER, path_of(call.operation, servable), of.as_fields(call.headers))
    ours = ((REQUEST_ID, call.request_id.encode()), (TIMEOUT_MS, b"%d" % max(1, int(seconds * 1000.0))))
    return block + credential + encoding.encode_fields(ours)


def grpc_block(call: Call, servable: str, seconds: float, credential: bytes) -> bytes:
    path = metadata.GRPC_METHODS + METHODS[call.operation]
    fields = (*GRPC_FIELDS, *of.as_fields(call.headers))
    block = header_codec.encode_request(b"POST", b"http", of.WORKER, path, fields)
    ours = header_codec.encode(((REQUEST_ID, call.request_id.encode()),))
    timeout = b"" if seconds == math.inf else rpc.timeout_block(max(1, int(seconds * 1000.0)))
    return block + credential + ours + timeout


def rest_head_to_router(door: of.Door, method: bytes, path: bytes, fields: Fields) -> bytes:
    """What does not differ from request to request, for another cell's routers."""
    return encoding.encode_request(method, door.authority, path, (*fields, (PASSED_ON, door.sender)))


def grpc_head_to_router(door: of.Door, path: bytes, fields: Fields) -> bytes:
    """The same over gRPC."""
    theirs = (*GRPC_FIELDS, *fields, (PASSED_ON, door.sender))
    return header_codec.encode_request(b"POST", door.scheme, door.authority, path, theirs)


def block_to_router(call: Call, door: of.Door, seconds: float) -> bytes:
    """The head of a call for another cell's routers, who know the model by the words that the client used."""
    came = call.as_it_came
    own: Fields = ()
    if came is not None and came.authorization:
        own = ((AUTHORIZATION, came.authorization),)
    fields = (*of.as_fields(call.headers), *own, *(() if call.hedge else ((NO_HEDGE, b"1"),)))
    request_id: Fields = ((REQUEST_ID, call.request_id.encode()),)
    milliseconds = max(1, int(seconds * 1000.0))
    if call.wire is Wire.REST:
        if came is not None and call.operation is Operation.OTHER:
            head = rest_head_to_router(door, came.method, came.path, fields)
        else:
            method, suffix = ROUTES[call.operation]
            version = f"/versions/{quote(call.version, safe='')}" if call.version else ""
            path = f"/v2/models/{quote(call.model, safe='')}{version}".encode() + suffix
            head = rest_head_to_router(door, method, path, fields)
        return head + encoding.encode_fields((*request_id, (TIMEOUT_MS, b"%d" % milliseconds)))
    path = metadata.GRPC_METHODS + METHODS[call.operation]
    head = grpc_head_to_router(door, path, fields) + header_codec.encode(request_id)
    return head if seconds == math.inf else head + rpc.timeout_block(milliseconds)


def grpc_body(message: bytes, servable: str) -> bytes:
    tail = name_fields(servable) if servable else b""
    return b"".join((messages.prefix(len(message) + len(tail)), message, tail))
