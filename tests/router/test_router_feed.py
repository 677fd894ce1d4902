"""The route feed, over real gRPC: what is applied, what is acknowledged, and what stays when everyone is gone."""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from berth.auth.peer import PeerCredential
from berth.model import NEVER, Order, ReplicaAddress
from berth.route_delta import difference, snapshot
from berth.settings import SettingsError
from doubles.scripted_route_feed import ScriptedRouteFeed
from router.control.table_file import load_table, save_table
from router.settings import RouterSettings

W1 = ReplicaAddress("w1", "job", "local", "1", "", "127.0.0.1:1", "127.0.0.1:1")


async def statuses(address: str, *models: str) -> list[int]:
    """What metadata questions get: 404 for unknown, 503 for routed to W1 (nobody listens there)."""
    async with aiohttp.ClientSession(headers={"authorization": "Bearer alice-key"}) as session:
        found = []
        for model in models:
            async with session.get(f"http://{address}/v2/models/{model}") as response:
                found.append(response.status)
        return found


async def test_snapshot_then_deltas(routing: Any, table_of: Any) -> None:
    async with routing(patience_s=0.0) as rig:
        assert rig.stream.router == "router-1"
        assert rig.stream.first == NEVER
        assert await statuses(rig.rest, "a") == [503]
        one = table_of({"a": {1: [W1]}}, generation=5)
        await rig.route(one)
        assert await statuses(rig.rest, "a", "b") == [503, 404]
        two = table_of({"b": {1: [W1]}}, generation=6)
        rig.stream.send(difference(one, two))
        await rig.stream.acknowledged(Order(1, 6))
        assert await statuses(rig.rest, "a", "b") == [404, 503]
        # Older news is no news, and is not acknowledged as new.
        rig.stream.send(snapshot(one))
        three = table_of({"c": {1: [W1]}}, generation=9)
        rig.stream.send(difference(two, three))
        await rig.stream.acknowledged(Order(1, 9))
        assert await statuses(rig.rest, "a", "b", "c") == [404, 404, 503]
        assert rig.stream.heard == [Order(1, 5), Order(1, 6), Order(1, 9)]


async def test_a_gap_is_closed_by_a_snapshot(routing: Any, table_of: Any) -> None:
    async with routing(table_of({"a": {1: [W1]}}, generation=5), patience_s=0.0) as rig:
        seven, eight = (table_of({name: {1: [W1]}}, generation=g) for name, g in (("b", 7), ("c", 8)))
        rig.stream.send(difference(seven, eight))
        again = await rig.feed.opened.get()
        assert again.first == NEVER
        assert await statuses(rig.rest, "a", "c") == [503, 404]
        again.send(snapshot(eight))
        await again.acknowledged(Order(1, 8))
        assert await statuses(rig.rest, "a", "c") == [404, 503]


async def test_a_reconnecting_router_says_what_it_has(routing: Any, table_of: Any) -> None:
    async with routing(table_of({"a": {1: [W1]}}, generation=5), patience_s=0.0) as rig:
        rig.stream.close()
        again = await rig.feed.opened.get()
        assert again.first == Order(1, 5)
        assert await statuses(rig.rest, "a") == [503]


async def test_the_highest_epoch_wins_and_every_synchronizer_hears(
    credential: PeerCredential, routing: Any, table_of: Any
) -> None:
    old = table_of({"a": {1: [W1]}}, generation=50)
    async with (
        ScriptedRouteFeed().serve(credential) as other,
        routing(old, patience_s=0.0, extra_feed=other.address) as rig,
    ):
        successor = await other.opened.get()
        if successor.first != old.order:
            await successor.acknowledged(old.order)
        successor.send(snapshot(table_of({"b": {1: [W1]}}, epoch=2, generation=3)))
        await rig.stream.acknowledged(Order(2, 3))
        # The deposed one speaks on; nobody listens.
        rig.stream.send(difference(old, table_of({"c": {1: [W1]}}, generation=51)))
        rig.stream.send(snapshot(table_of({"c": {1: [W1]}}, generation=52)))
        successor.send(snapshot(table_of({"d": {1: [W1]}}, epoch=2, generation=4)))
        await rig.stream.acknowledged(Order(2, 4))
        assert await statuses(rig.rest, "a", "b", "c", "d") == [404, 404, 404, 503]
        assert rig.feed.opened.empty()


async def test_the_table_outlives_its_synchronizer(credential: PeerCredential, routing: Any, table_of: Any) -> None:
    async with AsyncExitStack() as stack:
        leader = await stack.enter_async_context(ScriptedRouteFeed().serve(credential))
        async with routing(patience_s=0.0, extra_feed=leader.address) as rig:
            stream = await leader.opened.get()
            stream.send(snapshot(table_of({"a": {1: [W1]}}, generation=5)))
            await stream.acknowledged(Order(1, 5))
            await stack.aclose()
            # The other one is closed too, and asked again: the loss has been noticed.
            rig.stream.close()
            assert (await rig.feed.opened.get()).first == Order(1, 5)
            assert await statuses(rig.rest, "a", "b") == [503, 404]


async def test_a_large_snapshot(routing: Any, table_of: Any) -> None:
    table = table_of({f"m{number}": {1: [W1]} for number in range(5000)}, generation=2)
    async with routing(table, patience_s=0.0) as rig:
        assert await statuses(rig.rest, "m0", "m4999", "m5000") == [503, 503, 404]


async def test_a_restarted_router_serves_from_disk_until_a_feed_speaks(
    tmp_path: Path, routing: Any, table_of: Any
) -> None:
    state = tmp_path / "state"
    save_table(state, table_of({"a": {1: [W1]}}, epoch=7, generation=5))
    async with routing(patience_s=0.0, state_dir=state) as rig:
        # Silent as a standby is; and a new world may have begun its epochs anew.
        assert rig.stream.first == NEVER
        assert await statuses(rig.rest, "a", "b") == [503, 404]
        await rig.route(table_of({"b": {1: [W1]}}, epoch=1, generation=1))
        assert await statuses(rig.rest, "a", "b") == [404, 503]


async def test_a_table_that_a_feed_brought_is_kept(tmp_path: Path, routing: Any, table_of: Any) -> None:
    state = tmp_path / "state"
    table = table_of({"a": {1: [W1], 2: []}}, generation=5, labels={"stable": 1})
    async with routing(table, state_dir=state) as rig:
        while (saved := load_table(state)) is None:
            await statuses(rig.rest, "a")
    assert saved == replace(table, order=NEVER)
    assert (state / "routes.bin").stat().st_mode & 0o777 == 0o600
    assert b"alice-key" not in (state / "routes.bin").read_bytes()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:], lambda b: b"", lambda b: b"x" * 9]
)
def test_a_damaged_file_is_no_table(tmp_path: Path, table_of: Any, damage: Callable[[bytes], bytes]) -> None:
    assert load_table(tmp_path) is None
    save_table(tmp_path, table_of({"a": {1: [W1]}}))
    assert load_table(tmp_path) is not None
    path = tmp_path / "routes.bin"
    path.write_bytes(damage(path.read_bytes()))
    assert load_table(tmp_path) is None


async def test_a_taken_port_is_said_plainly(routing: Any) -> None:
    async with routing() as rig:
        for setting, address in (("http_address", rig.rest), ("grpc_address", rig.grpc)):
            with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
                await routing(**{setting: address}).__aenter__()


@pytest.mark.parametrize("feeds", ["", " , ", "nowhere"])
def test_feeds_are_required(feeds: str) -> None:
    with pytest.raises(SettingsError, match="BERTH_ROUTE_FEEDS"):
        RouterSettings.load({"BERTH_ROUTE_FEEDS": feeds})


def test_feeds_are_split() -> None:
    assert RouterSettings.load({"BERTH_ROUTE_FEEDS": "a:1, b:2,"}).feeds == ("a:1", "b:2")


async def test_the_process_ends_as_asked(tmp_path: Path, credential: PeerCredential, table_of: Any) -> None:
    """`python -m router`: waits for a table, serves, and leaves with 0 on SIGTERM."""
    (tmp_path / "credential").write_text("t" * 43)
    async with ScriptedRouteFeed().serve(credential) as feed, asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "router",
            env={
                "BERTH_ROUTE_FEEDS": feed.address,
                "BERTH_CREDENTIAL_FILE": str(tmp_path / "credential"),
                "BERTH_HTTP_ADDRESS": "127.0.0.1:0",
                "BERTH_GRPC_ADDRESS": "127.0.0.1:0",
                "BERTH_INSTANCE": "r7",
            },
            stderr=asyncio.subprocess.PIPE,
        )
        stream = await feed.opened.get()
        assert stream.router == "r7"
        stream.send(snapshot(table_of({"a": {1: [W1]}})))
        await stream.acknowledged(Order(1, 1))
        assert process.stderr is not None
        lines = []
        async for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "listening":
                assert await statuses(f"127.0.0.1:{lines[-1]['rest_port']}", "b") == [404]
                process.terminate()
        assert await process.wait() == 0, lines
        assert [line["event"] for line in lines][-1] == "stopped"
