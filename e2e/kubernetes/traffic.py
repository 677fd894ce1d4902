"""Load on a service of the cluster, as clients outside send it: every request counts, and its replica is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from berth.demo.load import SteadyLoad, open_targets, steady_load
from e2e.load import Either, X

CLIENTS = 4


@asynccontextmanager
async def load_on(host: str, key: str, model: str, rate: float = 60) -> AsyncIterator[SteadyLoad]:
    """`rate` requests a second for `model` at the routers' address `host`, half over REST and half over gRPC.

    Each client has two connections, which the service's forwarder spreads over routers, and uses the other one when a
    router is gone: it sees two addresses, as it would behind DNS.
    """
    rest, rpc = [f"http://{host}:8000"] * CLIENTS, [f"{host}:8001"] * CLIENTS
    async with open_targets(model=model, key=key, rest_urls=rest, grpc_targets=rpc) as targets:
        halves = targets[:CLIENTS], targets[CLIENTS:]
        pairs = [Either((half[turn], half[(turn + 1) % CLIENTS])) for turn in range(CLIENTS) for half in halves]
        async with steady_load(pairs, [X], rate) as load:
            yield load
