"""A whole router in this process: real feed in, real ports out, scripted replicas behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from berth.auth.keys import digest
from berth.auth.peer import PeerCredential
from berth.ids import ModelKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteTable, Serving, TenantLimits, VersionRoute
from berth.route_delta import snapshot
from berth.states import Role
from doubles.scripted_route_feed import Opened, ScriptedRouteFeed
from router.__main__ import serve
from router.listening.shared_ports import RouterPorts
from router.settings import RouterSettings

TOKEN = "t" * 43


@dataclass
class Rig:
    ports: RouterPorts
    feed: ScriptedRouteFeed
    stream: Opened
    stop: asyncio.Event
    ended: "asyncio.Task[None]"

    @property
    def rest(self) -> str:
        return f"127.0.0.1:{self.ports.rest}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    async def route(self, table: RouteTable) -> None:
        """Have the router route by `table`; returns when it says that it does."""
        self.stream.send(snapshot(table))
        async with asyncio.timeout(10):
            await self.stream.acknowledged(table.order)


Routing = Callable[..., AbstractAsyncContextManager[Rig]]
TableOf = Callable[..., RouteTable]


@pytest.fixture
def credential() -> PeerCredential:
    return PeerCredential.from_token(TOKEN)


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., RouterSettings]:
    def build(feeds: str, **values: object) -> RouterSettings:
        path = tmp_path / "credential"
        path.write_text(TOKEN)
        return RouterSettings.model_validate(
            {
                "route_feeds": feeds,
                "credential_file": path,
                "http_address": "127.0.0.1:0",
                "grpc_address": "127.0.0.1:0",
                "instance": "router-1",
                "drain_s": 1.0,
                "cold_hold_s": 0.0,
                **values,
            }
        )

    return build


@pytest.fixture
def routing(credential: PeerCredential, settings_of: Callable[..., RouterSettings]) -> Routing:
    """`async with routing(table, **settings) as rig`: a router that routes by `table`."""

    @asynccontextmanager
    async def start(
        table: RouteTable | None = None, extra_feed: str | None = None, **values: object
    ) -> AsyncIterator[Rig]:
        async with ScriptedRouteFeed().serve(credential) as feed, asyncio.timeout(60):
            stop = asyncio.Event()
            listening: asyncio.Future[RouterPorts] = asyncio.get_running_loop().create_future()
            feeds = feed.address if extra_feed is None else f"{feed.address},{extra_feed}"
            ended = asyncio.create_task(serve(settings_of(feeds, **values), stop, listening.set_result))
            try:
                both: list[asyncio.Future[Any]] = [ended, listening]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    ended.result()
                rig = Rig(listening.result(), feed, await feed.opened.get(), stop, ended)
                if table is not None:
                    await rig.route(table)
                yield rig
            finally:
                stop.set()
                await ended

    return start


@pytest.fixture
def table_of() -> TableOf:
    """`table_of({"digits": {1: [address, …]}}, generation=1)`: a table of tenant `alice`, whose key is `alice-key`.

    Tenant `bob` (`bob-key`) owns the model `secret`, at the same replicas. The newest version is the default.
    `elsewhere` says which other cells are to hold which versions of a model.
    """

    def build(
        models: Mapping[str, Mapping[int, list[ReplicaAddress]]],
        *,
        generation: int = 1,
        epoch: int = 1,
        limits: tuple[TenantLimits, ...] = (),
        labels: Mapping[str, int] | None = None,
        elsewhere: Mapping[str, Mapping[int, tuple[str, ...]]] | None = None,
    ) -> RouteTable:
        routes: dict[ModelKey, ModelRoute] = {}
        replicas = {address.replica: address for row in models.values() for held in row.values() for address in held}
        for name, held in {**models, "secret": {1: list(replicas.values())}}.items():
            key = ModelKey("bob" if name == "secret" else "alice", name)
            entries = tuple(VersionRoute(number, tuple(a.replica for a in at)) for number, at in held.items())
            default = max((n for n, at in held.items() if at), default=0)
            routes[key] = ModelRoute(
                key, Serving.only(default, labels), entries, elsewhere=dict((elsewhere or {}).get(name, {}))
            )
        keys = [ApiKey(digest(f"{tenant}-key"), tenant, Role.DEVELOPER) for tenant in ("alice", "bob")]
        keys.append(ApiKey(digest("admin-key"), "", Role.ADMIN))
        return RouteTable(
            order=Order(epoch, generation),
            models=routes,
            replicas=replicas,
            keys={key.sha256: key for key in keys},
            limits={entry.tenant: entry for entry in limits},
        )

    return build
