"""gRPC requests: inference.GRPCInferenceService, messages never decoded.

The model's name is read from the outermost fields of the message and replaced by appending to them. Whatever else the
request says is worked out once for each header block a client sends, and kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from berth.errors import (
    BerthError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PayloadTooLarge,
    Retryable,
    Unavailable,
)
from berth.http.head import Fields, RequestHead, first
from berth.http.http2 import header_codec
from berth.oip.errors import grpc_status
from router.call import Headers, Reply, Wire
from router.core.message import name_fields, read_target
from router.core.paths import Operation
from router.engine import fields as of
from router.engine import rpc
from router.engine.inbound import Inbound
from router.engine.outbound import GRPC_FIELDS
from router.engine.request import Answer, Copy
from router.engine.wheel import NEVER
from router.headers import request_id_is_good

if TYPE_CHECKING:
    from router.engine.client import ClientConnection
    from router.engine.service import Service

PATHS = {
    b"/%b/%b" % (rpc.SERVICE.encode(), method): operation
    for method, operation in (
        (b"ModelInfer", Operation.INFER),
        (b"ModelMetadata", Operation.METADATA),
        (b"ModelReady", Operation.READY),
    )
}
STREAM = b"/%b/ModelStreamInfer" % rpc.SERVICE.encode()
LOCAL = {
    b"/%b/%b" % (rpc.SERVICE.encode(), method): method for method in (b"ServerLive", b"ServerReady", b"ServerMetadata")
}

_HEAD = header_codec.encode_response(200, (rpc.TYPE,))
_OK = header_codec.encode(((of.GRPC_STATUS, b"0"),))
# How the field `x-request-id: …` begins: a literal that is not indexed, its name in full.
_ID_NAME = b"\x00" + bytes((len(of.REQUEST_ID),)) + of.REQUEST_ID


class Plan:
    """What a header block says, whatever request it comes with."""

    __slots__ = (
        "answer",
        "block",
        "encoding",
        "error",
        "fields",
        "operation",
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
        self.encoding = first(head.fields, b"grpc-encoding")
        self.request_id = first(head.fields, of.REQUEST_ID)
        self.timeout = first(head.fields, of.GRPC_TIMEOUT)
        self.trace = of.trace_of(head.fields)
        self.block = b""
        if head.method != b"POST" or not (head.path in PATHS or self.stream or self.answer is not None):
            self.error = _refusal(rpc.UNIMPLEMENTED, f"no such method: {head.path.decode('latin-1')[:200]}")
        else:
            passed = of.grpc_to_worker(head.fields)
            self.block = header_codec.encode_request(
                b"POST", service.scheme, of.WORKER, head.path, (*GRPC_FIELDS, *passed)
            )


def accept(client: ClientConnection, stream_id: int, head: RequestHead) -> Inbound:
    """A request whose head has come."""
    service = client.service
    base = head.base
    tail = head.fields[len(base.fields) :]
    for name, _ in tail:
        if name not in of.VARIABLE:
            base, tail = head, ()
            break
    plan = base.derived
    if type(plan) is not Plan:
        plan = base.derived = Plan(service, base)
    request_id, timeout, trace = plan.request_id, plan.timeout, plan.trace
    for name, value in tail:
        if name == of.REQUEST_ID:
            request_id = value
        elif name == of.GRPC_TIMEOUT:
            timeout = value
        else:
            trace = (*trace, (name, value))
    inbound: GrpcInbound = GrpcStream(plan, client, stream_id) if plan.stream else GrpcInbound(plan, client, stream_id)
    inbound.trace = trace
    inbound.started = now = client.common.loop.time()
    given = request_id is not None and request_id_is_good(request_id)
    inbound.request_id = request_id if given and request_id is not None else service.new_request_id()
    if timeout is None:
        inbound.deadline = math.inf if plan.stream else now + service.limits.default_timeout_s
    else:
        try:
            inbound.deadline = now + min(rpc.timeout_of(timeout), service.limits.max_timeout_s)
        except InvalidArgument as error:
            inbound.refused(error)
            return inbound
    if plan.error is not None:
        inbound.give(plan.error)
    return inbound


class GrpcInbound(Inbound):
    """A unary call. `body` is its one message, with the five bytes before it."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan, client: ClientConnection, stream_id: int) -> None:
        super().__init__(Wire.GRPC, plan.operation, client, stream_id)
        self.plan = plan
        self.api_key, self.hedge = plan.said

    @property
    def longest_body(self) -> int:
        return self.client.service.limits.max_body_bytes + rpc.PREFIX_SIZE

    def run(self) -> None:
        if self.plan.answer is not None:
            self._answer_locally(self.plan.answer())
            return
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        try:
            self.body = self._uncompressed(body)
            self.model, self.version = read_target(self.body, rpc.PREFIX_SIZE)
        except BerthError as error:
            self.refused(error)
            return
        self.start()

    def _uncompressed(self, body: bytes) -> bytes:
        size = len(body) - rpc.PREFIX_SIZE
        if size < 0 or int.from_bytes(body[1 : rpc.PREFIX_SIZE], "big") != size:
            raise Internal("a unary call carries exactly one message")
        if not body[0]:
            return body
        limit = self.client.service.limits.max_body_bytes
        try:
            message = rpc.decompress(memoryview(body)[rpc.PREFIX_SIZE :], self.plan.encoding, limit)
        except OverflowError:
            raise _too_large(limit) from None
        return rpc.prefix(len(message)) + message

    def check(self) -> None:
        now = self.client.common.loop.time()
        if self.client.common.ledger.full:
            self.refused(Unavailable("the router holds too many bytes of requests"))
        else:
            self.await_body(now, min(self.client.service.limits.body_timeout_s, self.deadline - now))

    def too_large(self) -> None:
        self.refused(_too_large(self.client.service.limits.max_body_bytes))

    def body_late(self) -> None:
        if not self.over:
            self.refused(DeadlineExceeded("the message did not arrive in time"))

    # ── To the worker ──────────────────────────────────────────────────────────────────────────────────────────

    def message(self) -> bytes:
        return self.body[rpc.PREFIX_SIZE :]

    def headers(self) -> Headers:
        return of.as_text(of.grpc_to_worker(self.plan.fields))

    def block_for(self, servable: str, seconds: float, credential: bytes) -> bytes:
        block = self.plan.block + credential + _id_block(self.request_id)
        return block if seconds == math.inf else block + rpc.timeout_block(max(1, int(seconds * 1000.0)))

    def body_for(self, servable: str) -> bytes:
        body = self.body
        tail = name_fields(servable)
        size = len(body) - rpc.PREFIX_SIZE + len(tail)
        return b"".join((rpc.prefix(size), memoryview(body)[rpc.PREFIX_SIZE :], tail))

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
            ((of.GRPC_STATUS, b"%d" % rpc.UNAVAILABLE), (of.GRPC_MESSAGE, b"the replica was lost while it answered"))
        )
        self.client.http.send_trailers(self.stream_id, block)
        self._stop_reading()
        self._answered(rpc.UNAVAILABLE)

    def refused(self, error: BerthError) -> None:
        if self.operation is Operation.READY and isinstance(error, Unavailable):
            # A question that has an answer: not now. (An empty message is `ready: false`.)
            self._answer_locally(b"")
            return
        code, details = grpc_status(error)
        fields: Fields = ()
        if isinstance(error, Retryable):
            fields = ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))),)
        self.give(_refusal(code.value[0], details, fields))

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
        http.send_data(stream_id, rpc.prefix(len(message)) + message)
        http.send_trailers(stream_id, _OK)
        self._answered(0)

    def _give_reply(self, reply: Reply) -> None:
        """An answer from memory."""
        if reply.status:
            self.give(_refusal(reply.status, reply.message, of.as_fields((*reply.headers, *reply.trailers))))
            return
        http, stream_id = self.client.http, self.stream_id
        http.send_head(stream_id, _HEAD + header_codec.encode(of.as_fields(reply.headers)) + _id_block(self.request_id))
        self._send_body([rpc.prefix(len(reply.body)), reply.body], end=False)
        http.send_trailers(stream_id, _OK + header_codec.encode(of.as_fields(reply.trailers)))
        self._answered(0)

    def _answered(self, code: int) -> None:
        service = self.client.service
        seconds = self.client.common.loop.time() - self.started
        service.recorder.answered(Wire.GRPC, rpc.code_name(code), seconds, self.request_id, self.model)
        self._end()


class GrpcStream(GrpcInbound):
    """ModelStreamInfer: messages pass both ways as they come, to the one replica that the first message chose.

    Each message is renamed like a unary one, without being kept: its length grows by what is appended, which is known
    when its first five bytes have come. So all of the stream goes to the model that its first message names.
    """

    __slots__ = ("_in_message", "_owed", "_pending", "_prefix", "_started", "_tail")

    def __init__(self, plan: Plan, client: ClientConnection, stream_id: int) -> None:
        super().__init__(plan, client, stream_id)
        self.hedge = self.idempotent = False
        self.held_back = 0
        self.complete = False
        self._started = False
        self._tail = b""
        # Of the message whose bytes come now: what came of its five bytes, and how many others are still to come.
        self._prefix = b""
        self._in_message = 0
        # Bytes of the client that were pushed and not consumed: some of them wait for the worker's window.
        self._owed = 0
        # What came after the first message and cannot be sent yet, and how much of it is not consumed.
        self._pending: list[tuple[bytes, int, bool]] = []

    def data(self, chunk: bytes, ended: bool) -> None:
        if self.over:
            self.client.http.consume(self.stream_id, len(chunk))
        elif self._started:
            self._forward(chunk, ended, owed=len(chunk))
        else:
            self._collect(chunk, ended)

    def _collect(self, chunk: bytes, ended: bool) -> None:
        """Until the first message is whole: it says where the stream goes."""
        self.client.http.consume(self.stream_id, len(chunk))
        self._chunks.append(chunk)
        self._size += len(chunk)
        self.client.common.ledger.held += len(chunk)
        if self._size > self.longest_body:
            self.too_large()
            return
        body = b"".join(self._chunks)
        self._chunks = [body]
        size = rpc.PREFIX_SIZE + int.from_bytes(body[1 : rpc.PREFIX_SIZE], "big")
        if len(body) < rpc.PREFIX_SIZE or len(body) < size:
            if ended:
                self.refused(Internal("the stream ended within its first message"))
            elif len(body) >= rpc.PREFIX_SIZE and size > self.longest_body:
                self.too_large()
            return
        self._started = True
        if self._late_slot != NEVER:
            self.client.service.late.discard(self, self._late_slot)
        first_message, rest = body[:size], body[size:]
        try:
            if body[0]:
                raise InvalidArgument("messages of a stream cannot be compressed here")
            self.model, self.version = read_target(first_message, rpc.PREFIX_SIZE)
        except BerthError as error:
            self.refused(error)
            return
        self.body = first_message
        self.complete = self.whole = ended and not rest
        self.start()
        if not self.over and not self.complete:
            self._forward(rest, ended, owed=0)

    def body_for(self, servable: str) -> bytes:
        self._tail = name_fields(servable)
        return super().body_for(servable)

    def _forward(self, chunk: bytes, ended: bool, owed: int) -> None:
        """Rename the messages in `chunk` and pass them on. `owed` of its bytes are not consumed yet."""
        if ended:
            self.whole = True
        self._pending.append((chunk, owed, ended))
        self.carried()

    def carried(self) -> None:
        """Send what has come, if there is a connection to send it on."""
        exchange = self.exchange
        copy = exchange.only_copy if exchange is not None else None
        if copy is None or copy.carrier is None:
            return
        for chunk, owed, ended in self._pending:
            try:
                renamed = self._renamed(chunk)
            except BerthError as error:
                self._refuse_midway(error)
                return
            copy.unsent += len(renamed) - copy.carrier.push(copy, renamed, ended)
            self._owed += owed
        self._pending = []
        if not copy.unsent:
            self.passed_on()

    def passed_on(self) -> None:
        """All that was pushed has gone to the worker: the client may send as much again."""
        owed, self._owed = self._owed, 0
        self.client.http.consume(self.stream_id, owed)
        self.client.mark()

    def _refuse_midway(self, error: BerthError) -> None:
        assert self.exchange is not None
        self.exchange.cancel()
        if self._begun is None:
            self.refused(error)
        else:
            code, details = grpc_status(error)
            refusal = _refusal(code.value[0], details)
            assert refusal.ending is not None
            self.client.http.send_trailers(self.stream_id, refusal.ending.block)
            self._stop_reading()
            self._answered(refusal.status)

    def _renamed(self, chunk: bytes) -> bytes:
        out: list[bytes] = []
        at, end = 0, len(chunk)
        while at < end:
            if self._in_message:
                taken = chunk[at : at + self._in_message]
                self._in_message -= len(taken)
                at += len(taken)
                out.append(taken)
                if not self._in_message:
                    out.append(self._tail)
                continue
            missing = rpc.PREFIX_SIZE - len(self._prefix)
            self._prefix += chunk[at : at + missing]
            at += missing
            if len(self._prefix) == rpc.PREFIX_SIZE:
                if self._prefix[0]:
                    raise InvalidArgument("messages of a stream cannot be compressed here")
                self._in_message = int.from_bytes(self._prefix[1:], "big")
                if self._in_message > self.client.service.limits.max_body_bytes:
                    raise _too_large(self.client.service.limits.max_body_bytes)
                out.append(rpc.prefix(self._in_message + len(self._tail)))
                if not self._in_message:
                    out.append(self._tail)
                self._prefix = b""
        return b"".join(out)


def _id_block(request_id: bytes) -> bytes:
    size = len(request_id)
    if size < 0x7F:
        return b"%b%c%b" % (_ID_NAME, size, request_id)
    return header_codec.encode(((of.REQUEST_ID, request_id),))


def _refusal(code: int, details: str, fields: Fields = ()) -> Answer:
    answer = Answer(None, [], 0)
    answer.status = code
    message = rpc.percent_encode(details)
    answer.ending = rpc.Status(
        code,
        False,
        False,
        False,
        None,
        message,
        fields,
        header_codec.encode(((of.GRPC_STATUS, b"%d" % code), (of.GRPC_MESSAGE, message), *fields)),
    )
    return answer


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the message is larger than max_body_bytes: {limit} are allowed")
