"""Requests to a worker over gRPC, by grpc.aio, bytes in and bytes out."""

from __future__ import annotations

import grpc
import grpc.aio

from berth.auth.peer import PeerCredential
from berth.model import ReplicaAddress
from router.call import Call, Failed, Headers, OpenUpstream, Reply
from router.core.attempts import Failure
from router.core.message import replace_target
from router.core.paths import Operation
from router.headers import NOT_STARTED, REQUEST_ID, grpc_to_client

SERVICE = "inference.GRPCInferenceService"
METHODS = {
    Operation.INFER: "ModelInfer",
    Operation.METADATA: "ModelMetadata",
    Operation.READY: "ModelReady",
}

# Statuses that the library makes up when a connection is lost. A worker means neither by itself: what it refuses
# before starting is marked, and what it answered carries trailers or another code.
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_FAULTY = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
)
# How the library says that no connection was there to send on. If its words change, a copy that never left counts as
# one that may have begun: it costs budget, and is still right.
_NEVER_SENT = ("failed to connect", "connections to all backends failing", "DNS resolution failed")


def open_grpc(credential: PeerCredential) -> OpenUpstream:
    """Makes upstreams that carry `credential`."""
    options = (
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Repeating is the forwarder's decision, within its budget.
        ("grpc.enable_retries", 0),
        # Channels with equal arguments would share connections, and with them the fate of another incarnation.
        ("grpc.use_local_subchannel_pool", 1),
    )

    def open_upstream(address: ReplicaAddress) -> GrpcUpstream:
        return GrpcUpstream(credential.grpc_channel(address.grpc, options), credential.metadata())

    return open_upstream


class GrpcUpstream:
    def __init__(self, channel: grpc.aio.Channel, metadata: Headers) -> None:
        self._channel = channel
        self._metadata = metadata
        self._calls = {operation: channel.unary_unary(f"/{SERVICE}/{method}") for operation, method in METHODS.items()}

    async def send(self, call: Call, servable: str, timeout: float) -> Reply:
        request = replace_target(call.body, servable)
        metadata = (*call.headers, *self._metadata, (REQUEST_ID, call.request_id))
        rpc = self._calls[call.operation](request, metadata=metadata, timeout=max(0.0, timeout))
        try:
            body: bytes = await rpc
        except grpc.aio.AioRpcError as error:
            return _refusal(error)
        return Reply(
            0,
            grpc_to_client(await rpc.initial_metadata()),
            body,
            trailers=grpc_to_client(await rpc.trailing_metadata()),
        )

    async def close(self) -> None:
        await self._channel.close()


def _refusal(error: grpc.aio.AioRpcError) -> Reply:
    """The worker's own status as a reply. Raises `Failed` when it is the library's or the request never began."""
    initial = tuple(error.initial_metadata() or ())
    trailing = tuple(error.trailing_metadata() or ())
    details = error.details() or ""
    if any(name == NOT_STARTED for name, _ in (*initial, *trailing)):
        raise Failed(Failure.NOT_STARTED, details) from error
    if not trailing and (error.code() in _LOST or _is_reset(error.code(), details)):
        never_sent = not initial and any(words in details for words in _NEVER_SENT)
        raise Failed(Failure.UNREACHED if never_sent else Failure.BROKEN, details) from error
    code = error.code()
    return Reply(
        code.value[0],
        grpc_to_client(initial),
        b"",
        trailers=grpc_to_client(trailing),
        message=details,
        faulty=code in _FAULTY,
    )


def _is_reset(code: grpc.StatusCode, details: str) -> bool:
    return code is grpc.StatusCode.INTERNAL and "RST_STREAM" in details
