"""Clients over gRPC: inference.GRPCInferenceService, served by grpc.aio with bytes in and bytes out.

Messages are never decoded: the model's name is read from the outermost fields and replaced by appending to them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from berth.errors import BerthError, Internal, Retryable, Unavailable
from berth.oip import metadata
from berth.oip.errors import grpc_status
from berth.settings import SettingsError
from router.call import Call, Headers, Reply, Wire
from router.core.message import read_target
from router.core.paths import Operation
from router.forward import Forwarder
from router.grpc_upstream import METHODS, SERVICE
from router.headers import REQUEST_ID, api_key_of, grpc_to_worker, request_id_of
from router.record import Recorder

log = structlog.get_logger(__name__)

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_Context: TypeAlias = grpc.aio.ServicerContext
_Answer = Callable[[bytes, _Context], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Bytes and seconds; `router.settings` says why."""

    max_message_bytes: int
    default_timeout_s: float
    max_timeout_s: float


class GrpcIngress(grpc.GenericRpcHandler):
    """Answers the methods of the service that Berth has; the library answers UNIMPLEMENTED to the others."""

    def __init__(self, forwarder: Forwarder, recorder: Recorder, limits: GrpcLimits) -> None:
        self._forwarder = forwarder
        self._recorder = recorder
        self._limits = limits
        self._draining = False
        local: dict[str, Callable[[], bytes]] = {
            "ServerLive": lambda: _bytes(service_pb2.ServerLiveResponse(live=True)),
            "ServerReady": lambda: _bytes(service_pb2.ServerReadyResponse(ready=self._ready())),
            "ServerMetadata": lambda: _bytes(metadata.server_metadata_message()),
        }
        handlers = {name: _unary(self._answering_locally(answer)) for name, answer in local.items()}
        handlers |= {name: _unary(self._answering_for(operation)) for operation, name in METHODS.items()}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_refuse_stream)
        self._handlers = {f"/{SERVICE}/{name}": handler for name, handler in handlers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def drain(self) -> None:
        self._draining = True

    def _ready(self) -> bool:
        return self._forwarder.board.ready and not self._draining

    def _answering_locally(self, answer: Callable[[], bytes]) -> _Answer:
        async def handle(_: bytes, __: _Context) -> bytes:
            return answer()

        return handle

    def _answering_for(self, operation: Operation) -> _Answer:
        async def handle(message: bytes, context: _Context) -> bytes:
            started = asyncio.get_running_loop().time()
            given = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
            request_id = request_id_of(given.get(REQUEST_ID))
            model = ""
            try:
                model, version = read_target(message)
                reply = await self._forwarder.forward(
                    Call(
                        wire=Wire.GRPC,
                        operation=operation,
                        api_key=api_key_of(given),
                        model=model,
                        version=version,
                        body=message,
                        headers=grpc_to_worker(context.invocation_metadata() or ()),
                        request_id=request_id,
                        deadline=started + self._timeout(context),
                    )
                )
            except BerthError as error:
                reply = _reply_to(operation, error)
            except Exception:
                # A named boundary: a fault of ours costs one request.
                log.exception("request failed", request_id=request_id)
                reply = _reply_to(operation, Internal("internal error"))
            code = _CODES[reply.status]
            seconds = asyncio.get_running_loop().time() - started
            self._recorder.answered(Wire.GRPC, code.name, seconds, request_id=request_id, model=model)
            await context.send_initial_metadata((*reply.headers, (REQUEST_ID, request_id)))
            if code is not grpc.StatusCode.OK:
                await context.abort(code, reply.message, reply.trailers)
            if reply.trailers:
                context.set_trailing_metadata(reply.trailers)
            return reply.body

        return handle

    def _timeout(self, context: _Context) -> float:
        remaining: float | None = context.time_remaining()
        return min(self._limits.default_timeout_s if remaining is None else remaining, self._limits.max_timeout_s)


@asynccontextmanager
async def serve_grpc(
    ingress: GrpcIngress, address: str, limits: GrpcLimits
) -> AsyncIterator[tuple[int, grpc.aio.Server]]:
    """Listen on `host:port`; yield the port and the server, whose `stop(grace)` drains.

    Raises `SettingsError` if the port cannot be had.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            # A client may ping idle connections to keep them through a balancer, but not flood.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        )
    )
    server.add_generic_rpc_handlers((ingress,))
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    await server.start()
    try:
        yield port, server
    finally:
        await server.stop(None)


def _unary(answer: _Answer) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(answer)


def _reply_to(operation: Operation, error: BerthError) -> Reply:
    if operation is Operation.READY and isinstance(error, Unavailable):
        # A question that has an answer: not now. (An empty message is `ready: false`.)
        return Reply(0, (), b"")
    code, details = grpc_status(error)
    trailers: Headers = ()
    if isinstance(error, Retryable):
        trailers = (("retry-after", str(max(1, math.ceil(error.retry_after)))),)
    return Reply(code.value[0], (), b"", trailers=trailers, message=details)


async def _refuse_stream(_: Any, context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ModelStreamInfer is not served: use ModelInfer")


def _bytes(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
