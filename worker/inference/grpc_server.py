"""OIP over gRPC, under servable names. Messages are taken as bytes, so that a malformed one gets an answer of ours."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.errors import BerthError, InvalidArgument
from berth.oip import metadata, rpc
from berth.oip.errors import grpc_status
from berth.oip.request import InferRequest, InferResponse
from worker.inference.answering import Answering, NotStarted, request_id, servable_key
from worker.inference.rest_server import NOT_STARTED, REPLICA, REQUEST_ID

SERVICE = "inference.GRPCInferenceService"

# Framing and metadata of a message whose tensors fill the limit.
_ENVELOPE_BYTES = 64 * 1024

_Context: TypeAlias = grpc.aio.ServicerContext
_Method = Callable[[bytes, _Context], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def serve_grpc(
    answering: Answering, credential: PeerCredential, address: str, *, max_body_bytes: int, drain_s: float
) -> AsyncIterator[int]:
    """Listen on `host:port` while the context is open, and yield the port. Leaving it drains for `drain_s` seconds."""
    server = credential.grpc_server(
        options=(
            ("grpc.max_receive_message_length", max_body_bytes + _ENVELOPE_BYTES),
            # What a model gives is not the client's fault, and is already in memory.
            ("grpc.max_send_message_length", -1),
        )
    )
    server.add_generic_rpc_handlers((_Handlers(answering),))
    port = credential.add_port(server, address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(drain_s)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        methods: dict[str, _Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        self._methods = {f"/{SERVICE}/{name}": self._framed(method) for name, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        found = self._methods.get(handler_call_details.method)
        return _unimplemented(handler_call_details.method) if found is None else found

    def _framed(self, method: _Method) -> grpc.RpcMethodHandler:
        """What every answer has in common: request id, replica, and the status of an error."""

        async def handle(raw: bytes, context: _Context) -> bytes:
            given = dict(context.invocation_metadata() or ()).get(REQUEST_ID)
            rid = request_id(given if isinstance(given, str) else None)
            with structlog.contextvars.bound_contextvars(request_id=rid):
                await context.send_initial_metadata(((REQUEST_ID, rid), (REPLICA, self._answering.replica)))
                try:
                    return await method(raw, context)
                except BerthError as error:
                    await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _server_live(self, raw: bytes, _: _Context) -> bytes:
        _parse(service_pb2.ServerLiveRequest, raw)
        return _bytes(service_pb2.ServerLiveResponse(live=True))

    async def _server_ready(self, raw: bytes, _: _Context) -> bytes:
        _parse(service_pb2.ServerReadyRequest, raw)
        return _bytes(service_pb2.ServerReadyResponse(ready=True))

    async def _server_metadata(self, raw: bytes, _: _Context) -> bytes:
        _parse(service_pb2.ServerMetadataRequest, raw)
        return _bytes(metadata.server_metadata_message())

    async def _model_ready(self, raw: bytes, _: _Context) -> bytes:
        message = _parse(service_pb2.ModelReadyRequest, raw)
        return _bytes(service_pb2.ModelReadyResponse(ready=self._answering.holds(servable_key(message.name))))

    async def _model_metadata(self, raw: bytes, _: _Context) -> bytes:
        message = _parse(service_pb2.ModelMetadataRequest, raw)
        key = servable_key(message.name)
        signature = self._answering.signature(key)
        return _bytes(metadata.model_metadata_message(key.model, str(key.version), signature))

    async def _model_infer(self, raw: bytes, context: _Context) -> bytes:
        message = rpc.parse_request(raw)
        key = servable_key(message.model_name)

        def decode() -> InferRequest:
            return rpc.decode_request(message)

        def encode(response: InferResponse, _: InferRequest) -> bytes:
            return _bytes(rpc.encode_response(response))

        return await self._answering.answer(
            key, decode, encode, protocol="grpc", size=len(raw), timeout=context.time_remaining()
        )


def _unimplemented(method: str) -> grpc.RpcMethodHandler:
    name = method.rpartition("/")[2]
    known = name in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    detail = f"{name} is not served here" if known else f"there is no method {method[:200]}"

    async def refuse(_: Any, context: _Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, detail)

    # Accepts any number of messages either way, whatever kind of method the client took it for.
    return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: _Context, error: BerthError) -> NoReturn:
    code, detail = grpc_status(error)
    trailing = ((NOT_STARTED, "1"),) if isinstance(error, NotStarted) else ()
    await context.abort(code, detail, trailing_metadata=trailing)
    raise AssertionError("abort raises")


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidArgument(f"the message is not a {kind.DESCRIPTOR.name}") from None


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
