"""A connection to a Triton server, whoever runs it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

_NOTHING = grpc.aio.Metadata()
# Triton takes frequent pings on an idle connection for abuse and hangs up; on loopback nobody vanishes silently. Nor is
# a connection ever idle enough to be given up: it may have been made with certificates that have since been replaced.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
)


class TritonLink:
    """Calls methods of OIP, and of Triton's extensions to it, on a channel that it owns."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._channel = channel
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def __repr__(self) -> str:
        return f"<TritonLink {self.address}>"

    async def call(self, method: str, request: Any, timeout: float | None = None, **options: Any) -> Any:
        """Raises `AioRpcError`, and that also when the link is closed meanwhile."""
        try:
            return await getattr(self._stub, method)(request, timeout=timeout, **options)
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, and tells the callers that it was they who were cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, _NOTHING, _NOTHING, "tritonserver ended")

    async def close(self) -> None:
        await self._channel.close()


async def failure_of(call: Any) -> grpc.aio.AioRpcError | None:
    """Await a call and return its failure, if any. Its answer is of no interest."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None
