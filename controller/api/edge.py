"""The outermost layer of every request: its id, its limits, its metrics, and the boundary for faults of ours."""

from __future__ import annotations

import asyncio
import re
import secrets
import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from berth.errors import Internal, PayloadTooLarge
from berth.headers import REQUEST_ID
from controller.api.problems import RequestTimeout, respond

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UPLOAD = re.compile(r"/v1/tenants/[^/]+/models/[^/]+/versions")
MAX_JSON_BYTES = 1 << 20
# Seconds that a whole body may take.
BODY_S = 30.0
UPLOAD_S = 3600.0
# How much of a refused body is read before the connection is closed.
_DRAIN_S = 2.0
_DRAIN_BYTES = 256 << 20


class Edge:
    """Wraps the application. Requests are counted by route template, never by path: names are tenants' business."""

    def __init__(self, app: ASGIApp, max_artifact_bytes: int, registry: CollectorRegistry, *, pause_s: float) -> None:
        self._app = app
        self._max_artifact_bytes = max_artifact_bytes
        self._pause_s = pause_s
        labels = ["method", "route", "status"]
        self._requests = Counter("berth_http_requests", "Requests answered", labels, registry=registry)
        self._seconds = Histogram(
            "berth_http_seconds", "Time to the end of the response", ["method", "route"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 499  # as others log a caller who left before the answer
        body = self._body(scope, receive)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
                if not body.complete:
                    await body.drain()
                if not body.complete:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, body.receive, send_marked)
            except ClientDisconnect:
                log.info("the caller left", method=scope["method"])
            except Exception:
                # A named boundary: a fault of ours ends one request. Details go to the log, not to the caller.
                log.exception("request failed", method=scope["method"])
                if status == 499:
                    await respond(Internal("an internal error, see the log"), request_id)(scope, receive, send_marked)
            finally:
                route = getattr(scope.get("route"), "path", "")
                self._requests.labels(scope["method"], route, str(status)).inc()
                self._seconds.labels(scope["method"], route).observe(time.monotonic() - started)

    def _body(self, scope: Scope, receive: Receive) -> _Body:
        upload = scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"]) is not None
        limit, total_s = (self._max_artifact_bytes, UPLOAD_S) if upload else (MAX_JSON_BYTES, BODY_S)
        return _Body(receive, limit=limit, pause_s=self._pause_s, total_s=total_s, declared=_declared_length(scope))


class _Body:
    """A request's body, as large and as slow as is allowed."""

    def __init__(self, receive: Receive, *, limit: int, pause_s: float, total_s: float, declared: int) -> None:
        self._receive = receive
        self._limit = limit
        self._pause_s = pause_s
        self._declared = declared
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + total_s
        self._size = 0
        self.complete = False

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()  # waits for the caller to leave: no time limit
        if self._declared > self._limit:
            raise PayloadTooLarge(
                f"the body has {self._declared} bytes, at most {self._limit} are allowed", limit=self._limit
            )
        try:
            async with asyncio.timeout_at(min(self._ends_at, self._loop.time() + self._pause_s)):
                message = await self._read()
        except TimeoutError:
            raise RequestTimeout("the body stopped arriving, or arrives too slowly") from None
        if self._size > self._limit:
            raise PayloadTooLarge(f"the body is larger than the {self._limit} bytes allowed", limit=self._limit)
        return message

    async def drain(self) -> None:
        """Read a little of a body that nobody wants: otherwise a caller who still sends could not read the refusal."""
        ends_at = self._loop.time() + _DRAIN_S
        most = self._size + _DRAIN_BYTES
        try:
            async with asyncio.timeout_at(ends_at):
                while not self.complete and self._size < most:
                    await self._read()
        except TimeoutError:
            return

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        else:
            self.complete = True  # the caller left
        return message


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _request_id(scope: Scope) -> str:
    given = _header(scope, REQUEST_ID)
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _declared_length(scope: Scope) -> int:
    text = _header(scope, b"content-length")
    return int(text) if text.isascii() and text.isdigit() else 0
