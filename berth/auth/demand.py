"""What a gRPC server asks of every call before its handler sees it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from berth.auth.contexts import carries

_KINDS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class Demand(grpc.aio.ServerInterceptor):
    """Refuses calls whose metadata `accepts` does not accept, or whose certificate does not carry `peer_name`."""

    def __init__(self, accepts: Callable[[Mapping[str, str]], bool], peer_name: str = "") -> None:
        self._accepts = accepts
        self._peer_name = peer_name

        async def refuse_stream(_: Any, context: Any) -> None:
            await _refuse(context)

        self._refusal = grpc.stream_stream_rpc_method_handler(refuse_stream)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        if not self._accepts(metadata):
            return self._refusal
        handler = await continuation(handler_call_details)
        return self._guarded(handler) if self._peer_name and handler is not None else handler

    def _guarded(self, handler: Any) -> grpc.RpcMethodHandler:
        """`handler` behind a look at the peer's certificate, which only the call's context shows."""
        name, make = _KINDS[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, name)

        async def answer(request: Any, context: Any) -> Any:
            await self._check(context)
            return await inner(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context)
            async for reply in inner(request, context):
                yield reply

        guarded = answers if inspect.isasyncgenfunction(inner) else answer
        made: grpc.RpcMethodHandler = make(guarded, handler.request_deserializer, handler.response_serializer)
        return made

    async def _check(self, context: Any) -> None:
        names = context.auth_context().get("x509_subject_alternative_name", ())
        if not carries([name.decode("utf-8", "replace") for name in names], self._peer_name):
            await _refuse(context)


async def _refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this port is for the deployment's own processes")
