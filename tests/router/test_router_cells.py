"""Two cells, each with a whole router: what one cannot answer goes on to the other, as it came."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.http.events import DataReceived, RequestReceived, TrailersReceived
from berth.ids import ModelKey, VersionKey
from berth.local.ports import PortBook
from berth.model import ReplicaAddress, RouteTable, Signature, TenantLimits, TensorSpec
from berth.settings import SettingsError
from doubles.certificates import Authority
from doubles.http2_peer import RawReplica, connect
from doubles.scripted_replica import Answer, ScriptedReplica
from router.connection.common import Common
from router.connection.dialer import Dialer
from router.connection.ledger import Ledger
from router.connection.strangers import Strangers

V1, V2 = (VersionKey("alice", "digits", number) for number in (1, 2))
SECRET = VersionKey("bob", "secret", 1)
BODY = b'{"id":"7","inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[41,42]}]}'
SERVICE = "/inference.GRPCInferenceService"
ELSEWHERE = {"digits": {1: ("far",)}}
GONE = ReplicaAddress("gone", "job", "near", "1", "", "127.0.0.1:1", "127.0.0.1:1")
"""A replica that refuses connections."""


class Answered(NamedTuple):
    """`code` is HTTP's or gRPC's; `fields` are headers, and metadata with trailers, without those of the connection."""

    code: int
    body: bytes
    fields: dict[str, str]


async def over_rest(
    rig: Any, path: str = "/v2/models/digits/infer", body: bytes | None = BODY, key: str = "alice-key", **headers: str
) -> Answered:
    given = {"authorization": f"Bearer {key}", "x-request-id": "r-1"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    method = "GET" if body is None else "POST"
    async with aiohttp.request(method, f"http://{rig.rest}{path}", data=body, headers=given) as reply:
        fields = {name.lower(): value for name, value in reply.headers.items()}
        return Answered(reply.status, await reply.read(), fields)


def infer_message(model: str = "digits", version: str = "") -> bytes:
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    message.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents.extend([41, 42])
    encoded: bytes = message.SerializeToString()
    return encoded


async def over_grpc(
    rig: Any, method: str = "ModelInfer", message: bytes = b"", key: str = "alice-key", **metadata: str
) -> Answered:
    given = {"authorization": f"Bearer {key}", "x-request-id": "r-1"}
    given |= {name.replace("_", "-"): value for name, value in metadata.items()}
    async with grpc.aio.insecure_channel(rig.grpc) as channel:
        call = channel.unary_unary(f"{SERVICE}/{method}")(
            message or infer_message(), metadata=tuple(given.items()), timeout=20
        )
        try:
            body, details = await call, ""
        except grpc.aio.AioRpcError as error:
            body, details = b"", error.details()
        fields = {"details": details, **dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
        return Answered((await call.code()).value[0], body, fields)


async def metrics(rig: Any) -> str:
    async with aiohttp.request("GET", f"http://127.0.0.1:{rig.ports.admin}/metrics") as reply:
        return await reply.text()


def passed_on(text: str) -> float:
    rows = [line for line in text.splitlines() if line.startswith('berth_router_passed_on_total{to="far"} ')]
    return float(rows[0].rsplit(" ", 1)[1]) if rows else 0.0


@dataclass
class Cells:
    near: Any
    far: Any
    worker: ScriptedReplica
    """Of the cell far."""


Two = Callable[..., Any]


@pytest.fixture
async def worker(credential: PeerCredential) -> AsyncIterator[ScriptedReplica]:
    async with ScriptedReplica("f1", {V1, V2, SECRET}).serve(credential) as replica:
        yield replica


@pytest.fixture
def two(routing: Any, table_of: Any, worker: ScriptedReplica) -> Two:
    """`async with two() as cells`: the model is in the cell far alone, unless tables say otherwise."""

    @asynccontextmanager
    async def start(
        near: RouteTable | None = None, far: RouteTable | None = None, far_settings: Mapping[str, Any] | None = None,
        **near_settings: Any,
    ) -> AsyncIterator[Cells]:  # fmt: skip
        async with AsyncExitStack() as stack:
            there = far or table_of({"digits": {1: [worker.address]}})
            distant = await stack.enter_async_context(routing(there, cell="far", **(far_settings or {})))
            here = near or table_of({"digits": {}}, elsewhere=ELSEWHERE)
            known = {"cell": "near", "other_cells": f"far={distant.rest}/{distant.grpc}", **near_settings}
            yield Cells(await stack.enter_async_context(routing(here, **known)), distant, worker)

    return start


async def test_the_same_bytes_as_from_the_other_cell_itself(two: Two) -> None:
    async with two() as cells:
        for ask in (over_rest, over_grpc):
            near, far = await ask(cells.near), await ask(cells.far)
            for answer in (near, far):
                answer.fields.pop("date", None)
            assert near == far
            assert near.code in (200, 0)
            assert near.fields["berth-replica"] == "f1"
            assert near.fields["x-request-id"] == "r-1"
        seen = [(one.wire, one.servable) for one in cells.worker.arrived]
        assert seen == [("rest", V1.servable)] * 2 + [("grpc", V1.servable)] * 2
        for one in cells.worker.arrived:
            assert not {"authorization", "berth-passed-on"} & one.headers.keys()
        assert passed_on(await metrics(cells.near)) == 2


@pytest.mark.parametrize(("version", "answers"), [("", "2"), ("1", "1"), ("2", "2"), ("stable", "1")])
async def test_whatever_words_name_the_version(
    two: Two, table_of: Any, worker: ScriptedReplica, version: str, answers: str
) -> None:
    labels = {"stable": 1}
    far = table_of({"digits": {1: [worker.address], 2: [worker.address]}}, labels=labels)
    near = table_of({"digits": {}}, labels=labels, elsewhere={"digits": {1: ("far",), 2: ("far",)}})
    async with two(near, far) as cells:
        path = f"/v2/models/digits/{f'versions/{version}/' if version else ''}infer"
        assert json.loads((await over_rest(cells.near, path)).body)["model_version"] == answers
        reply = (await over_grpc(cells.near, message=infer_message(version=version))).body
        assert service_pb2.ModelInferResponse.FromString(reply).model_version == answers


async def test_questions_are_answered_by_who_has_the_model(two: Two) -> None:
    async with two() as cells:
        for path in ("/v2/models/digits", "/v2/models/digits/versions/1", "/v2/models/digits/ready"):
            near, far = await over_rest(cells.near, path, None), await over_rest(cells.far, path, None)
            assert (near.code, near.body) == (far.code, far.body)
            assert near.code == 200
        ready = service_pb2.ModelReadyRequest(name="digits").SerializeToString()
        answer = await over_grpc(cells.near, "ModelReady", ready)
        assert service_pb2.ModelReadyResponse.FromString(answer.body).ready
        metadata = service_pb2.ModelMetadataRequest(name="digits").SerializeToString()
        answer = await over_grpc(cells.near, "ModelMetadata", metadata)
        assert service_pb2.ModelMetadataResponse.FromString(answer.body).name == "digits"


async def test_the_own_cell_answers_while_it_can(
    two: Two, table_of: Any, worker: ScriptedReplica, credential: PeerCredential
) -> None:
    async with ScriptedReplica("n1", {V1}).serve(credential) as own:
        near = table_of({"digits": {1: [own.address]}}, elsewhere=ELSEWHERE)
        async with two(near) as cells:
            for ask in (over_rest, over_grpc):
                assert (await ask(cells.near)).fields["berth-replica"] == "n1"
            # A version that is only there is asked for there.
            both = {"digits": {1: ("far",), 2: ("far",)}}
            await cells.near.route(table_of({"digits": {1: [own.address]}}, elsewhere=both, generation=2))
            await cells.far.route(table_of({"digits": {2: [worker.address]}}, generation=2))
            answer = await over_rest(cells.near, "/v2/models/digits/versions/2/infer")
            assert (answer.code, answer.fields["berth-replica"]) == (200, "f1")
            assert passed_on(await metrics(cells.near)) == 1


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_lost_replicas_of_the_own_cell_are_not_waited_for(two: Two, table_of: Any, ask: Any) -> None:
    """They are in the table still, and refuse connections. No pause: patience without end would be one."""
    near = table_of({"digits": {1: [GONE]}}, elsewhere=ELSEWHERE)
    async with two(near, patience_s=0.0) as cells:
        for _ in range(3):
            answer = await ask(cells.near)
            assert (answer.code, answer.fields["berth-replica"]) in {(200, "f1"), (0, "f1")}


async def test_what_is_not_loaded_here_is_wished_for_all_the_same(two: Two, table_of: Any) -> None:
    near = table_of({"digits": {1: []}}, elsewhere=ELSEWHERE)
    async with two(near) as cells:
        assert (await over_rest(cells.near, "/v2/models/digits", None)).code == 200
        assert not any(cells.near.stream.wanted)
        assert (await over_rest(cells.near)).code == 200
        await cells.near.stream.has_wanted(V1)


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_nothing_is_passed_on_twice(routing: Any, table_of: Any, worker: ScriptedReplica, ask: Any) -> None:
    """Each cell believes that the other has the model, and none has it."""
    ports = PortBook(random.Random())
    near_rest, near_grpc = (f"127.0.0.1:{ports.internal()}" for _ in range(2))
    tables = [table_of({"digits": {1: []}}, elsewhere={"digits": {1: (cell,)}}) for cell in ("far", "near")]
    async with routing(tables[1], cell="far", other_cells=f"near={near_rest}/{near_grpc}") as far:
        known = f"far={far.rest}/{far.grpc}"
        here = {"http_address": near_rest, "grpc_address": near_grpc}
        async with routing(tables[0], cell="near", other_cells=known, **here) as near:
            answer = await ask(near)
            assert answer.code in (503, 14)
            assert "version 1 is not loaded yet" in answer.fields.get("details", answer.body.decode())
            assert [passed_on(await metrics(near)), "passed_on_total{" in await metrics(far)] == [1, False]
            # Far does not hold what came from near as long as a third cell could; there is none, and it asks for it.
            await far.stream.has_wanted(V1)


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_a_client_may_say_that_it_was_passed_on(two: Two, ask: Any) -> None:
    async with two() as cells:
        answer = await ask(cells.near, berth_passed_on="near")
        assert answer.code in (404, 5)
        assert passed_on(await metrics(cells.near)) == 0


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_a_third_cell_answers_when_the_second_cannot(
    two: Two, routing: Any, table_of: Any, worker: ScriptedReplica, ask: Any
) -> None:
    """Middle knows that far has it too, and so it holds nothing; far would hold it, were it not loaded there."""
    middle = table_of({"digits": {1: []}}, elsewhere={"digits": {1: ("near", "far")}})
    async with (
        routing(middle, cell="middle", cold_hold_s=60.0) as second,
        routing(table_of({"digits": {1: [worker.address]}}), cell="far") as third,
    ):
        near = table_of({"digits": {}}, elsewhere={"digits": {1: ("middle", "far")}})
        known = f"middle={second.rest}/{second.grpc},far={third.rest}/{third.grpc}"
        async with routing(near, cell="near", other_cells=known) as rig:
            answer = await ask(rig)
            assert (answer.code, answer.fields["berth-replica"]) in {(200, "f1"), (0, "f1")}
            await second.stream.has_wanted(V1)
            ready = await over_rest(rig, "/v2/models/digits/ready", None)
            assert ready.code == 200
            message = service_pb2.ModelReadyRequest(name="digits").SerializeToString()
            assert service_pb2.ModelReadyResponse.FromString((await over_grpc(rig, "ModelReady", message)).body).ready


async def test_the_preferred_cell_is_asked_first(routing: Any, table_of: Any, credential: PeerCredential) -> None:
    async with AsyncExitStack() as stack:
        rigs = []
        for name in ("one", "other"):
            replica = await stack.enter_async_context(ScriptedReplica(name, {V1}).serve(credential))
            rigs.append(await stack.enter_async_context(routing(table_of({"digits": {1: [replica.address]}}))))
        near = table_of({"digits": {}}, elsewhere={"digits": {1: ("a", "b")}})
        for order in (("b", "a"), ("a", "b")):
            known = ",".join(f"{cell}={rigs[at].rest}/{rigs[at].grpc}" for at, cell in enumerate(order))
            async with routing(near, other_cells=known) as rig:
                for ask in (over_rest, over_grpc):
                    assert (await ask(rig)).fields["berth-replica"] == "one"


async def test_a_cell_that_is_away_and_comes_back(routing: Any, table_of: Any, worker: ScriptedReplica) -> None:
    ports = PortBook(random.Random())
    rest, rpc = (f"127.0.0.1:{ports.internal()}" for _ in range(2))
    near = table_of({"digits": {}}, elsewhere=ELSEWHERE)
    async with routing(near, cell="near", other_cells=f"far={rest}/{rpc}", patience_s=0.1) as rig:
        for _ in range(2):
            for ask in (over_rest, over_grpc):
                answer = await ask(rig)
                assert answer.code in (503, 14)
                assert answer.fields["retry-after"]
                says = answer.fields.get("details", answer.body.decode())
                assert "could be reached" in says
            far = table_of({"digits": {1: [worker.address]}})
            async with routing(far, cell="far", http_address=rest, grpc_address=rpc):
                for ask in (over_rest, over_grpc):
                    assert (await ask(rig)).code in (200, 0)


async def test_strangers_learn_nothing(two: Two, table_of: Any) -> None:
    """Bob's model is elsewhere; to Alice it is as none, and to those without a key everything is."""
    near = table_of({"digits": {}}, elsewhere={"secret": {1: ("far",)}})
    async with two(near) as cells:
        for ask, names in ((over_rest, ("secret", "nosuch")), (over_grpc, ("secret", "nosuch"))):
            answers = []
            for name in names:
                words: Any = (
                    {"path": f"/v2/models/{name}/infer"} if ask is over_rest else {"message": infer_message(name)}
                )
                refused = await ask(cells.near, **words)
                refused.fields.pop("date", None)
                answers.append(json.dumps([refused.code, refused.body.decode(), refused.fields]).replace(name, "NAME"))
            assert answers[0].replace("'", "") == answers[1].replace("'", "").replace("nosuch", "secret")
        assert (await over_rest(cells.near, "/v2/models/secret/infer", key="bob-key")).code == 200
        assert (await over_rest(cells.near, key="wrong")).code == 401
        assert (await over_rest(cells.near, key="admin-key")).code == 403
        assert passed_on(await metrics(cells.near)) == 1


@pytest.mark.parametrize(
    ("refusal", "code", "says"),
    [
        (Answer(status=429, message="slow down"), 429, "slow down"),
        (Answer(status=500, message="the model failed"), 500, "the model failed"),
        (Answer(status=400, message="wrong shape"), 400, "wrong shape"),
    ],
)
async def test_refusals_are_the_clients(
    two: Two, worker: ScriptedReplica, refusal: Answer, code: int, says: str
) -> None:
    async with two() as cells:
        worker.script.append(refusal)
        answer = await over_rest(cells.near)
        assert (answer.code, json.loads(answer.body)) == (code, {"error": says})
        assert len(worker.arrived) == 1


async def test_trailers_and_limits_pass_through(two: Two, table_of: Any, worker: ScriptedReplica) -> None:
    far = table_of({"digits": {1: [worker.address]}}, limits=(TenantLimits("alice", 1.0),))
    async with two(far=far) as cells:
        worker.script.append(Answer(trailers=(("model-note", "a-1"),)))
        assert (await over_grpc(cells.near)).fields["model-note"] == "a-1"
        refused = await over_grpc(cells.near)
        assert (refused.code, refused.fields["retry-after"]) == (8, "1")


async def test_a_deadline_goes_on_shorter(two: Two, worker: ScriptedReplica) -> None:
    async with two() as cells:
        assert (await over_rest(cells.near, berth_timeout_ms="9000")).code == 200
        assert (await over_grpc(cells.near)).code == 0
        rest, rpc = worker.arrived
        assert 5000 < int(rest.headers["berth-timeout-ms"]) < 9000
        assert 15 < float(rpc.headers["time-remaining"]) < 21
        held = Answer(hold=asyncio.Event())
        worker.script.append(held)
        late = await over_rest(cells.near, berth_timeout_ms="200")
        assert late.code == 504
        async with asyncio.timeout(20):
            await held.ended.wait()


async def test_a_client_that_leaves_is_heard_there(two: Two, worker: ScriptedReplica) -> None:
    async with two() as cells:
        for ask in (over_rest, over_grpc):
            answer = Answer(hold=asyncio.Event())
            worker.script.append(answer)
            asked = asyncio.ensure_future(ask(cells.near))
            async with asyncio.timeout(20):
                await answer.started.wait()
                asked.cancel()
                await asyncio.wait([asked])
                await answer.ended.wait()
            assert answer.withdrawn


async def test_answers_of_another_cell_are_not_kept_and_kept_ones_of_it_pass(two: Two, worker: ScriptedReplica) -> None:
    async with two(cache_bytes=2**20) as cells:
        for _ in range(2):
            assert "berth-cache" not in (await over_rest(cells.near)).fields
        assert len(worker.arrived) == 2
    async with two(cache_bytes=2**20, far_settings={"cache_bytes": 2**20}) as cells:
        assert "berth-cache" not in (await over_rest(cells.near)).fields
        assert (await over_rest(cells.near)).fields["berth-cache"] == "hit"
        assert len(worker.arrived) == 3


async def test_default_answers(two: Two, table_of: Any, worker: ScriptedReplica) -> None:
    """Far's, when its replica fails; near's, when far cannot be reached at all."""
    answer = b'{"outputs":[{"name":"y","datatype":"INT32","shape":[1],"data":[0]}]}'

    def with_default(table: RouteTable) -> RouteTable:
        key = ModelKey("alice", "digits")
        models = {**table.models, key: replace(table.models[key], default_answer=answer)}
        return replace(table, models=models)

    near = with_default(table_of({"digits": {}}, elsewhere=ELSEWHERE))
    far = with_default(table_of({"digits": {1: [worker.address]}}))
    async with two(near, far, patience_s=0.1) as cells:
        worker.script.append(Answer(status=503, message="busy"))
        got = await over_rest(cells.near)
        assert (got.code, got.fields["berth-default-answer"], got.body) == (200, "1", answer)
        assert "default_answers_total 0.0" in await metrics(cells.near)
        cells.far.stop.set()
        await asyncio.wait([cells.far.ended])
        got = await over_rest(cells.near)
        assert (got.code, got.fields["berth-default-answer"], got.body) == (200, "1", answer)
        assert "default_answers_total 1.0" in await metrics(cells.near)


async def test_tensorflow_servings_surface(two: Two, table_of: Any, worker: ScriptedReplica) -> None:
    worker.signature = Signature((TensorSpec("x", "INT32", (-1,)),), (TensorSpec("x", "INT32", (-1,)),))
    body = b'{"instances": [41, 42]}'
    async with two() as cells:
        for path, sent in (
            ("/v1/models/digits:predict", body),
            ("/v1/models/digits/versions/1:predict", body),
            ("/v1/models/digits/metadata", None),
            ("/v1/models/digits", None),
        ):
            near, far = await over_rest(cells.near, path, sent), await over_rest(cells.far, path, sent)
            assert (near.code, near.body) == (far.code, far.body)
            assert near.code == 200, near
        assert passed_on(await metrics(cells.near)) == 4
        # Translated here, because this cell was to answer; what it cannot is passed on translated.
        await cells.near.route(table_of({"digits": {1: [GONE]}}, elsewhere=ELSEWHERE, generation=2))
        near, far = [await over_rest(one, "/v1/models/digits:predict", body) for one in (cells.near, cells.far)]
        assert (near.code, near.body) == (far.code, far.body)
        assert (await over_rest(cells.near, "/v1/models/digits:predict", b"{")).code == 400


async def test_a_stream_passes_both_ways(routing: Any, table_of: Any) -> None:
    """To far's router at its clients' port: the messages, the credential, and where they come from."""

    def framed(payload: bytes) -> bytes:
        message = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[payload]).SerializeToString()
        return b"\0" + len(message).to_bytes(4, "big") + bytes(message)

    async with RawReplica() as far:
        near = table_of({"digits": {}}, elsewhere=ELSEWHERE)
        door = f"127.0.0.1:{far.port}"
        async with routing(near, cell="near", other_cells=f"far={door}/{door}") as rig:
            caller = await connect(rig.ports.grpc)
            fields = ((b"authorization", b"Bearer alice-key"), (b"berth-no-hedge", b"1"), (b"cookie", b"c"))
            path = f"{SERVICE}/ModelStreamInfer".encode()
            stream = caller.ask(path, framed(b"one"), fields, end=False)
            peer, asked = await far.asked()
            [request] = [event for event in peer.events if isinstance(event, RequestReceived)]
            seen = dict(request.head.fields)
            assert (request.head.path, request.head.authority) == (path, door.encode())
            assert seen[b"authorization"] == b"Bearer alice-key"
            assert (seen[b"berth-passed-on"], seen[b"berth-no-hedge"]) == (b"near", b"1")
            assert not {b"cookie", b"berth-credential"} & seen.keys()
            peer.answer(asked, framed(b"first"))
            await caller.until(lambda: caller.body(stream) == framed(b"first"))
            caller.http.send_data(stream, framed(b"two"), True)
            caller.flush()
            await peer.until(lambda: any(isinstance(one, DataReceived) and one.ended for one in peer.events))
            assert peer.body(asked) == framed(b"one") + framed(b"two")
            peer.http.send_data(asked, framed(b"second"))
            peer.http.send_trailers(asked, peer.http.encode_fields(((b"grpc-status", b"0"), (b"note", b"n"))))
            peer.flush()
            await caller.until(lambda: any(isinstance(one, TrailersReceived) for one in caller.events))
            assert caller.body(stream) == framed(b"first") + framed(b"second")
            [end] = [one for one in caller.events if isinstance(one, TrailersReceived)]
            assert dict(end.fields) == {b"grpc-status": b"0", b"note": b"n"}
            caller.transport.abort()
            await caller.lost


async def test_operators_see_it(two: Two, credential: PeerCredential) -> None:
    with capture_logs() as logs:
        async with two(access_log_sample=1.0) as cells:
            for ask in (over_rest, over_grpc):
                await ask(cells.near)
        assert [line.get("passed_on") for line in logs if line["event"] == "request"] == ["far", "far"]
    async with two() as cells:
        assert (await over_rest(cells.near)).code == 200
        url = f"http://127.0.0.1:{cells.near.ports.admin}/debug/routes?tenant=alice"
        async with aiohttp.request("GET", url, headers=credential.headers()) as reply:
            seen = await reply.json()
        assert seen["models"][0]["elsewhere"] == {"1": ["far"]}
        [far] = seen["other_cells"]
        assert (far["cell"], far["rest"], far["grpc"]) == ("far", cells.far.rest, cells.far.grpc)
        assert far["seen"]["outstanding"] == 0


@pytest.mark.parametrize(
    ("names", "addresses", "trusted", "answers"),
    [([], ["127.0.0.1"], True, True), (["far.example"], [], True, False), ([], ["127.0.0.1"], False, False)],
    ids=["good", "another name", "another authority"],
)
async def test_over_tls(
    two: Two, tmp_path: Path, names: list[str], addresses: list[str], trusted: bool, answers: bool
) -> None:  # fmt: skip
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "other", "other authority")
    shown = authority.issue("far", names=names, addresses=addresses)
    ca = shown.ca if trusted else other.issue("any").ca
    far = {"client_tls_cert": shown.cert, "client_tls_key": shown.key}
    async with two(far_settings=far, other_cells_tls=str(ca), patience_s=0.1) as cells:
        assert (await over_rest(cells.near)).code == (200 if answers else 503)
        assert (await over_grpc(cells.near)).code == (0 if answers else 14)


async def test_the_authority_may_be_replaced(two: Two, tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new authority")
    shown = new.issue("far", names=[], addresses=["127.0.0.1"])
    ca = tmp_path / "ca.pem"
    ca.write_bytes(old.issue("any").ca.read_bytes())
    far = {"client_tls_cert": shown.cert, "client_tls_key": shown.key}
    async with two(far_settings=far, other_cells_tls=str(ca), patience_s=0.1) as cells:
        assert (await over_rest(cells.near)).code == 503
        ca.write_bytes(b"not PEM")
        assert (await over_rest(cells.near)).code == 503
        ca.write_bytes(shown.ca.read_bytes())
        assert (await over_rest(cells.near)).code == 200


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"other_cells": "far"}, "CELL=HOST:PORT/HOST:PORT is expected, not 'far'"),
        ({"other_cells": "far=a:1"}, "is expected, not 'far=a:1'"),
        ({"other_cells": "far=a:1/b:x"}, "is expected"),
        ({"other_cells": "far=a:1/b:70000"}, "is expected"),
        ({"other_cells": "far=https://a:1/b:2"}, "is expected"),
        ({"other_cells": "FAR=a:1/b:2"}, "BERTH_OTHER_CELLS"),
        ({"other_cells": "far=a:1/b:2,far=a:1/b:2"}, "far is there twice"),
        ({"other_cells": "local=a:1/b:2"}, "local is the router's own cell"),
        ({"other_cells": "far=a:1/b:2", "other_cells_tls": "/nowhere/ca.pem"}, "BERTH_OTHER_CELLS_TLS"),
    ],
)
async def test_wrong_settings_say_what_is_wrong(routing: Any, settings: dict[str, str], says: str) -> None:
    with pytest.raises((ValueError, SettingsError), match=says):
        async with routing(None, **settings):
            raise AssertionError("it started")


def test_what_settings_say(settings_of: Any) -> None:
    found = settings_of("a:1", other_cells="b=[::1]:80/b.example:81, c=c:1/c:2").others
    assert list(found) == ["b", "c"]
    assert [(place.cell, place.http, place.grpc) for place in found.values()] == [
        ("b", "[::1]:80", "b.example:81"),
        ("c", "c:1", "c:2"),
    ]


class End:
    """One end of a connection that says and hears nothing."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.made.set_result(transport)

    def nothing(self, *_: object) -> None: ...

    buffer_updated = connection_lost = eof_received = get_buffer = pause_writing = resume_writing = nothing


@pytest.mark.parametrize("sender", ["", "near"])
async def test_the_kernel_notices_when_a_far_connection_is_silently_lost(sender: str) -> None:
    loop = asyncio.get_running_loop()
    async with RawReplica() as far, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        dialer, end = Dialer(Common(loop, Ledger(0)), Strangers(""), sender), End()
        dialer.tasks = tasks
        await dialer.dial(f"127.0.0.1:{far.port}", "h2", lambda: end, pytest.fail)  # type: ignore[arg-type, return-value]
        transport = await end.made
        connection = transport.get_extra_info("socket")
        kept = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        given_up = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert (kept, given_up) == ((1, 10_000) if sender else (0, 0))
        transport.abort()
