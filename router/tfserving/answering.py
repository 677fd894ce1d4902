"""Answers requests of TensorFlow Serving's clients by asking a worker in OIP. The shell around the translation.

The translation costs what forwarding does not: CPU, and memory of several times the body. So bodies have a limit of
their own, and two shared threads work on the large ones. The version's signature gives rows their types; it is asked
for once and remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import NamedTuple, TypeVar

from berth.errors import (
    BerthError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PayloadTooLarge,
    Unavailable,
)
from berth.headers import AUTHORIZATION, CONTENT_TYPE_TEXT, DEFAULT_ANSWER_TEXT, INFERENCE_HEADER_LENGTH_TEXT, NO_HEDGE
from berth.http.compression import inflate
from berth.http.head import Fields, first
from berth.ids import VersionKey
from berth.model import Signature
from router.core.paths import Operation
from router.core.routes import ANYWHERE, ELSEWHERE, NotLoaded, Resolved
from router.core.tfserving import TfQuestion, Verb, metadata_document, read_signature, status_document
from router.path.answer import Reply
from router.path.answering.default import hurried
from router.path.race.forward import Awaited, Forwarder
from router.path.request import NO_ENVELOPE, Envelope, Request, Wire

T = TypeVar("T")

# Below this many bytes the work is done before a thread would have begun it.
_INLINE_BYTES = 64 * 1024
_THREADS = 2
_SIGNATURES = 4_096
# Raw tensors of an answer against the limit of bodies: as JSON they are two to five times as large again.
_ANSWER_FACTOR = 4
_JSON = (CONTENT_TYPE_TEXT, "application/json")
# They describe the body of the client or of the worker: neither body is passed on.
_OF_THE_BODY = frozenset(
    {CONTENT_TYPE_TEXT, "content-encoding", INFERENCE_HEADER_LENGTH_TEXT, "accept", "accept-encoding"}
)


# Who asks and how: repeated to everyone who is asked for the same request.
_OF_THE_CLIENT = frozenset({AUTHORIZATION, NO_HEDGE})


class _Asked(NamedTuple):
    """A request; its body unpacked, and the deadline that leaves time for a default answer."""

    question: TfQuestion
    request: Request
    body: bytes
    deadline: float


class _Refused(Exception):
    """A replica's refusal, which the client is to see as it is: OIP's errors look like TensorFlow Serving's."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class TfServing:
    """One per process. `max_body_bytes` bounds a body, also unpacked; `close` gives the threads back."""

    def __init__(self, forwarder: Forwarder, max_body_bytes: int) -> None:
        self._forwarder = forwarder
        self._board = forwarder.means.board
        self.max_body_bytes = max_body_bytes
        # Of versions, whose numbers are never given out twice: nothing here is ever out of date.
        self._signatures: OrderedDict[VersionKey, Signature] = OrderedDict()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tfserving")
        self._prepared = False

    def __repr__(self) -> str:
        return f"<TfServing signatures={len(self._signatures)}>"

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, question: TfQuestion, api_key: bytes | None, reach: int = ANYWHERE) -> None:
        """Raise the errors of `answer` that need no body: a request can be refused before its body is read."""
        if question.verb.has_body:
            self._forwarder.check(Operation.INFER, api_key, question.model, question.version, reach)

    async def answer(self, question: TfQuestion, asked: Request) -> Reply:
        """The answer. Raises `BerthError`. Cancelling it withdraws what is under way."""
        answering = self._forwarder.means.answering
        if question.verb is Verb.STATUS and not self._is_elsewhere(question, asked):
            return Reply(200, (_JSON,), status_document(self._board.routes.table, asked.api_key, question))
        operation = Operation.INFER if question.verb.has_body else Operation.METADATA
        default = answering.default_of(operation, asked.api_key, question.model)
        deadline = hurried(asked.deadline, asyncio.get_running_loop().time()) if default else asked.deadline
        whole = _Asked(question, asked, _unpacked(asked, self.max_body_bytes), deadline)
        refusal: BerthError
        try:
            async with asyncio.timeout_at(deadline):
                return await self._answer(whole)
        except _Refused as refused:
            return refused.reply
        except TimeoutError:
            refusal = DeadlineExceeded("the deadline passed before the model answered")
        except (DeadlineExceeded, Unavailable) as error:
            refusal = error
        if not default:
            raise refusal
        try:
            return await self._default(whole, default)
        except InvalidArgument:
            # It does not fit the request, for example in its number of rows.
            raise refusal from None

    async def _answer(self, asked: _Asked) -> Reply:
        """Rows are typed by the signature of one version, so that version is asked, and the next one if it has gone."""
        while True:
            resolved = await self._resolve(asked)
            if not resolved.replicas:
                return await self._pass_on(asked, resolved)
            try:
                if asked.question.verb is Verb.METADATA:
                    signature = await self._signature(asked, resolved.key)
                    return Reply(200, (_JSON,), metadata_document(resolved.key, signature))
                return await self._infer(asked, resolved.key)
            except (NotFound, Unavailable):
                if asked.question.version == str(resolved.key.version) or self._still(asked, resolved.key):
                    raise

    async def _pass_on(self, asked: _Asked, resolved: Resolved) -> Reply:
        """Nothing is translated here: rows are typed where the version is."""
        if asked.question.verb.has_body:
            self._forwarder.means.gate.wish_for(resolved)
        came = asked.request.envelope
        # The body is unpacked by now.
        fields = tuple(field for field in came.fields if field[0] != b"content-encoding")
        question = _question(asked, Operation.OTHER, asked.question.version, Envelope(fields, came.method, came.path))
        question.body, question.reach = asked.body, ELSEWHERE
        return await self._forwarder.forward(question)

    def _is_elsewhere(self, question: TfQuestion, asked: Request) -> bool:
        """Whether other cells have the version or the model, and this one is to have none of it."""
        try:
            resolved = self._board.routes.resolve(asked.api_key, question.model, question.version, asked.reach)
        except BerthError:
            return False
        return not resolved.replicas and not resolved.assigned

    async def _resolve(self, asked: _Asked) -> Resolved:
        """The version to ask, once it is loaded."""
        question, request = asked.question, asked.request
        try:
            return self._board.routes.resolve(request.api_key, question.model, question.version, request.reach)
        except NotLoaded:
            if not question.verb.has_body:
                raise
        # A place in the queue for the version, and a wish to load it; given back as soon as it is loaded.
        gate = self._forwarder.means.gate
        waiting = Request(Wire.REST, Operation.INFER, NO_ENVELOPE)
        _fill(waiting, asked, question.version)
        waiting.body = asked.body
        gate.leave(await gate.admit(waiting))
        return self._board.routes.resolve(request.api_key, question.model, question.version, request.reach)

    def _still(self, asked: _Asked, key: VersionKey) -> bool:
        """Whether the question still resolves to that version: then asking again would bring the same."""
        question, request = asked.question, asked.request
        resolved = self._board.routes.resolve(request.api_key, question.model, question.version, request.reach)
        return resolved.key == key

    async def _signature(self, asked: _Asked, key: VersionKey) -> Signature:
        """What the version takes and gives. Requests that come at the same time each ask: it is a short question."""
        known = self._signatures.get(key)
        if known is not None:
            self._signatures.move_to_end(key)
            return known
        fields = tuple(field for field in asked.request.envelope.fields if field[0] in _OF_THE_CLIENT)
        reply = await self._forwarder.forward(_question(asked, Operation.METADATA, str(key.version), Envelope(fields)))
        if reply.status != 200:
            raise _Refused(reply)
        try:
            signature = read_signature(reply.body)
        except ValueError as error:
            raise Internal("the replica's description of the model cannot be read") from error
        self._signatures[key] = signature
        if len(self._signatures) > _SIGNATURES:
            self._signatures.popitem(last=False)
        return signature

    async def _infer(self, asked: _Asked, key: VersionKey) -> Reply:
        await self._prepare()
        from router.tfserving.translate import Translation

        signature = await self._signature(asked, key)
        translation = Translation(asked.question.verb, signature)
        content, described = await self._work(len(asked.body), lambda: translation.to_worker(asked.body))
        passed = tuple(field for field in asked.request.envelope.fields if field[0].decode() not in _OF_THE_BODY)
        fields: Fields = tuple((name.lower().encode(), value.encode()) for name, value in described.items())
        question = _question(asked, Operation.INFER, str(key.version), Envelope((*passed, *fields)))
        question.body = content
        reply = await self._forwarder.forward(question)
        if reply.status != 200:
            raise _Refused(reply)
        if len(reply.body) > _ANSWER_FACTOR * self.max_body_bytes:
            raise InvalidArgument(f"the answer has {len(reply.body)} bytes, too many for JSON: ask in OIP, binary")
        length = next((str(value) for name, value in reply.headers if name == INFERENCE_HEADER_LENGTH_TEXT), None)
        written = await self._work(len(reply.body), lambda: translation.to_client(reply.body, length))
        kept = tuple(pair for pair in reply.headers if pair[0] not in _OF_THE_BODY)
        return Reply(200, (*kept, _JSON), written)

    async def _default(self, asked: _Asked, default: bytes) -> Reply:
        """The model's default answer, in the format of the request. No replica was asked, or none answered."""
        await self._prepare()
        from router.tfserving.translate import write_default

        written = await self._work(len(asked.body), lambda: write_default(asked.question.verb, asked.body, default))
        self._forwarder.means.answering.count_default()
        return Reply(200, (_JSON, (DEFAULT_ANSWER_TEXT, "1")), written)

    async def _prepare(self) -> None:
        """Do the heavy imports off the event loop, before the first request that needs them: they take 0.2 s."""
        if not self._prepared:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, import_module, "router.tfserving.translate")
            self._prepared = True

    async def _work(self, size: int, work: Callable[[], T]) -> T:
        if size <= _INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _question(asked: _Asked, operation: Operation, version: str, envelope: Envelope) -> Awaited:
    """One that the router itself asks, for the same client and until the same time."""
    question = Awaited(Wire.REST, operation, envelope)
    _fill(question, asked, version)
    return question


def _fill(question: Request, asked: _Asked, version: str) -> None:
    request = asked.request
    question.api_key = request.api_key
    question.model, question.version = asked.question.model, version
    question.request_id, question.trace = request.request_id, request.trace
    question.deadline = asked.deadline
    question.hedge = request.hedge
    question.reach, question.sender = request.reach, request.sender


def _unpacked(asked: Request, limit: int) -> bytes:
    """The body as JSON, at most `limit` bytes of it."""
    given = first(asked.envelope.fields, b"content-encoding") or b""
    encoding = given.decode("latin-1").strip().lower()
    if encoding in ("", "identity"):
        return asked.body
    if encoding not in ("gzip", "deflate"):
        raise InvalidArgument(f"Content-Encoding is gzip or deflate, not {encoding[:40]!a}")
    try:
        return inflate(asked.body, limit)
    except OverflowError:
        raise PayloadTooLarge(f"the body has, unpacked, more than the {limit} bytes that are allowed") from None
    except ValueError as error:
        raise InvalidArgument(f"the body is not {encoding}: {error}") from None
