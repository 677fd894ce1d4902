"""A worker's inference ports, real ones on loopback, whose answers are scripted: for tests of what calls workers.

Unscripted requests are answered truthfully: every input `x` comes back as output `x`, under the tenant's names.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import grpc.aio
from aiohttp import web
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.ids import VersionKey
from berth.model import ReplicaAddress, Signature
from berth.oip import metadata, rest, rpc
from berth.oip.request import InferResponse

_SERVICE = "inference.GRPCInferenceService"
_SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class Arrived(NamedTuple):
    """One request as it arrived. Header names are in lower case; `body` is the HTTP body or the gRPC message."""

    wire: str
    method: str
    servable: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Answer:
    """How one request is answered. `started` is set when it has arrived, `ended` when it was answered or withdrawn.

    `hold` is waited for first. `status` and `message` refuse: an HTTP status, or the number of a gRPC code.
    """

    hold: asyncio.Event | None = None
    status: int = 0
    message: str = ""
    trailers: tuple[tuple[str, str], ...] = ()
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    withdrawn: bool = False


class ScriptedReplica:
    """Holds the servables in `held`; the others it refuses as not started. `script` is used up before the default.

    All of them have the `signature`, as far as a REST client can see.
    """

    def __init__(self, name: str, held: set[VersionKey]) -> None:
        self.name = name
        self.held = held
        self.signature = Signature((), ())
        self.script: deque[Answer] = deque()
        self.arrived: list[Arrived] = []
        self.address = ReplicaAddress(name, "job", "local", f"{name}-1", "", "", "")

    @asynccontextmanager
    async def _answering(self, arrived: Arrived) -> AsyncIterator[Answer]:
        self.arrived.append(arrived)
        answer = self.script.popleft() if self.script else Answer()
        answer.started.set()
        try:
            if answer.hold is not None:
                await answer.hold.wait()
            yield answer
        except asyncio.CancelledError:
            answer.withdrawn = True
            raise
        finally:
            answer.ended.set()

    def _holds(self, servable: str) -> bool:
        return any(key.servable == servable for key in self.held)

    async def answer_rest(self, request: web.Request) -> web.Response:
        servable = request.match_info["servable"]
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._answering(Arrived("rest", request.method, servable, headers, body)) as answer:
            common = {"berth-replica": self.name, "x-request-id": headers["x-request-id"]}
            if answer.status:
                return web.json_response({"error": answer.message}, status=answer.status, headers=common)
            if not self._holds(servable):
                common["berth-not-started"] = "1"
                return web.json_response({"error": "not held"}, status=503, headers=common)
            key = VersionKey.from_servable(servable)
            if request.method == "GET":
                document = metadata.model_metadata_json(key.model, str(key.version), self.signature)
                return web.Response(body=document, content_type="application/json", headers=common)
            asked = rest.decode_request(body, headers.get(INFERENCE_HEADER_LENGTH_TEXT))
            reply = rest.encode_response(InferResponse(key.model, str(key.version), asked.inputs, asked.id), asked)
            return web.Response(body=reply.content, headers={**common, **reply.headers})

    async def answer_grpc(self, method: str, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = _REQUESTS[method].FromString(message)
        servable = request.model_name if method == "ModelInfer" else request.name
        headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        headers["time-remaining"] = str(context.time_remaining())
        # As a real worker does: the answer's head leaves before the answer is known.
        await context.send_initial_metadata((("berth-replica", self.name), ("x-request-id", "its-own")))
        async with self._answering(Arrived("grpc", method, servable, headers, message)) as answer:
            if answer.status:
                code = next(code for code in grpc.StatusCode if code.value[0] == answer.status)
                await context.abort(code, answer.message, answer.trailers)
            if not self._holds(servable):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not held", (("berth-not-started", "1"),))
            if answer.trailers:
                context.set_trailing_metadata(answer.trailers)
            return _reply(method, VersionKey.from_servable(servable), message)

    @asynccontextmanager
    async def serve(self, credential: PeerCredential) -> AsyncIterator[ScriptedReplica]:
        """Listen on free ports while the context is open; `address` says where."""
        app = web.Application(client_max_size=2**30)
        for path in ("/v2/models/{servable}", "/v2/models/{servable}/ready"):
            app.router.add_get(path, self.answer_rest)
        app.router.add_post("/v2/models/{servable}/infer", self.answer_rest)
        runner = web.AppRunner(
            _guarded(app, credential), access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )
        server = credential.grpc_server(options=(("grpc.max_receive_message_length", -1),))
        handlers = {method: grpc.unary_unary_rpc_method_handler(self._grpc_method(method)) for method in _REQUESTS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        grpc_port = credential.add_port(server, "127.0.0.1:0")
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=credential.server_tls("127.0.0.1:0")).start()
            await server.start()
            self.address = ReplicaAddress(
                self.name,
                "job",
                "local",
                f"{self.name}-1",
                "127.0.0.1:1",
                f"127.0.0.1:{grpc_port}",
                f"127.0.0.1:{runner.addresses[0][1]}",
            )
            yield self
        finally:
            await server.stop(None)
            await runner.cleanup()

    def _grpc_method(self, method: str) -> Any:
        async def handle(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return await self.answer_grpc(method, message, context)

        return handle


@asynccontextmanager
async def dying_port(marker: bytes) -> AsyncIterator[str]:
    """A `host:port` that accepts HTTP/1.1 and HTTP/2 and breaks each connection once `marker` has arrived on it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while marker not in seen:
            chunk = await reader.read(65536)
            if not chunk:
                break
            if not seen and chunk.startswith(b"PRI"):
                writer.write(_SETTINGS_FRAME)
            seen += chunk
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


_REQUESTS: dict[str, Any] = {
    "ModelInfer": service_pb2.ModelInferRequest,
    "ModelMetadata": service_pb2.ModelMetadataRequest,
    "ModelReady": service_pb2.ModelReadyRequest,
}


def _reply(method: str, key: VersionKey, message: bytes) -> bytes:
    reply: Any
    if method == "ModelReady":
        reply = service_pb2.ModelReadyResponse(ready=True)
    elif method == "ModelMetadata":
        reply = service_pb2.ModelMetadataResponse(name=key.model, versions=[str(key.version)])
    else:
        request = rpc.decode_request(rpc.parse_request(message))
        reply = rpc.encode_response(InferResponse(key.model, str(key.version), request.inputs, request.id))
    encoded: bytes = reply.SerializeToString()
    return encoded


def _guarded(app: web.Application, credential: PeerCredential) -> web.Application:
    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        if not credential.accepts(request.headers):
            return web.Response(status=401)
        response: web.StreamResponse = await handler(request)
        return response

    app.middlewares.append(guard)
    return app
