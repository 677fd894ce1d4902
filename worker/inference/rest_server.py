"""OIP over REST, under servable names. Bodies are bounded in bytes and in time; every answer names the replica."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from berth.auth.peer import PeerCredential
from berth.errors import BerthError, DeadlineExceeded, InvalidArgument, PayloadTooLarge, Unauthenticated
from berth.oip import metadata, rest
from berth.oip.errors import error_body, rest_error
from berth.oip.request import InferRequest
from worker.inference.answering import Answering, NotStarted, request_id, servable_key

log = structlog.get_logger(__name__)

REPLICA = "berth-replica"
REQUEST_ID = "x-request-id"
TIMEOUT_MS = "berth-timeout-ms"
NOT_STARTED = "berth-not-started"

# Longer than a router keeps an idle connection, so that it is the router that closes: a connection closed here just
# as a request is on its way costs that request a retry.
_KEEPALIVE_S = 120.0
# How long the rest of a refused body is read and dropped, so that a client still sending it gets to see the refusal.
_LINGER_S = 2.0


@contextlib.asynccontextmanager
async def serve_rest(
    answering: Answering,
    credential: PeerCredential,
    address: str,
    *,
    max_body_bytes: int,
    body_timeout_s: float,
    drain_s: float,
) -> AsyncIterator[int]:
    """Listen on `host:port` while the context is open, and yield the port. Leaving it drains for `drain_s` seconds."""
    frame = _framed(answering.replica, credential, max_body_bytes)
    app = web.Application(client_max_size=max_body_bytes, middlewares=[frame])
    app.add_routes(_Routes(answering, body_timeout_s).table())
    # Without handler_cancellation a client that hangs up leaves its run to go on.
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=_LINGER_S,
        shutdown_timeout=drain_s,
    )
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=credential.server_tls(address))
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _framed(replica: str, credential: PeerCredential, max_body_bytes: int) -> Middleware:
    """What every answer has in common: credential, request id, replica, and OIP's form of an error."""

    @web.middleware
    async def frame(request: web.Request, handler: Handler) -> web.StreamResponse:
        rid = request_id(request.headers.get(REQUEST_ID))
        with structlog.contextvars.bound_contextvars(request_id=rid):
            response = await answer(request, handler, rid)
        response.headers[REQUEST_ID] = rid
        response.headers[REPLICA] = replica
        return response

    async def answer(request: web.Request, handler: Handler, rid: str) -> web.StreamResponse:
        try:
            if not credential.accepts(request.headers):
                raise Unauthenticated("this port is for the deployment's own processes")
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(PayloadTooLarge(f"the body is larger than {max_body_bytes} bytes"), rid)
        except web.HTTPException as error:
            # aiohttp's own refusals, such as an unknown path or method.
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            detail = f"{request.method} {request.path[:200]}: {error.reason}"
            return web.Response(
                status=error.status, headers=headers, body=error_body(detail), content_type="application/json"
            )
        except BerthError as error:
            return _refuse(error, rid)

    return frame


class _Routes:
    def __init__(self, answering: Answering, body_timeout_s: float) -> None:
        self._answering = answering
        self._body_timeout_s = body_timeout_s

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/v2", self.server_metadata),
            web.get("/v2/health/live", self.live),
            web.get("/v2/health/ready", self.ready),
            web.get("/v2/models/{servable}", self.model_metadata),
            web.get("/v2/models/{servable}/ready", self.model_ready),
            web.post("/v2/models/{servable}/infer", self.infer),
        ]

    async def server_metadata(self, _: web.Request) -> web.Response:
        return _json(metadata.server_metadata_json())

    async def live(self, _: web.Request) -> web.Response:
        return _json(metadata.live_json(True))

    async def ready(self, _: web.Request) -> web.Response:
        return _json(metadata.ready_json(True))

    async def model_metadata(self, request: web.Request) -> web.Response:
        key = servable_key(request.match_info["servable"])
        signature = self._answering.signature(key)
        return _json(metadata.model_metadata_json(key.model, str(key.version), signature))

    async def model_ready(self, request: web.Request) -> web.Response:
        key = servable_key(request.match_info["servable"])
        held = self._answering.holds(key)
        return _json(metadata.model_ready_json(key.model, held), status=200 if held else 503)

    async def infer(self, request: web.Request) -> web.Response:
        key = servable_key(request.match_info["servable"])
        deadline = _deadline(request.headers.get(TIMEOUT_MS))
        body = await self._read(request, deadline)
        if body is None:
            return _slow(self._body_timeout_s)
        header_length = request.headers.get(rest.HEADER_LENGTH)

        def decode() -> InferRequest:
            return rest.decode_request(body, header_length)

        timeout = None if deadline is None else deadline - asyncio.get_running_loop().time()
        answer = await self._answering.answer(
            key, decode, rest.encode_response, protocol="rest", size=len(body), timeout=timeout
        )
        return web.Response(body=answer.content, headers=answer.headers)

    async def _read(self, request: web.Request, deadline: float | None) -> bytes | None:
        """The body; None if it did not arrive in time. Raises `DeadlineExceeded` if the request's own time was up."""
        bound = asyncio.get_running_loop().time() + self._body_timeout_s
        try:
            async with asyncio.timeout_at(bound if deadline is None else min(bound, deadline)):
                return await request.read()
        except TimeoutError:
            if deadline is not None and deadline <= bound:
                raise DeadlineExceeded("the deadline passed before the body had arrived") from None
            return None


def _deadline(header: str | None) -> float | None:
    """When the request's time is up, on the loop's clock."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit()) or len(header) > 12:
        raise InvalidArgument(f"{TIMEOUT_MS} is a number of milliseconds, not {header[:40]!r}")
    return asyncio.get_running_loop().time() + int(header) / 1_000


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _refuse(error: BerthError, rid: str) -> web.Response:
    status, headers, body = rest_error(error, rid)
    if isinstance(error, NotStarted):
        headers[NOT_STARTED] = "1"
    return web.Response(status=status, headers=headers, body=body)


def _slow(seconds: float) -> web.Response:
    response = web.Response(
        status=408, body=error_body(f"the body did not arrive within {seconds:g} s"), content_type="application/json"
    )
    response.force_close()
    return response
