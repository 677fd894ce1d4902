"""gRPC requests: inference.GRPCInferenceService, messages never decoded.

The model's name is read from the outermost fields of the message and replaced by appending to them. Whatever else the
request says is worked out once for each header block a client sends, and kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from berth.errors import (
    BerthError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PayloadTooLarge,
    Retryable,
    Unavailable,
)
from berth.headers import GRPC_ENCODING, GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, NOT_STARTED, REQUEST_ID, RETRY_AFTER
from berth.http.compression import ENCODINGS, inflate
from berth.http.grpc import messages
from berth.http.grpc.status import UNAVAILABLE, UNIMPLEMENTED, code_name, encode_text
from berth.http.head import Fields, RequestHead, first
from berth.http.http2 import header_codec
from berth.http.limits import BULKY
from berth.oip import metadata
from berth.oip.errors import grpc_status
from router.core.message import name_fields, read_target
from router.core.paths import Operation
from router.path import fields as of
from router.path import rpc
from router.path.call import Headers, Reply, Wire
from router.path.inbound.inbound import Inbound
from router.path.request import Answer, Copy
from router.path.upstream.heads import GRPC_FIELDS, grpc_head_to_router

if TYPE_CHECKING:
    from router.path.inbound.client import ClientConnection
    from router.path.inbound.service import Service

PATHS: Final = {
    metadata.GRPC_METHODS + method: operation
    for method, operation in (
        (b"ModelInfer", Operation.INFER),
        (b"ModelMetadata", Operation.METADATA),
        (b"ModelReady", Operation.READY),
    )
}
STREAM: Final = metadata.GRPC_METHODS + b"ModelStreamInfer"
LOCAL: Final = {metadata.GRPC_METHODS + method: method for method in (b"ServerLive", b"ServerReady", b"ServerMetadata")}

_HEAD: Final = header_codec.encode_response(200, (rpc.CONTENT_TYPE_FIELD,))
_OK: Final = header_codec.encode(((GRPC_STATUS, b"0"),))
# How the field `x-request-id: …` begins, by the length of the id: a literal that is not indexed, its name in full.
_ID_NAMES: Final = [b"\x00%c%b%c" % (len(REQUEST_ID), REQUEST_ID, size) for size in range(0x7F)]


class Plan:
    """What a header block says, whatever request it comes with."""

    __slots__ = (
        "answer",
        "block",
        "door",
        "door_block",
        "encoding",
        "error",
        "fields",
        "operation",
        "path",
        "request_id",
        "said",
        "stream",
        "timeout",
        "trace",
    )

    def __init__(self, service: Service, head: RequestHead) -> None:
        self.operation = PATHS.get(head.path, Operation.INFER)
        self.stream = head.path == STREAM
        self.answer: Callable[[], bytes] | None = service.local_grpc.get(head.path)
        self.error: Answer | None = None
        self.said = of.said_by(head.fields)
        self.fields = head.fields
        self.encoding = first(head.fields, GRPC_ENCODING)
        self.request_id = first(head.fields, REQUEST_ID)
        self.timeout = first(head.fields, GRPC_TIMEOUT)
        self.trace = of.trace_of(head.fields)
        self.path = head.path
        self.block = b""
        # The same as it came, for the routers of one other cell.
        self.door: of.Door | None = None
        self.door_block = b""
        if head.method != b"POST" or not (head.path in PATHS or self.stream or self.answer is not None):
            self.error = refusal_of(UNIMPLEMENTED, f"no such method: {head.path.decode('latin-1')[:200]}")
        else:
            passed = of.grpc_to_worker(head.fields)
            self.block = header_codec.encode_request(
                b"POST", service.scheme, of.WORKER, head.path, (*GRPC_FIELDS, *passed)
            )


class GrpcInbound(Inbound):
    """A unary call. `body` is its one message, with the five bytes before it."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan, client: ClientConnection, stream_id: int) -> None:
        super().__init__(Wire.GRPC, plan.operation, client, stream_id)
        self.plan = plan
        self.api_key, self.hedge, self.reach, self.sender = plan.said

    @property
    def longest_body(self) -> int:
        return self.client.service.limits.max_body_bytes + messages.PREFIX_SIZE

    def run(self) -> None:
        if self.plan.answer is not None:
            self._answer_locally(self.plan.answer())
            return
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        try:
            self.body = self._uncompressed(body)
            self.model, self.version = read_target(self.body, messages.PREFIX_SIZE)
        except BerthError as error:
            self.refused(error)
            return
        self.start()

    def _uncompressed(self, body: bytes) -> bytes:
        size = len(body) - messages.PREFIX_SIZE
        if size < 0 or messages.size_after(body) != size:
            raise Internal("a unary call carries exactly one message")
        if not body[0]:
            return body
        limit = self.client.service.limits.max_body_bytes
        if self.plan.encoding not in ENCODINGS:
            raise InvalidArgument(
                "the message is compressed in a way that is not supported: use gzip, deflate or identity"
            )
        try:
            message = inflate(memoryview(body)[messages.PREFIX_SIZE :], limit)
        except OverflowError:
            raise too_large(limit) from None
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        return messages.prefix(len(message)) + message

    def check(self) -> None:
        now = self.client.common.loop.time()
        if self.client.common.ledger.full:
            self.refused(Unavailable("the router holds too many bytes of requests"))
        else:
            self.await_body(now, min(self.client.service.limits.body_timeout_s, self.deadline - now))

    def too_large(self) -> None:
        self.refused(too_large(self.client.service.limits.max_body_bytes))

    def body_late(self) -> None:
        if not self.over:
            self.refused(DeadlineExceeded("the message did not arrive in time"))

    # ── To the worker ──────────────────────────────────────────────────────────────────────────────────────────

    def message(self) -> bytes:
        return self.body[messages.PREFIX_SIZE :]

    def headers(self) -> Headers:
        return of.as_text(of.grpc_to_worker(self.plan.fields))

    def block_for(self, servable: str, seconds: float, credential: bytes) -> bytes:
        block = self.plan.block + credential + _id_block(self.request_id)
        return block if seconds == math.inf else block + rpc.timeout_block(max(1, int(seconds * 1000.0)))

    def block_to_router(self, door: of.Door, seconds: float) -> bytes:
        plan = self.plan
        if plan.door is not door:
            fields = tuple(of.grpc_to_router(plan.fields))
            plan.door, plan.door_block = door, grpc_head_to_router(door, plan.path, fields)
        block = plan.door_block + _id_block(self.request_id)
        return block if seconds == math.inf else block + rpc.timeout_block(max(1, int(seconds * 1000.0)))

    def body_for(self, servable: str) -> list[bytes | memoryview]:
        body = self.body
        if not servable:
            return [body]
        tail = name_fields(servable)
        prefix = messages.prefix(len(body) - messages.PREFIX_SIZE + len(tail))
        if len(body) < BULKY:
            return [prefix + body[messages.PREFIX_SIZE :] + tail]
        return [prefix, memoryview(body)[messages.PREFIX_SIZE :], tail]

    # ── To the client ──────────────────────────────────────────────────────────────────────────────────────────

    def answered(self, answer: Answer) -> None:
        head, ending = answer.head, answer.ending
        if head is None or ending is None:
            assert answer.reply is not None
            self._give_reply(answer.reply)
            return
        http, stream_id = self.client.http, self.stream_id
        if answer.trailers is head.fields:
            http.send_head(stream_id, _HEAD + ending.block + _id_block(self.request_id), True)
        else:
            http.send_head(stream_id, rpc.block_for_client(head) + _id_block(self.request_id))
            self._send_body(answer.chunks, end=False)
            http.send_trailers(stream_id, ending.block)
        self._answered(ending.code)

    def begun(self, answer: Answer, copy: Copy) -> None:
        http, stream_id = self.client.http, self.stream_id
        assert answer.head is not None
        self._begun = copy
        http.send_head(stream_id, rpc.block_for_client(answer.head) + _id_block(self.request_id))
        # What was held back has been consumed already: it is owed to nobody.
        self._send_body(answer.chunks, end=False)
        self.client.mark()

    def ended(self, answer: Answer) -> None:
        ending = answer.ending
        assert ending is not None
        self.client.http.send_trailers(self.stream_id, ending.block)
        self._stop_reading()
        self._answered(ending.code)

    def broken(self) -> None:
        block = header_codec.encode(
            ((GRPC_STATUS, b"%d" % UNAVAILABLE), (GRPC_MESSAGE, b"the replica was lost while it answered"))
        )
        self.client.http.send_trailers(self.stream_id, block)
        self._stop_reading()
        self._answered(UNAVAILABLE)

    def refused(self, error: BerthError) -> None:
        passed_by = self.may_be_had_by_sender(error)
        if self.operation is Operation.READY and isinstance(error, Unavailable) and not passed_by:
            # A question that has an answer: not now. (An empty message is `ready: false`.)
            self._answer_locally(b"")
            return
        code, details = grpc_status(error)
        fields: Fields = ()
        if isinstance(error, Retryable):
            fields = ((RETRY_AFTER, b"%d" % max(1, math.ceil(error.retry_after))),)
        if passed_by:
            fields = (*fields, (NOT_STARTED, b"1"))
        self.give(refusal_of(code.value[0], details, fields))

    def give(self, refusal: Answer) -> None:
        """Answer with a status alone."""
        assert refusal.ending is not None
        block = _HEAD + refusal.ending.block + _id_block(self.request_id)
        self.client.http.send_head(self.stream_id, block, True)
        self._stop_reading()
        self._answered(refusal.status)

    def _answer_locally(self, message: bytes) -> None:
        http, stream_id = self.client.http, self.stream_id
        http.send_head(stream_id, _HEAD + _id_block(self.request_id))
        http.send_data(stream_id, messages.prefix(len(message)) + message)
        http.send_trailers(stream_id, _OK)
        self._answered(0)

    def _give_reply(self, reply: Reply) -> None:
        """An answer from memory."""
        if reply.status:
            self.give(refusal_of(reply.status, reply.message, of.as_fields((*reply.headers, *reply.trailers))))
            return
        http, stream_id = self.client.http, self.stream_id
        http.send_head(stream_id, _HEAD + header_codec.encode(of.as_fields(reply.headers)) + _id_block(self.request_id))
        self._send_body([messages.prefix(len(reply.body)), reply.body], end=False)
        http.send_trailers(stream_id, _OK + header_codec.encode(of.as_fields(reply.trailers)))
        self._answered(0)

    def _answered(self, code: int) -> None:
        service = self.client.service
        seconds = self.client.common.loop.time() - self.started
        service.recorder.answered(Wire.GRPC, code_name(code), seconds, self.request_id, self.model, self.went_to)
        self._end()


def _id_block(request_id: bytes) -> bytes:
    size = len(request_id)
    if size < 0x7F:
        return _ID_NAMES[size] + request_id
    return header_codec.encode(((REQUEST_ID, request_id),))


def refusal_of(code: int, details: str, fields: Fields = ()) -> Answer:
    answer = Answer(None, [], 0)
    answer.status = code
    message = encode_text(details)
    answer.ending = rpc.GrpcEnding(
        code,
        False,
        False,
        False,
        None,
        message,
        fields,
        header_codec.encode(((GRPC_STATUS, b"%d" % code), (GRPC_MESSAGE, message), *fields)),
    )
    return answer


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the message is larger than max_body_bytes: {limit} are allowed")
