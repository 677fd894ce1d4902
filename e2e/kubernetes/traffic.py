"""Load on a service of the cluster, as clients outside send it: every request counts, and its replica is known.

`BERTH_KEY=… python -m e2e.kubernetes.traffic HOST MODEL SECONDS` sends some by hand and says what became of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from berth.demo.load import SteadyLoad, open_targets, steady_load, summarize
from berth.settings import environment
from e2e.load import Either, X, account

CLIENTS = 4


@asynccontextmanager
async def load_on(
    host: str, key: str, model: str, rate: float = 60, most_in_flight: int = 256
) -> AsyncIterator[SteadyLoad]:
    """`rate` requests a second for `model` at the routers' address `host`, half over REST and half over gRPC.

    Each client has connections of its own and uses those of the next client when its router is gone: it sees two
    addresses, as it would behind DNS. Clients begin one after the other, so the service's forwarder, which gives each
    new connection to the next router, puts neighbours on different ones.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                open_targets(model=model, key=key, rest_urls=[f"http://{host}:8000"], grpc_targets=[f"{host}:8001"])
            )
            for _ in range(CLIENTS)
        ]
        neighbours = zip(clients, [*clients[1:], clients[0]], strict=True)
        pairs = [Either(pair) for own, other in neighbours for pair in zip(own, other, strict=True)]
        yield await stack.enter_async_context(steady_load(pairs, [X], rate, most_in_flight))


async def _send(host: str, key: str, model: str, seconds: float) -> None:
    async with load_on(host, key, model) as load:
        await asyncio.sleep(seconds)
    print(f"{account(load)}; answered by {len(summarize(load.samples).replicas)} replicas")


if __name__ == "__main__":
    _, _host, _model, _seconds = sys.argv
    asyncio.run(_send(_host, environment()["BERTH_KEY"], _model, float(_seconds)))
