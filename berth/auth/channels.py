"""A gRPC channel that outlives the certificates it was made with."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from berth.auth.certificates import Certificates, Material


class RotatingChannel(grpc.aio.Channel):
    """Makes each call on a channel with the certificates of its moment; calls under way stay where they began.

    gRPC binds a channel to its certificates for good. One that was replaced lives until its last call is over.
    """

    def __init__(self, certificates: Certificates, connect: Callable[[Material], grpc.aio.Channel]) -> None:
        self._certificates = certificates
        self._connect = connect
        self._material = certificates.current()
        self._channel = connect(self._material)
        self._replaced: weakref.WeakSet[grpc.aio.Channel] = weakref.WeakSet()
        self._closed = False

    def __repr__(self) -> str:
        return f"<RotatingChannel {self._certificates!r} replaced={len(self._replaced)}>"

    async def __aenter__(self) -> RotatingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        for channel in (*self._replaced, self._channel):
            await channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._now().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._now().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._now().channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls("unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls("unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls("stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls("stream_stream", args, kwargs)

    def _calls(self, kind: str, args: Any, kwargs: Any) -> Callable[..., Any]:
        def call(*request: Any, **options: Any) -> Any:
            channel = self._now()
            made = getattr(channel, kind)(*args, **kwargs)(*request, **options)
            # A channel that nobody refers to is closed: the call refers to it for as long as it is awaited.
            made.add_done_callback(lambda _, keep=channel: None)
            return made

        return call

    def _now(self) -> grpc.aio.Channel:
        material = self._certificates.current()
        if material is not self._material and not self._closed:
            self._replaced.add(self._channel)
            self._material, self._channel = material, self._connect(material)
        return self._channel
