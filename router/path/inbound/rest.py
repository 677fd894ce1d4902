"""REST requests: OIP v2 with the binary extension, and TensorFlow Serving's surface, over HTTP/1.1 and HTTP/2.

A request is refused as early as it can be: key and model are checked before the body is read, and a client that asks
(`Expect: 100-continue`) is told to go on only then. Bodies pass as bytes, compressed or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, InvalidArgument, PayloadTooLarge, Unavailable
from berth.headers import AUTHORIZATION, NOT_STARTED, REQUEST_ID, REQUEST_ID_TEXT, TIMEOUT_MS
from berth.http.head import Field, Fields, RequestHead, ResponseHead, first
from berth.http.http1 import encoding
from berth.http.http2 import header_codec
from berth.oip import metadata
from berth.oip.errors import error_body, rest_error
from router.core.paths import WITH_BODY, ModelQuestion, Operation, ServerQuestion, method_of, parse_path
from router.core.tfserving import TfQuestion, is_tfserving, parse_question
from router.path import fields as of
from router.path.call import AsItCame, Headers, Reply, Wire
from router.path.headers import request_id_is_good, timeout_of
from router.path.inbound.inbound import Inbound
from router.path.request import Answer, Copy
from router.path.upstream.heads import ROUTES, path_of, rest_head_to_router
from router.tfserving.answering import TfAsked

if TYPE_CHECKING:
    from router.path.inbound.client import ClientConnection

log = structlog.get_logger(__name__)

_JSON: Final[Field] = (b"content-type", b"application/json")


class Plan:
    """What a head says, whatever request it comes with. `question` None: the answer is `error`, or 405 `allowed`."""

    __slots__ = (
        "allowed", "block", "came", "door", "door_block", "error", "fields", "method", "path", "question", "request_id",
        "said", "servable", "tf", "timeout_ms", "trace",
    )  # fmt: skip

    def __init__(self, head: RequestHead) -> None:
        self.question: ModelQuestion | ServerQuestion | None = None
        self.tf: TfQuestion | None = None
        self.error: BerthError | None = None
        self.allowed = ""
        self.said = of.said_by(head.fields)
        self.fields = of.rest_to_worker(head.fields)
        self.request_id = first(head.fields, REQUEST_ID)
        self.timeout_ms = first(head.fields, TIMEOUT_MS)
        self.trace = of.trace_of(head.fields)
        # The encoded head for the worker, up to what differs from request to request; it names the servable.
        self.servable = ""
        self.block = b""
        # The same as it came, for the routers of one other cell.
        self.door: of.Door | None = None
        self.door_block = b""
        self.method, self.path, self.came = head.method, head.path, head.fields
        path = head.path.partition(b"?")[0].decode("latin-1")
        method = head.method.decode("latin-1")
        try:
            if is_tfserving(path):
                self.tf = parse_question(method, path)
                return
            question = parse_path(path)
            if method != method_of(question):
                self.allowed = method_of(question)
            else:
                self.question = question
        except BerthError as error:
            self.error = error


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
        plan = base.derived = Plan(base)
    request_id, timeout_ms, trace = plan.request_id, plan.timeout_ms, plan.trace
    for name, value in tail:
        if name == REQUEST_ID:
            request_id = value
        elif name == TIMEOUT_MS:
            timeout_ms = value
        else:
            trace = (*trace, (name, value))
    inbound = RestInbound(plan, client, stream_id, head.content_length, head.expects_continue)
    inbound.trace = trace
    inbound.started = now = client.common.loop.time()
    given = request_id is not None and request_id_is_good(request_id)
    inbound.request_id = request_id if given and request_id is not None else service.new_request_id()
    limits = service.limits
    if timeout_ms is None:
        streamed = inbound.operation is Operation.GENERATE_STREAM
        inbound.deadline = now + (limits.max_timeout_s if streamed else limits.default_timeout_s)
    else:
        try:
            seconds = timeout_of(
                timeout_ms.decode("latin-1"), default=limits.default_timeout_s, longest=limits.max_timeout_s
            )
        except InvalidArgument as error:
            inbound.late_error = error
        else:
            inbound.deadline = now + seconds
    if plan.question is None and plan.tf is None:
        inbound.refuse_at_once()
    return inbound


class RestInbound(Inbound):
    __slots__ = ("_task", "asked_to_wait", "late_error", "length", "plan")

    def __init__(
        self, plan: Plan, client: ClientConnection, stream_id: int, length: int | None, expects_continue: bool
    ) -> None:
        question = plan.question
        operation = question.operation if isinstance(question, ModelQuestion) else Operation.INFER
        super().__init__(Wire.REST, operation, client, stream_id)
        self.plan = plan
        self.length = length
        self.asked_to_wait = expects_continue
        self.late_error: BerthError | None = None
        self._task: asyncio.Task[None] | None = None
        self.api_key, self.hedge, self.reach, self.sender = plan.said
        if isinstance(question, ModelQuestion):
            self.model, self.version = question.model, question.version
        elif plan.tf is not None:
            self.model = plan.tf.model
        if operation is Operation.GENERATE_STREAM:
            self.held_back = 0
            self.hedge = False

    # ── The request comes ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def longest_body(self) -> int:
        service = self.client.service
        return service.limits.max_body_bytes if self.plan.tf is None else service.tfserving.max_body_bytes

    def check(self) -> None:
        service = self.client.service
        now = self.client.common.loop.time()
        try:
            self._check_who()
            if self.length is not None and self.length > self.longest_body:
                raise PayloadTooLarge(f"the body has {self.length} bytes, {self.longest_body} are allowed")
            if self.client.common.ledger.full:
                raise Unavailable("the router holds too many bytes of requests")
        except BerthError as error:
            self.refused(error)
            return
        if self.asked_to_wait:
            self.asked_to_wait = False
            self.client.http.send_informational(self.stream_id, self.client.http.encode_response(100))
        self.await_body(now, min(service.limits.body_timeout_s, self.deadline - now))

    def _check_who(self) -> None:
        """Before anything else: who is asking, and for something of theirs?"""
        service, plan = self.client.service, self.plan
        if isinstance(plan.question, ModelQuestion):
            service.forwarder.check(self.operation, self.api_key, self.model, self.version, self.reach)
        elif plan.tf is not None:
            service.tfserving.check(plan.tf, self.api_key, self.reach)
        if self.late_error is not None:
            raise self.late_error

    def run(self) -> None:
        plan = self.plan
        question = plan.question
        if isinstance(question, ServerQuestion):
            self._answer_for_server(question)
            return
        chunks = self._chunks
        self._chunks = []
        body = b"" if not chunks else chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if plan.tf is not None:
            self._task = self.client.service.tasks.create_task(self._ask_tfserving(plan.tf, body))
            return
        if self.late_error is not None:
            try:
                self._check_who()
            except BerthError as error:
                self.refused(error)
                return
        if self.operation in WITH_BODY:
            self.body = body
        self.start()

    def gone(self) -> None:
        super().gone()
        if self._task is not None:
            self._task.cancel()

    def too_large(self) -> None:
        try:
            self._check_who()
        except BerthError as error:
            self.refused(error)
            return
        limit = self.longest_body
        if self.length is not None:
            text = f"the body has {self.length} bytes, {limit} are allowed"
        else:
            text = f"the body has more than the {limit} bytes that are allowed"
        self.refused(PayloadTooLarge(text))

    def body_late(self) -> None:
        if self.over:
            return
        if self.deadline <= self.client.common.loop.time():
            self.refused(DeadlineExceeded("the deadline passed before the body had arrived"))
            return
        seconds = self.client.service.limits.body_timeout_s
        self._close_after()
        self._give(408, (_JSON,), error_body(f"the body did not arrive within {seconds:g} s"))

    def refuse_at_once(self) -> None:
        """For what can be seen from the head alone."""
        plan = self.plan
        if plan.error is not None:
            self.refused(plan.error)
        else:
            fields = (_JSON, (b"allow", plan.allowed.encode()))
            self._give(405, fields, error_body(f"only {plan.allowed} is allowed here"))

    def _answer_for_server(self, question: ServerQuestion) -> None:
        if question is ServerQuestion.LIVE:
            self._give(200, (_JSON,), metadata.live_json(True))
        elif question is ServerQuestion.READY:
            ready = self.client.service.ready
            self._give(200 if ready else 503, (_JSON,), metadata.ready_json(ready))
        else:
            self._give(200, (_JSON,), metadata.server_metadata_json())

    async def _ask_tfserving(self, question: TfQuestion, body: bytes) -> None:
        service = self.client.service
        request_id = self.request_id.decode("latin-1")
        try:
            self._check_who()
            asked = TfAsked(
                question, self.api_key, self.headers(), body, request_id, self.deadline, self.hedge, self.trace,
                self.reach, self.sender, AsItCame(self.authorization(), self.plan.method, self.plan.path),
            )  # fmt: skip
            reply = await service.tfserving.answer(asked)
        except BerthError as error:
            self.refused(error)
        except Exception:
            # A named boundary: a fault of ours costs one request, not the connection or the process.
            log.exception("request failed", request_id=request_id)
            self.refused(Internal("internal error"))
        else:
            self._give_reply(reply)

    # ── To the worker ──────────────────────────────────────────────────────────────────────────────────────────

    def message(self) -> bytes:
        return self.body

    def headers(self) -> Headers:
        return of.as_text(self.plan.fields)

    def authorization(self) -> bytes:
        """The client's own credential, for nobody but the routers of another cell."""
        return first(self.plan.came, AUTHORIZATION) or b""

    def block_to_router(self, door: of.Door, seconds: float) -> bytes:
        plan = self.plan
        if plan.door is not door:
            fields = tuple(of.rest_to_router(plan.came))
            plan.door, plan.door_block = door, rest_head_to_router(door, plan.method, plan.path, fields)
        return b"%bx-request-id: %b\r\nberth-timeout-ms: %d\r\n" % (
            plan.door_block, self.request_id, max(1, int(seconds * 1000.0)),
        )  # fmt: skip

    def block_for(self, servable: str, seconds: float, credential: bytes) -> bytes:
        plan = self.plan
        if plan.servable != servable:
            method, _ = ROUTES[self.operation]
            path = path_of(self.operation, servable)
            plan.block = encoding.encode_request(method, of.WORKER, path, plan.fields)
            plan.servable = servable
        return b"%b%bx-request-id: %b\r\nberth-timeout-ms: %d\r\n" % (
            plan.block, credential, self.request_id, max(1, int(seconds * 1000.0)),
        )  # fmt: skip

    def body_for(self, servable: str) -> list[bytes | memoryview]:
        return [self.body]

    # ── To the client ──────────────────────────────────────────────────────────────────────────────────────────

    def answered(self, answer: Answer) -> None:
        head = answer.head
        if head is None:
            assert answer.reply is not None
            self._give_reply(answer.reply)
            return
        http, stream_id = self.client.http, self.stream_id
        chunks = answer.chunks
        if chunks:
            http.send_head(stream_id, self._block_of(head), length=answer.size)
            self._send_body(chunks, end=True)
        else:
            http.send_head(stream_id, self._block_of(head), True)
        self._answered(answer.status)

    def begun(self, answer: Answer, copy: Copy) -> None:
        http, stream_id = self.client.http, self.stream_id
        assert answer.head is not None
        self._begun = copy
        http.send_head(stream_id, self._block_of(answer.head), length=answer.head.content_length)
        self._send_body(answer.chunks, end=False)
        self.client.mark()

    def ended(self, answer: Answer) -> None:
        if not self._finished:
            # It ended with trailers, which nobody needs.
            self.client.http.send_data(self.stream_id, b"", True)
        self._answered(answer.status)

    def broken(self) -> None:
        self._record(502)
        self._break()

    def refused(self, error: BerthError) -> None:
        if self.over:
            return
        status, headers, body = rest_error(error, "")
        del headers[REQUEST_ID_TEXT]
        fields = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
        if isinstance(error, PayloadTooLarge):
            self._close_after()
        elif self.may_be_had_by_sender(error):
            fields = (*fields, (NOT_STARTED, b"1"))
        self._give(status, fields, body)

    def _give_reply(self, reply: Reply) -> None:
        """An answer from memory."""
        if not self.over:
            self._give(reply.status, of.as_fields(reply.headers), reply.body)

    def _give(self, status: int, fields: Fields, body: bytes) -> None:
        http, stream_id = self.client.http, self.stream_id
        block = http.encode_response(status, (*fields, (REQUEST_ID, self.request_id)))
        http.send_head(stream_id, block, not body, length=len(body))
        if body:
            self._send_body([body], end=True)
        self._stop_reading()
        self._answered(status)

    def _close_after(self) -> None:
        """What the client still sends of this request is not worth reading."""
        if not self.client.speaks_http2:
            self.client.http.shutdown()

    def _block_of(self, head: ResponseHead) -> bytes:
        base = head.base
        passed = base.derived
        if type(passed) is not RestAnswerHead:
            passed = base.derived = RestAnswerHead(base.status, base.fields)
        if self.client.speaks_http2:
            return passed.over_http2 + header_codec.encode(((REQUEST_ID, self.request_id),))
        return b"%bx-request-id: %b\r\n" % (passed.over_http1, self.request_id)

    def _answered(self, status: int) -> None:
        self._record(status)
        self._end()

    def _record(self, status: int) -> None:
        seconds = self.client.common.loop.time() - self.started
        self.client.service.recorder.answered(Wire.REST, status, seconds, self.request_id, self.model, self.went_to)


class RestAnswerHead:
    """What a worker's head becomes on its way to clients."""

    __slots__ = ("over_http1", "over_http2")

    def __init__(self, status: int, fields: Fields) -> None:
        passed = of.rest_to_client(fields)
        self.over_http1 = encoding.encode_response(status, passed)
        self.over_http2 = header_codec.encode_response(status, passed)
