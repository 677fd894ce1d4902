"""Heads and bodies of requests that come as a `Call`: those that the router itself makes."""

from __future__ import annotations

import math
from typing import Final

from berth.http.head import Fields
from berth.http.http1 import encoding
from berth.http.http2 import header_codec
from router.call import Call
from router.core.message import name_fields
from router.core.paths import Operation
from router.engine import fields as of
from router.engine import rpc

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
    (of.CONTENT_TYPE, b"application/grpc"),
    (b"user-agent", b"berth-router"),
)


def path_of(operation: Operation, servable: str) -> bytes:
    """Where a worker answers REST."""
    return b"/v2/models/%b%b" % (servable.encode(), ROUTES[operation][1])


def rest_block(call: Call, servable: str, seconds: float, credential: bytes) -> bytes:
    method, _ = ROUTES[call.operation]
    block = encoding.encode_request(method, of.WORKER, path_of(call.operation, servable), of.as_fields(call.headers))
    ours = ((of.REQUEST_ID, call.request_id.encode()), (of.TIMEOUT_MS, b"%d" % max(1, int(seconds * 1000.0))))
    return block + credential + encoding.encode_fields(ours)


def grpc_block(call: Call, servable: str, seconds: float, credential: bytes) -> bytes:
    path = b"/%b/%b" % (rpc.SERVICE.encode(), METHODS[call.operation])
    fields = (*GRPC_FIELDS, *of.as_fields(call.headers))
    block = header_codec.encode_request(b"POST", b"http", of.WORKER, path, fields)
    ours = header_codec.encode(((of.REQUEST_ID, call.request_id.encode()),))
    timeout = b"" if seconds == math.inf else rpc.timeout_block(max(1, int(seconds * 1000.0)))
    return block + credential + ours + timeout


def grpc_body(message: bytes, servable: str) -> bytes:
    tail = name_fields(servable)
    return b"".join((rpc.prefix(len(message) + len(tail)), message, tail))
