"""A pass-through of grpc.aio, bytes in and bytes out, targets in turn: `python -m bench.peers.grpc_aio PORT TARGET…`.

What a router costs that leaves HTTP/2 to the library, when it does nothing else at all.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from bench.payload import GRPC_PATH
from bench.peers.launch import Side, Upstream, free_ports, started

_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@asynccontextmanager
async def start(upstreams: Sequence[Upstream], folder: Path, cores: str) -> AsyncIterator[Side]:
    ports = free_ports(http=False)
    argv = [sys.executable, "-m", __name__, str(ports.grpc), *(upstream.grpc for upstream in upstreams)]
    async with started("grpc.aio", argv, ports, folder=folder, cores=cores) as (side, _):
        yield side


class _PassThrough(grpc.GenericRpcHandler):
    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._calls = itertools.cycle([channel.unary_unary(GRPC_PATH) for channel in channels])
        self._handler = grpc.unary_unary_rpc_method_handler(self._forward)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handler if handler_call_details.method == GRPC_PATH else None

    async def _forward(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        reply: bytes = await next(self._calls)(request, timeout=context.time_remaining())
        return reply


async def main(port: int, targets: Sequence[str]) -> None:
    channels = [grpc.aio.insecure_channel(target, options=_UNLIMITED) for target in targets]
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers((_PassThrough(channels),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
