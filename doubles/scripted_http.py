"""A real HTTP server on loopback that answers from a script and keeps what it was asked: for tests of clients."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from berth.errors import BerthError, Retryable, problem


class Asked(NamedTuple):
    """One request as it arrived. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer. `cut` closes the connection after the body, before the answer is complete."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Scripted:
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"})

    @classmethod
    def problem(cls, error: BerthError) -> Scripted:
        headers = {"content-type": "application/problem+json"}
        if isinstance(error, Retryable):
            headers["retry-after"] = str(error.retry_after)
        return cls(error.status.http, json.dumps(problem(error, "r-1")).encode(), headers)


class ScriptedServer:
    """Answers `METHOD /path` with what `script` holds for it, in order; the last answer is repeated."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._script: dict[str, deque[Scripted]] = {}

    def script(self, route: str, *answers: Scripted) -> None:
        """`route` is such as `GET /v1/jobs`."""
        self._script[route] = deque(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers, body))
        answers = self._script.get(f"{request.method} {request.raw_path.partition('?')[0]}")
        if answers is None:
            return web.Response(status=404, text=f"nothing is scripted for {request.method} {request.raw_path}")
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if not answer.cut:
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        if answer.body:
            await response.write(answer.body)
        if request.transport is not None:
            request.transport.close()
        return response


@asynccontextmanager
async def serve_script() -> AsyncIterator[ScriptedServer]:
    """A server on a free port while the context is open."""
    server = ScriptedServer()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
