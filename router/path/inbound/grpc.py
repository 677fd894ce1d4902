"""gRPC requests: inference.GRPCInferenceService, messages never decoded.

The model's name is read from the outermost fields of the message and replaced by appending to them. Whatever else the
request says is worked out once for each header block a client sends, and kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from berth.errors import (
    BerthError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Retryable,
    Unavailable,
)
from berth.headers import CONTENT_TYPE, GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, NOT_STARTED, REQUEST_ID, RETRY_AFTER
from berth.http.compression import ENCODINGS, inflate
from berth.http.grpc import messages
from berth.http.grpc.status import UNAVAILABLE, UNIMPLEMENTED, code_name, encode_text
from berth.http.head import Fields, RequestHead, ResponseHead, first
from berth.http.http2 import header_codec
from berth.oip import metadata
from berth.oip.errors import grpc_status
from router.core.message import read_target
from router.core.paths import Operation
from router.core.renaming import too_large
from router.path import fields as of
from router.path.answer import Answer, Ending, Reply, read_head
from router.path.inbound.inbound import Client, Inbound
from router.path.inbound.terms import ClientTerms
from router.path.meeting import Copy
from router.path.request import Envelope, Wire
from router.path.request_ids import id_block
from router.path.said import said_by, trace_of

PATHS: Final = {
    metadata.GRPC_METHODS + method: operation
    for method, operation in (
        (b"ModelInfer", Operation.INFER),
        (b"ModelMetadata", Operation.METADATA),
        (b"ModelReady", Operation.READY),
    )
}
STREAM: Final = metadata.GRPC_METHODS + b"ModelStreamInfer"

_TYPE: Final = (CONTENT_TYPE, messages.CONTENT_TYPE)
_HEAD: Final = header_codec.encode_response(200, (_TYPE,))
_OK: Final = header_codec.encode(((GRPC_STATUS, b"0"),))


class GrpcPlan(Envelope):
    """The meaning of a header block, the same for every request that carries it."""

    __slots__ = ("answer", "encoding", "error", "operation", "request_id", "said", "timeout", "trace")

    def __init__(self, terms: ClientTerms, head: RequestHead) -> None:
        super().__init__(head.fields, head.method, head.path, streams=head.path == STREAM)
        self.operation = PATHS.get(head.path, Operation.INFER)
        self.answer: Callable[[], bytes] | None = terms.local_grpc.get(head.path)
        self.error: Answer | None = None
        self.said = said_by(head.fields)
        self.encoding = first(head.fields, b"grpc-encoding")
        self.request_id = first(head.fields, REQUEST_ID)
        self.timeout = first(head.fields, GRPC_TIMEOUT)
        self.trace = trace_of(head.fields)
        if head.method != b"POST" or not (head.path in PATHS or self.streams or self.answer is not None):
            self.error = refusal_of(UNIMPLEMENTED, f"no such method: {head.path.decode('latin-1')[:200]}")


class GrpcInbound(Inbound):
    """A unary call. `body` is its one message, with the five bytes before it."""

    __slots__ = ("plan",)

    def __init__(self, plan: GrpcPlan, client: Client, stream_id: int) -> None:
        super().__init__(Wire.GRPC, plan.operation, plan, client, stream_id)
        self.plan = plan
        self.offset = messages.PREFIX_SIZE
        self.api_key, self.hedge, self.reach, self.sender = plan.said

    @property
    def longest_body(self) -> int:
        return self.client.terms.limits.max_body_bytes + messages.PREFIX_SIZE

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
        limit = self.client.terms.limits.max_body_bytes
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
            self.await_body(now, min(self.client.terms.limits.body_timeout_s, self.deadline - now))

    def too_large(self) -> None:
        self.refused(too_large(self.client.terms.limits.max_body_bytes))

    def body_late(self) -> None:
        if not self.over:
            self.refused(DeadlineExceeded("the message did not arrive in time"))

    # ── To the client ──────────────────────────────────────────────────────────────────────────────────────────

    def answered(self, answer: Answer) -> None:
        head, ending = answer.head, answer.ending
        if head is None or ending is None:
            assert answer.reply is not None
            self._give_reply(answer.reply)
            return
        http, stream_id = self.client.http, self.stream_id
        if answer.trailers is head.fields:
            http.send_head(stream_id, _HEAD + trailers_of(ending) + id_block(self.request_id), True)
        else:
            http.send_head(stream_id, _head_block(head) + id_block(self.request_id))
            self._send_body(answer.chunks, end=False)
            http.send_trailers(stream_id, trailers_of(ending))
        self._answered(ending.code)

    def begun(self, answer: Answer, copy: Copy) -> None:
        http, stream_id = self.client.http, self.stream_id
        assert answer.head is not None
        self._begun = copy
        http.send_head(stream_id, _head_block(answer.head) + id_block(self.request_id))
        # What was held back has been consumed already: it is owed to nobody.
        self._send_body(answer.chunks, end=False)
        self.client.mark()

    def ended(self, answer: Answer) -> None:
        ending = answer.ending
        assert ending is not None
        self.client.http.send_trailers(self.stream_id, trailers_of(ending))
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
        block = _HEAD + trailers_of(refusal.ending) + id_block(self.request_id)
        self.client.http.send_head(self.stream_id, block, True)
        self._stop_reading()
        self._answered(refusal.status)

    def _answer_locally(self, message: bytes) -> None:
        http, stream_id = self.client.http, self.stream_id
        http.send_head(stream_id, _HEAD + id_block(self.request_id))
        http.send_data(stream_id, messages.prefix(len(message)) + message)
        http.send_trailers(stream_id, _OK)
        self._answered(0)

    def _give_reply(self, reply: Reply) -> None:
        """An answer from memory."""
        if reply.status:
            self.give(refusal_of(reply.status, reply.message, of.as_fields((*reply.headers, *reply.trailers))))
            return
        http, stream_id = self.client.http, self.stream_id
        http.send_head(stream_id, _HEAD + header_codec.encode(of.as_fields(reply.headers)) + id_block(self.request_id))
        self._send_body([messages.prefix(len(reply.body)), reply.body], end=False)
        http.send_trailers(stream_id, _OK + header_codec.encode(of.as_fields(reply.trailers)))
        self._answered(0)

    def _answered(self, code: int) -> None:
        terms = self.client.terms
        seconds = self.client.common.loop.time() - self.started
        terms.recorder.answered(Wire.GRPC, code_name(code), seconds, self.request_id, self.model, self.went_to)
        self._end()


def _head_block(head: ResponseHead) -> bytes:
    """A replica's head, rewritten for clients."""
    read, base = read_head(head), head.base
    passed = read.written
    if type(passed) is not bytes:
        passed = read.written = header_codec.encode_response(200, (_TYPE, *of.grpc_to_client(base.fields)))
    if base is head:
        return passed
    tail = of.grpc_to_client(head.fields[len(base.fields) :])
    return passed + header_codec.encode(tail) if tail else passed


def trailers_of(ending: Ending) -> bytes:
    """The encoded end of an answer; worked out once for all that end alike."""
    block = ending.written
    if not block:
        status: Fields = ((GRPC_STATUS, b"%d" % ending.code),)
        message: Fields = ((GRPC_MESSAGE, ending.message),) if ending.message else ()
        block = ending.written = header_codec.encode((*status, *message, *ending.fields))
    return block


def refusal_of(code: int, details: str, fields: Fields = ()) -> Answer:
    answer = Answer(None, [], 0)
    answer.status = code
    answer.ending = Ending(code, encode_text(details), fields)
    return answer
