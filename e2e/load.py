"""Load on a stack's routers, the way clients behind a load balancer send it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from berth.demo.load import (
    Inputs,
    LoadSample,
    LoadTarget,
    RequestFailed,
    SteadyLoad,
    VersionedAnswer,
    open_targets,
    steady_load,
)
from e2e.stack import Stack

X: Inputs = {"x": np.ones((1, 4), np.float32)}
# What a client sees of a router that is gone. Everything else is an answer, and counts.
_GONE = ("ClientConnectorError", "ClientOSError", "ServerDisconnectedError", "ClientPayloadError", "UNAVAILABLE: ")
_SAID_BY_A_ROUTER = ("no replica", "not loaded", "routes yet", "lost before it answered")


@dataclass(slots=True)
class Either:
    """Sends to one router, and to the next if that one is gone, as a load balancer does with its backends.

    `elsewhere` counts how often that was needed: requests that a client with one connection would have lost.
    """

    routers: Sequence[LoadTarget]
    elsewhere: int = 0

    @property
    def protocol(self) -> str:
        return self.routers[0].protocol

    async def ask(self, inputs: Inputs) -> VersionedAnswer:
        for router in self.routers[:-1]:
            try:
                return await router.ask(inputs)
            except RequestFailed as failure:
                if not _is_gone(str(failure)):
                    raise
                self.elsewhere += 1
        return await self.routers[-1].ask(inputs)


def _is_gone(failure: str) -> bool:
    return failure.startswith(_GONE) and not any(text in failure for text in _SAID_BY_A_ROUTER)


@asynccontextmanager
async def load_on(stack: Stack, key: str, model: str, rate: float = 60) -> AsyncIterator[SteadyLoad]:
    """`rate` requests a second for `model`, half over REST and half over gRPC, over all routers of the stack."""
    routers = stack.named("router")
    rest = [f"http://127.0.0.1:{router.ports['http']}" for router in routers]
    rpc = [f"127.0.0.1:{router.ports['grpc']}" for router in routers]
    async with open_targets(model=model, key=key, rest_urls=rest, grpc_targets=rpc) as targets:
        halves = targets[: len(routers)], targets[len(routers) :]
        both = [Either((*half[turn:], *half[:turn])) for turn in range(len(routers)) for half in halves]
        async with steady_load(both, [X], rate) as load:
            yield load


def account(load: SteadyLoad) -> str:
    """What became of a load's requests, in a few words."""
    elsewhere = sum(target.elsewhere for target in load.targets if isinstance(target, Either))
    failed = len(failures(load.samples))
    return f"{len(load.samples)} requests, {failed} failed, {elsewhere} sent again on another connection"


def failures(samples: Sequence[LoadSample]) -> list[str]:
    """What went wrong, one line a request."""
    return [f"at {sample.ended_at:.3f} over {sample.protocol}: {sample.error}" for sample in samples if sample.error]
