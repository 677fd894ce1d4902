"""Clients over REST: OIP v2 with the binary extension, served by aiohttp.

A request is refused as early as it can be: key and model are checked before the body is read, and a client that asks
(`Expect: 100-continue`) is told to go on only then. Bodies pass as bytes, compressed or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web

from berth.errors import BerthError, DeadlineExceeded, Internal, InvalidArgument, PayloadTooLarge
from berth.oip import metadata
from berth.oip.errors import error_body, rest_error
from berth.settings import SettingsError
from router.call import Call, Wire
from router.core.paths import ModelQuestion, Operation, ServerQuestion, method_of, parse_path
from router.forward import Forwarder
from router.headers import REQUEST_ID, TIMEOUT_MS, api_key_of, request_id_of, rest_to_worker, timeout_of
from router.record import Recorder

log = structlog.get_logger(__name__)

# Clients keep idle connections about a minute; closing later than they do loses no request.
_KEEP_ALIVE = 90.0
# After an early refusal: how long a sender may go on before the connection is closed under it.
_LINGER = 2.0


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Bytes and seconds; `router.settings` says why."""

    max_body_bytes: int
    body_timeout_s: float
    default_timeout_s: float
    max_timeout_s: float


class _SlowBody(Exception):
    """OIP's answer to it is 408, which no `BerthError` has: it happens before there is a request."""


class RestIngress:
    """Answers HTTP requests. After `drain` each answer closes its connection."""

    def __init__(self, forwarder: Forwarder, recorder: Recorder, limits: RestLimits) -> None:
        self._forwarder = forwarder
        self._recorder = recorder
        self._limits = limits
        self._draining = False

    def drain(self) -> None:
        self._draining = True

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        request_id = request_id_of(request.headers.get(REQUEST_ID))
        model = ""
        try:
            question = parse_path(request.rel_url.raw_path)
            if request.method != method_of(question):
                return self._finish(_method_not_allowed(method_of(question), request_id), request_id, started, model)
            if isinstance(question, ServerQuestion):
                response = self._answer_for_server(question)
            else:
                model = question.model
                response = await self._answer_for_model(request, question, request_id, started)
        except _SlowBody:
            response = _refusal_of_slow_body(self._limits.body_timeout_s)
        except BerthError as error:
            response = _refusal(error, request_id)
        except Exception:
            # A named boundary: a fault of ours costs one request, not the connection or the process.
            log.exception("request failed", request_id=request_id)
            response = _refusal(Internal("internal error"), request_id)
        return self._finish(response, request_id, started, model)

    def _answer_for_server(self, question: ServerQuestion) -> web.Response:
        if question is ServerQuestion.LIVE:
            return _json(metadata.live_json(True))
        if question is ServerQuestion.READY:
            ready = self._forwarder.board.ready and not self._draining
            return _json(metadata.ready_json(ready), 200 if ready else 503)
        return _json(metadata.server_metadata_json())

    async def _answer_for_model(
        self, request: web.BaseRequest, question: ModelQuestion, request_id: str, started: float
    ) -> web.Response:
        headers = request.headers
        limits = self._limits
        api_key = api_key_of(headers)
        # Before anything else: who is asking, and for something of theirs?
        self._forwarder.check(api_key, question.model, question.version)
        timeout = timeout_of(headers.get(TIMEOUT_MS), default=limits.default_timeout_s, longest=limits.max_timeout_s)
        deadline = started + timeout
        body = await self._read_body(request, deadline) if question.operation is Operation.INFER else b""
        reply = await self._forwarder.forward(
            Call(
                wire=Wire.REST,
                operation=question.operation,
                api_key=api_key,
                model=question.model,
                version=question.version,
                body=body,
                headers=rest_to_worker(headers.items(), headers.get("connection", "")),
                request_id=request_id,
                deadline=deadline,
            )
        )
        response = web.Response(status=reply.status, body=reply.body)
        response.headers.update((name, value) for name, value in reply.headers if isinstance(value, str))
        return response

    async def _read_body(self, request: web.BaseRequest, deadline: float) -> bytes:
        limit = self._limits.max_body_bytes
        length = request.content_length
        if length is not None and length > limit:
            raise PayloadTooLarge(f"the body has {length} bytes, {limit} are allowed")
        await _continue_if_expected(request)
        bound = asyncio.get_running_loop().time() + self._limits.body_timeout_s
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout_at(min(bound, deadline)):
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                    if size > limit:
                        raise PayloadTooLarge(f"the body has more than the {limit} bytes that are allowed")
                    chunks.append(chunk)
        except TimeoutError:
            if deadline <= bound:
                raise DeadlineExceeded("the deadline passed before the body had arrived") from None
            raise _SlowBody from None
        except web.RequestPayloadError as error:
            raise InvalidArgument(f"the body is not valid HTTP: {error}") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _finish(self, response: web.Response, request_id: str, started: float, model: str) -> web.Response:
        response.headers[REQUEST_ID] = request_id
        if self._draining or response.status in (408, 413):
            response.force_close()
        seconds = asyncio.get_running_loop().time() - started
        self._recorder.answered(Wire.REST, str(response.status), seconds, request_id=request_id, model=model)
        return response


@asynccontextmanager
async def serve_rest(
    ingress: RestIngress, address: str, *, drain_s: float
) -> AsyncIterator[tuple[int, web.ServerRunner]]:
    """Listen on `host:port`; yield the port and the runner, whose `cleanup` drains for at most `drain_s` seconds.

    Raises `SettingsError` if the port cannot be had.
    """
    server = web.Server(
        ingress.answer,
        handler_cancellation=True,
        access_log=None,
        logger=_quiet(),
        auto_decompress=False,
        keepalive_timeout=_KEEP_ALIVE,
        lingering_time=_LINGER,
    )
    # aiohttp takes 0 for "without end".
    runner = web.ServerRunner(server, shutdown_timeout=max(drain_s, 0.01))
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, ValueError) as error:
            raise SettingsError(f"cannot listen on {address}: {error}") from None
        yield runner.addresses[0][1], runner
    finally:
        await runner.cleanup()


def _quiet() -> logging.Logger:
    """aiohttp logs a traceback for each request that is not HTTP; a stranger must not be able to fill the log."""
    logger = logging.getLogger("router.http")
    logger.setLevel(logging.CRITICAL)
    return logger


async def _continue_if_expected(request: web.BaseRequest) -> None:
    if request.version >= (1, 1) and request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp counts this as body otherwise.
        request.writer.output_size = 0


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _refusal(error: BerthError, request_id: str) -> web.Response:
    status, headers, body = rest_error(error, request_id)
    return web.Response(status=status, headers=headers, body=body)


def _refusal_of_slow_body(seconds: float) -> web.Response:
    return _json(error_body(f"the body did not arrive within {seconds:g} s"), 408)


def _method_not_allowed(allowed: str, request_id: str) -> web.Response:
    response = _json(error_body(f"only {allowed} is allowed here"), 405)
    response.headers["Allow"] = allowed
    return response
