"""The desired feed over real gRPC: leases, fencing, and states that arrive when they change."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import psycopg
import pytest

from berth.auth.peer import PeerCredential
from berth.model import ObservedCell, TenantLimits
from berth.wire import convert
from berth.wire.v1 import desired_pb2, desired_pb2_grpc
from controller.store.address import libpq_url


async def lease(controller: Any, holder: str, ttl: float = 30, *, cell: str = "local", release: bool = False) -> Any:
    return await controller.feed.Lease(
        desired_pb2.LeaseRequest(cell=cell, holder=holder, ttl_seconds=ttl, release=release),
        metadata=controller.credential.metadata(),
    )


def watch(controller: Any, known: int = 0) -> Any:
    return controller.feed.WatchDesired(
        desired_pb2.WatchDesiredRequest(cell="local", known_generation=known), metadata=controller.credential.metadata()
    )


async def test_one_holder_at_a_time_and_every_change_is_a_new_epoch(controller: Any) -> None:
    first = await lease(controller, "a")
    assert (first.granted, first.epoch) == (True, 1)
    renewed = await lease(controller, "a")
    assert (renewed.granted, renewed.epoch) == (True, 1)
    refused = await lease(controller, "b")
    assert (refused.granted, refused.epoch) == (False, 1)
    assert 25 < refused.expires_in_seconds <= 30
    assert not (await lease(controller, "b", release=True)).granted
    assert not (await lease(controller, "b")).granted
    await lease(controller, "a", release=True)
    taken = await lease(controller, "b")
    assert (taken.granted, taken.epoch) == (True, 2)
    assert not (await lease(controller, "a")).granted
    assert (await lease(controller, "a", cell="other")).epoch == 1


async def test_an_expired_lease_is_taken_over(controller: Any) -> None:
    await lease(controller, "a")
    refused = await lease(controller, "b")
    assert (refused.granted, refused.epoch) == (False, 1)
    # Its seconds pass by the database's clock.
    with psycopg.connect(libpq_url(controller.settings.database_url), autocommit=True) as connection:
        connection.execute("UPDATE leases SET expires_at = now() WHERE cell = 'local'")
    taken = await lease(controller, "b")
    assert (taken.granted, taken.epoch) == (True, 2)


async def test_of_many_at_once_one_gets_the_lease(controller: Any) -> None:
    replies = await asyncio.gather(*(lease(controller, f"holder-{number}") for number in range(8)))
    assert sum(reply.granted for reply in replies) == 1
    assert {reply.epoch for reply in replies} == {1}


@pytest.mark.parametrize(
    ("cell", "holder", "ttl"), [("Bad Cell", "a", 3.0), ("local", "", 3.0), ("local", "a", 0.0), ("local", "a", 1e9)]
)
async def test_wrong_leases_are_refused(controller: Any, cell: str, holder: str, ttl: float) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lease(controller, holder, ttl, cell=cell)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deposed_reporter_is_stopped(controller: Any) -> None:
    await controller.lead("old")
    await controller.report()
    await lease(controller, "old", release=True)
    old = controller.epoch
    await controller.lead("new")
    controller.epoch = old
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.report()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    controller.epoch = old + 1
    await controller.report()


async def test_a_reporter_that_never_led_is_stopped(controller: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.report()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_epoch_given_elsewhere_is_gone_on_from(controller: Any) -> None:
    """A Lease in the cluster decides who leads the cell, or did until now."""
    await controller.lead("ours")
    ours = controller.epoch
    controller.epoch = ours + 40
    await controller.report()
    await controller.report()
    controller.epoch = ours
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.report()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    taken = await lease(controller, "ours")
    assert (taken.granted, taken.epoch) == (True, ours + 41)
    controller.epoch = taken.epoch
    await controller.report()


async def test_reports_stream_and_are_counted(controller: Any) -> None:
    await controller.lead()
    message = convert.observed_to_wire(ObservedCell("local", controller.epoch, 1, (), ()))
    summary = await controller.feed.ReportObserved(iter([message] * 3), metadata=controller.credential.metadata())
    assert summary.reports == 3


async def test_a_report_that_makes_no_sense_is_refused(controller: Any) -> None:
    await controller.lead()
    message = desired_pb2.ObservedCell(cell="local", epoch=controller.epoch)
    message.replicas.add().status.servables.add(state="dancing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await controller.feed.ReportObserved(iter([message]), metadata=controller.credential.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_changes_reach_watchers_at_once_and_states_are_shared(controller: Any) -> None:
    calls = [watch(controller) for _ in range(3)]
    first = [await call.read() for call in calls]
    assert len({state.generation for state in first}) == 1
    assert [job.name for job in first[0].jobs] == ["pool"]
    loop = asyncio.get_running_loop()
    started = loop.time()
    await controller.job("second")
    second = [await call.read() for call in calls]
    assert loop.time() - started < 1.5, "a notification is faster than the poll"
    assert [job.name for job in second[0].jobs] == ["pool", "second"]
    assert second[0].generation > first[0].generation
    for call in calls:
        call.cancel()


async def test_a_watcher_that_knows_the_state_waits_for_the_next(controller: Any) -> None:
    known = (await controller.desired()).generation
    call = watch(controller, known)
    reading = asyncio.create_task(call.read())
    await controller.job("second")
    async with asyncio.timeout(10):
        assert (await reading).generation > known
    call.cancel()


async def test_another_controllers_changes_reach_watchers_too(controller: Any, start_controller: Any) -> None:
    other = await start_controller()
    call = watch(other)
    before = await call.read()
    await controller.tenant("acme")
    async with asyncio.timeout(10):
        state = before
        while "acme" not in {entry.tenant for entry in state.keys}:
            state = await call.read()
    assert state.generation > before.generation
    call.cancel()


async def test_limits_and_keys_are_part_of_the_state(controller: Any) -> None:
    await controller.tenant("acme")
    (before,) = convert.desired_from_wire(await controller.desired()).limits
    assert (before.bytes_per_second, before.weight) == (0.0, 1.0)
    quota = {"requests_per_second": 5, "max_concurrent": 2, "bytes_per_second": 1e6, "weight": 2.5}
    patched = await controller.api.patch("/v1/tenants/acme", json={"quota": quota})
    assert patched.json()["quota"] == {"max_models": 1000, "max_bytes": 1 << 40, **quota}
    state = convert.desired_from_wire(await controller.desired())
    (limits,) = state.limits
    assert limits == TenantLimits("acme", 5.0, 2, 1e6, 2.5)
    assert {(key.tenant, str(key.role)) for key in state.keys} == {("", "admin"), ("acme", "developer")}


async def test_strangers_are_refused(controller: Any) -> None:
    target = controller.feed_target
    async with PeerCredential.from_token("x" * 43).grpc_channel(target) as channel:
        stub = desired_pb2_grpc.DesiredFeedStub(channel)
        for metadata in ((), (("berth-credential", "x" * 43),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Lease(desired_pb2.LeaseRequest(cell="local", holder="a", ttl_seconds=3), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
