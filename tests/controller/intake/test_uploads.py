"""Uploads whose controller is lost, stalls or stops, and the quota while they are under way. PostgreSQL is real."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Table, func, select, text, update

from berth.errors import DigestMismatch, QuotaExceeded, RateLimited, Unauthenticated, UnsupportedArtifact
from berth.ids import ModelKey
from berth.states import Role, Runtime
from controller.core.commands import START
from controller.core.intake import MAX_LOSSES, MAX_UNDER_WAY, InspectedModel, Requester
from controller.core.jobs import NewJob
from controller.core.quota import Quota
from controller.intake.removal import REMOVAL_LOCK, Removal
from controller.intake.transitions import UploadTakenOver, begin
from controller.loops.housekeeping import Housekeeping
from controller.store import cells, jobs, schema
from controller.store import keys as store_keys
from controller.store import tenants as store_tenants
from controller.store.transaction import Transactions, Tx
from controller.usecases import tenants
from doubles.mortal_intake import Inspection, Lost, Moment, MortalIntake, incoming
from doubles.onnx_models import identity

MODEL = identity()
OTHER = identity(shape=(2,))
DIGEST = hashlib.sha256(MODEL).hexdigest()
QUOTA = Quota(max_models=10, max_bytes=1 << 30)
JOB = NewJob("local", Runtime.ONNXRUNTIME, "cpu", 1, 1 << 30)

Start = Callable[..., MortalIntake]


class Left(NamedTuple):
    """What there is: versions, uploads under way, artifacts announced, objects stored, files spooled."""

    versions: int
    uploads: int
    artifacts: int
    objects: int
    spooled: int


NOTHING = Left(0, 0, 0, 0, 0)
ONE_VERSION = Left(1, 0, 1, 1, 0)


@pytest.fixture
async def start(database_url: str, tmp_path: Path, transactions: Transactions) -> AsyncIterator[Start]:
    """Starts intakes on one database and one artifact store."""
    await _prepare(transactions)
    async with AsyncExitStack() as stack:

        def start(name: str, moment: Moment | None = None, inspect: Inspection | None = None) -> MortalIntake:
            made = MortalIntake(database_url, tmp_path, name, moment, inspect=inspect)
            stack.push_async_callback(made.close)
            return made

        yield start


async def _prepare(transactions: Transactions) -> None:
    async def use_case(tx: Tx) -> None:
        await tenants.create(tx, START, "acme", QUOTA)
        await store_keys.add(tx, "acme", "key-1", bytes(32), role=Role.DEVELOPER, description="")
        await cells.ensure(tx, "local")
        await jobs.add(tx, "pool", JOB)

    await transactions.run(use_case, fleet=True)


async def _set_quota(transactions: Transactions, max_bytes: int) -> None:
    async def use_case(tx: Tx) -> None:
        await tx.execute(update(schema.tenants).values(max_bytes=max_bytes))

    await transactions.run(use_case)


async def _end_leases(transactions: Transactions) -> None:
    """As after so many seconds of silence."""

    async def use_case(tx: Tx) -> None:
        await tx.execute(text("UPDATE uploads SET lease_until = clock_timestamp() - interval '1 second'"))

    await transactions.run(use_case)


async def _take_over(transactions: Transactions, by: MortalIntake) -> None:
    await _end_leases(transactions)
    for upload in await by.resuming.sweep():
        await by.resuming.look(upload)


async def _left(transactions: Transactions, tmp_path: Path) -> Left:
    async def count(tx: Tx, table: Table) -> int:
        return int((await tx.execute(select(func.count()).select_from(table))).scalar_one())

    async def query(tx: Tx) -> tuple[int, int, int]:
        return await count(tx, schema.versions), await count(tx, schema.uploads), await count(tx, schema.artifacts)

    return Left(*await transactions.read(query), *_files(tmp_path))


def _files(root: Path) -> tuple[int, int]:
    stored = [path for path in (root / "artifacts").rglob("*") if path.is_file()]
    return len(stored), len(list(root.glob("spool-*/*")))


async def _collect(transactions: Transactions, intake: MortalIntake) -> None:
    """As housekeeping does when nobody has touched an artifact for an hour."""
    await Housekeeping(transactions, intake.artifacts, intake.spool).tidy(timedelta(0))


@pytest.mark.parametrize(
    ("moment", "finished"),
    [
        (Moment.BEGUN, False),
        (Moment.RECEIVED, False),
        (Moment.PUT, True),
        (Moment.STORED, True),
        (Moment.INSPECTED, True),
        (Moment.PLACED, True),
    ],
)
@pytest.mark.parametrize("key", ["build-7", None])
async def test_a_lost_controllers_upload_is_finished_once_or_leaves_nothing(
    start: Start, transactions: Transactions, tmp_path: Path, moment: Moment, finished: bool, key: str | None
) -> None:
    first, second = start("first", moment), start("second")
    with pytest.raises(Lost):
        await first.upload(MODEL, key)
    # While its lease lasts nobody else touches it.
    assert await second.resuming.sweep() == []
    await _take_over(transactions, second)
    await _collect(transactions, second)
    # Without a key nobody could ask for the version; one that was committed before the loss is there all the same.
    there = finished and (key is not None or moment is Moment.PLACED)
    assert await _left(transactions, tmp_path) == (ONE_VERSION if there else NOTHING)
    # The client heard nothing, and sends it again.
    answer = await second.upload(MODEL, key)
    assert answer.replayed == (there and key is not None)
    assert answer.body["version"] == (2 if there and key is None else 1)
    assert (await _left(transactions, tmp_path)).uploads == 0


@pytest.mark.parametrize("moment", [Moment.STORED, Moment.INSPECTED])
async def test_a_repeat_before_the_lease_ends_makes_the_version_and_the_take_over_none(
    start: Start, transactions: Transactions, tmp_path: Path, moment: Moment
) -> None:
    await _set_quota(transactions, len(MODEL))  # for one: the same request is counted once
    first, second = start("first", moment), start("second")
    with pytest.raises(Lost):
        await first.upload(MODEL, "build-7")
    answer = await second.upload(MODEL, "build-7")
    assert (answer.body["version"], answer.replayed) == (1, False)
    await _take_over(transactions, second)
    await _collect(transactions, second)
    assert await _left(transactions, tmp_path) == ONE_VERSION


async def test_two_take_over_at_once_and_one_does(start: Start, transactions: Transactions, tmp_path: Path) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.STORED).upload(MODEL, "build-7")
    await _end_leases(transactions)
    second, third = start("second"), start("third")
    (upload,) = await second.resuming.sweep()
    await asyncio.gather(*(intake.resuming.look(upload) for intake in (second, third, second)))
    assert await _left(transactions, tmp_path) == ONE_VERSION
    await third.resuming.look(upload)  # late
    assert await _left(transactions, tmp_path) == ONE_VERSION


async def test_one_that_takes_over_is_lost_too(start: Start, transactions: Transactions, tmp_path: Path) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.STORED).upload(MODEL, "build-7")
    with pytest.raises(Lost):
        await _take_over(transactions, start("second", Moment.INSPECTED))
    await _take_over(transactions, start("third"))
    assert await _left(transactions, tmp_path) == ONE_VERSION


async def test_what_takes_its_controllers_along_is_withdrawn(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.STORED).upload(MODEL, "build-7")
    for number in range(MAX_LOSSES - 1):
        # Lost as soon as it has taken over: the claim says "stored".
        with pytest.raises(Lost):
            await _take_over(transactions, start(f"next-{number}", Moment.STORED))
    survivor = start("survivor")
    await _take_over(transactions, survivor)
    assert await _left(transactions, tmp_path) == NOTHING


async def test_a_stalled_controller_records_nothing_once_another_has_taken_over(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    first, second = start("first"), start("second")
    first.artifacts.may_put.clear()
    stalled = asyncio.create_task(first.upload(MODEL, "build-7"))
    await first.artifacts.putting.wait()
    await _take_over(transactions, second)  # its bytes are nowhere: withdrawn
    first.artifacts.may_put.set()
    with pytest.raises(UploadTakenOver):
        await stalled
    # What it stored too late is known to the collector.
    await _collect(transactions, second)
    assert await _left(transactions, tmp_path) == NOTHING
    assert (await second.upload(MODEL, "build-7")).body["version"] == 1


@pytest.mark.parametrize("key", ["build-7", None])
async def test_a_controller_that_stops_hands_over_at_once(
    start: Start, transactions: Transactions, tmp_path: Path, key: str | None
) -> None:
    second, reached = start("second"), asyncio.Event()

    async def never_ends(path: Path) -> InspectedModel:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError(path)

    first = start("first", inspect=never_ends)
    uploading = asyncio.create_task(first.upload(MODEL, key))
    await reached.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    found = await second.resuming.sweep()  # without waiting for the lease
    assert len(found) == (1 if key else 0)
    for upload in found:
        await second.resuming.look(upload)
    assert await _left(transactions, tmp_path) == (ONE_VERSION if key else NOTHING)


async def test_refused_bytes_are_gone_at_once_unless_someone_else_has_the_same(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    intake = start("first")
    with pytest.raises(UnsupportedArtifact):
        await intake.upload(b"no model", "build-7")
    assert await _left(transactions, tmp_path) == NOTHING
    await intake.upload(MODEL, None)
    await _set_quota(transactions, len(MODEL))
    with pytest.raises(QuotaExceeded):
        await intake.upload(MODEL, None)
    # Refused at the last step, with the bytes stored: the quota became less meanwhile.
    await _set_quota(transactions, 1 << 30)
    intake.artifacts.may_put.clear()
    late = asyncio.create_task(intake.upload(MODEL, None))
    await intake.artifacts.putting.wait()
    await _set_quota(transactions, len(MODEL))
    intake.artifacts.may_put.set()
    with pytest.raises(QuotaExceeded):
        await late
    assert await _left(transactions, tmp_path) == ONE_VERSION


async def test_uploads_at_once_cannot_exceed_the_quota_together(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    await _set_quota(transactions, 2 * len(MODEL) + 1)
    intake = start("first")
    intake.artifacts.may_put.clear()
    read = []

    async def body(number: int) -> AsyncIterator[bytes]:
        read.append(number)
        yield MODEL

    async def upload(number: int) -> object:
        ask = incoming(MODEL, None, f"m{number}", len(MODEL))
        return await intake.receiving.receive(ask, body(number))

    under_way = [asyncio.create_task(upload(number)) for number in range(5)]
    finished = asyncio.as_completed(under_way)
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            await next(finished)
    assert len(read) == 2  # of the others not a byte was read
    intake.artifacts.may_put.set()
    placed = [task for task in under_way if not task.done()]
    assert {answer.body["version"] for answer in await asyncio.gather(*placed)} == {1}  # type: ignore[attr-defined]
    assert await _left(transactions, tmp_path) == Left(2, 0, 1, 1, 0)


async def test_uploads_at_once_take_turns_instead_of_running_again(start: Start) -> None:
    intake = start("first")
    answers = await asyncio.gather(*(intake.upload(MODEL, None, f"m{number % 5}") for number in range(15)))
    assert {answer.status for answer in answers} == {201}
    assert intake.transactions.retries == 0


async def test_a_body_of_unknown_length_is_asked_for_as_it_grows(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    await _set_quota(transactions, (2 << 20) + 1)
    intake = start("first")
    spooled = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            spooled.append(sum(path.stat().st_size for path in intake.spool.iterdir()))
            yield b"x" * (1 << 20)

    with pytest.raises(QuotaExceeded) as refusal:
        await intake.receiving.receive(incoming(b"", "build-7"), body())
    assert refusal.value.fields["used"] == 0
    assert max(spooled) <= 2 << 20
    assert len(spooled) == 3
    assert await _left(transactions, tmp_path) == NOTHING
    assert (await intake.upload(MODEL, "build-7", declared=False)).body["version"] == 1


async def test_a_broken_upload_frees_its_reservation(start: Start, transactions: Transactions, tmp_path: Path) -> None:
    await _set_quota(transactions, 1000)
    intake = start("first")

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError

    for key in ("build-7", None, "build-7"):
        with pytest.raises(ConnectionResetError):
            await intake.receiving.receive(incoming(b"", key, declared_bytes=1000), broken())
        with pytest.raises(DigestMismatch):
            await intake.receiving.receive(incoming(OTHER, key, declared_bytes=1000), _once(MODEL))
        assert await _left(transactions, tmp_path) == NOTHING


async def test_a_tenant_has_so_many_uploads_at_once(transactions: Transactions) -> None:
    await _prepare(transactions)
    key, requester = ModelKey("acme", "digits"), Requester(incoming(b"", None).requester.command)
    for _ in range(MAX_UNDER_WAY):
        assert await transactions.run(lambda tx: begin(tx, key, requester, 0, "first")) is not None
    with pytest.raises(RateLimited):
        await transactions.run(lambda tx: begin(tx, key, requester, 0, "first"))


@pytest.mark.parametrize("moment", [Moment.RECEIVED, Moment.STORED, Moment.INSPECTED, Moment.PLACED])
async def test_a_killed_process(
    start: Start, database_url: str, transactions: Transactions, tmp_path: Path, moment: Moment
) -> None:
    command = [sys.executable, "-m", "doubles.mortal_intake", database_url, str(tmp_path), str(moment), "build-7"]
    killed = await asyncio.to_thread(
        subprocess.run, command, input=MODEL, timeout=120, check=False, capture_output=True, cwd=_ROOT
    )
    assert killed.returncode == -9, killed.stderr
    second = start("second")
    await _take_over(transactions, second)
    answer = await second.upload(MODEL, "build-7")
    assert (answer.body["version"], answer.replayed) == (1, moment is not Moment.RECEIVED)
    # Of the killed one a file stays in its own spool, until a sweep of that folder.
    assert (await _left(transactions, tmp_path))._replace(spooled=0) == ONE_VERSION


async def test_a_step_of_a_later_release_is_left_to_controllers_that_know_it(
    start: Start, transactions: Transactions
) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.INSPECTED).upload(MODEL, "build-7")
    await transactions.run(lambda tx: tx.execute(update(schema.uploads).values(step="probed")), uploads=True)
    await _end_leases(transactions)
    assert await start("second").resuming.sweep() == []


async def test_a_tenant_deleted_meanwhile_leaves_nothing(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    """Only models keep a tenant from being deleted. Its keys go with it, and another of its name has other keys."""
    intake = start("first")
    intake.artifacts.may_put.clear()
    under_way = asyncio.create_task(intake.upload(MODEL, "build-7"))
    await intake.artifacts.putting.wait()

    async def replace_tenant(tx: Tx) -> None:
        await store_tenants.remove(tx, "acme")
        await tenants.create(tx, START, "acme", QUOTA)

    await transactions.run(replace_tenant, fleet=True)
    intake.artifacts.may_put.set()
    with pytest.raises(Unauthenticated):
        await under_way
    assert await _left(transactions, tmp_path) == NOTHING


async def test_a_key_revoked_meanwhile_makes_no_version(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.STORED).upload(MODEL, "build-7")
    await transactions.run(lambda tx: store_keys.revoke(tx, "acme", "key-1"))
    await _take_over(transactions, start("second"))
    assert (await _left(transactions, tmp_path))._replace(spooled=0) == NOTHING


async def test_one_idempotency_key_is_a_request_to_one_model(start: Start, transactions: Transactions) -> None:
    intake = start("first")
    await _set_quota(transactions, len(MODEL) + len(MODEL) // 2)
    intake.artifacts.may_put.clear()
    under_way = asyncio.create_task(intake.upload(MODEL, "build-7", "digits"))
    await intake.artifacts.putting.wait()
    with pytest.raises(QuotaExceeded):
        await intake.upload(MODEL, "build-7", "letters")
    intake.artifacts.may_put.set()
    assert (await under_way).body["version"] == 1


async def test_what_was_condemned_once_and_is_in_use_again_is_not_removed(
    start: Start, transactions: Transactions, tmp_path: Path
) -> None:
    """A remover that stalled between its two looks finds another's upload of the same bytes."""
    first = start("first")
    assert (await first.upload(MODEL, "build-7")).body["version"] == 1
    stalled = Removal(transactions, first.artifacts)
    await stalled.remove([DIGEST])
    assert (await _left(transactions, tmp_path))._replace(spooled=0) == ONE_VERSION


async def test_one_remover_at_a_time(start: Start, transactions: Transactions, tmp_path: Path) -> None:
    intake = start("first")
    async with transactions.lead(REMOVAL_LOCK) as alone:
        assert alone
        with pytest.raises(UnsupportedArtifact):
            await intake.upload(b"no model", "build-7")
        left = await _left(transactions, tmp_path)
        assert (left.artifacts, left.objects) == (1, 1), "left to the collector, which comes after"
    await Removal(transactions, intake.artifacts).collect(timedelta(hours=1))
    assert await _left(transactions, tmp_path) == NOTHING


async def test_a_controller_looks_by_itself_for_uploads_that_were_lost(
    start: Start, start_controller: Any, transactions: Transactions
) -> None:
    with pytest.raises(Lost):
        await start("first", Moment.STORED).upload(MODEL, "build-7")
    await _end_leases(transactions)
    controller = await start_controller()
    await controller.until("/v1/tenants/acme/models", lambda page: page["items"])
    versions = await controller.get("/v1/tenants/acme/models/digits/versions")
    assert [version["sha256"] for version in versions["items"]] == [DIGEST]
    text = (await controller.api.get("/metrics")).text
    assert 'berth_uploads_resumed_total{outcome="placed"} 1.0' in text


_ROOT = Path(__file__).resolve().parents[3]


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
