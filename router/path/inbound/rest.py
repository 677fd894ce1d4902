"""REST requests: OIP v2 with the binary extension, and TensorFlow Serving's surface, over HTTP/1.1 and HTTP/2.

A request is refused as early as possible: key and model are checked before the body is read. A client that asks
(`Expect: 100-continue`) is told to go on only after that. Bodies pass as bytes, compressed or not.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, InvalidArgument, PayloadTooLarge, Unavailable
from berth.headers import NOT_STARTED, REQUEST_ID, REQUEST_ID_TEXT, TIMEOUT_MS
from berth.http.head import Field, Fields, RequestHead, ResponseHead, first
from berth.http.http1 import encoding
from berth.http.http2 import header_codec
from berth.oip import metadata
from berth.oip.errors import error_body, rest_error
from router.core.paths import WITH_BODY, ModelQuestion, Operation, ServerQuestion, method_of, parse_path
from router.core.tfserving import TfQuestion, is_tfserving, parse_question
from router.path import fields as of
from router.path.answer import Answer, Reply, read_head
from router.path.inbound.inbound import Client, Inbound
from router.path.meeting import Copy
from router.path.request import Envelope, Wire
from router.path.said import request_id_is_good, said_by, timeout_of, trace_of

log = structlog.get_logger(__name__)

_JSON: Final[Field] = (b"content-type", b"application/json")


class RestPlan(Envelope):
    """The meaning of a head, for any request. `question` None: the answer is `error`, or 405 `allowed`."""

    __slots__ = ("allowed", "error", "question", "request_id", "said", "tf", "timeout_ms", "trace")

    def __init__(self, head: RequestHead) -> None:
        super().__init__(head.fields, head.method, head.path)
        self.question: ModelQuestion | ServerQuestion | None = None
        self.tf: TfQuestion | None = None
        self.error: BerthError | None = None
        self.allowed = ""
        self.said = said_by(head.fields)
        self.request_id = first(head.fields, REQUEST_ID)
        self.timeout_ms = first(head.fields, TIMEOUT_MS)
        self.trace = trace_of(head.fields)
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


def accept(client: Client, stream_id: int, head: RequestHead) -> Inbound:
    """A request whose head has come."""
    terms = client.terms
    base = head.base
    tail = head.fields[len(base.fields) :]
    for name, _ in tail:
        if name not in of.VARIABLE:
            base, tail = head, ()
            break
    plan = base.derived
    if type(plan) is not RestPlan:
        plan = base.derived = RestPlan(base)
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
    inbound.request_id = request_id if given and request_id is not None else terms.ids.new()
    limits = terms.limits
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
        self, plan: RestPlan, client: Client, stream_id: int, length: int | None, expects_continue: bool
    ) -> None:
        question = plan.question
        operation = question.operation if isinstance(question, ModelQuestion) else Operation.INFER
        super().__init__(Wire.REST, operation, plan, client, stream_id)
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
        terms = self.client.terms
        return terms.limits.max_body_bytes if self.plan.tf is None else terms.translator.max_body_bytes

    def check(self) -> None:
        terms = self.client.terms
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
        self.await_body(now, min(terms.limits.body_timeout_s, self.deadline - now))

    def _check_who(self) -> None:
        """Before anything else: who is asking, and for something of theirs?"""
        terms, plan = self.client.terms, self.plan
        if isinstance(plan.question, ModelQuestion):
            terms.forwarder.check(self.operation, self.api_key, self.model, self.version, self.reach)
        elif plan.tf is not None:
            terms.translator.check(plan.tf, self.api_key, self.reach)
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
            self.body = body
            self._task = self.client.terms.tasks.create_task(self._ask_tfserving(plan.tf))
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
        seconds = self.client.terms.limits.body_timeout_s
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
            ready = self.client.terms.ready
            self._give(200 if ready else 503, (_JSON,), metadata.ready_json(ready))
        else:
            self._give(200, (_JSON,), metadata.server_metadata_json())

    async def _ask_tfserving(self, question: TfQuestion) -> None:
        terms = self.client.terms
        try:
            self._check_who()
            reply = await terms.translator.answer(question, self)
        except BerthError as error:
            self.refused(error)
        except Exception:
            # A named boundary: a fault of ours costs one request, not the connection or the process.
            log.exception("request failed", request_id=self.request_id.decode("latin-1"))
            self.refused(Internal("internal error"))
        else:
            self._give_reply(reply)

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
        """The rest of this request is not worth reading."""
        if not self.client.speaks_http2:
            self.client.http.shutdown()

    def _block_of(self, head: ResponseHead) -> bytes:
        read = read_head(head)
        passed = read.written
        if type(passed) is not RestAnswerHead:
            base = head.base
            passed = read.written = RestAnswerHead(base.status, base.fields)
        if self.client.speaks_http2:
            return passed.over_http2 + header_codec.encode(((REQUEST_ID, self.request_id),))
        return b"%bx-request-id: %b\r\n" % (passed.over_http1, self.request_id)

    def _answered(self, status: int) -> None:
        self._record(status)
        self._end()

    def _record(self, status: int) -> None:
        seconds = self.client.common.loop.time() - self.started
        self.client.terms.recorder.answered(Wire.REST, status, seconds, self.request_id, self.model, self.went_to)


class RestAnswerHead:
    """A worker's head, rewritten for clients."""

    __slots__ = ("over_http1", "over_http2")

    def __init__(self, status: int, fields: Fields) -> None:
        passed = of.rest_to_client(fields)
        self.over_http1 = encoding.encode_response(status, passed)
        self.over_http2 = header_codec.encode_response(status, passed)
