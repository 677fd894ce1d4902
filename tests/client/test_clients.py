"""Both clients against a real HTTP server: the same operations, one blocking on a thread, one on the loop."""

import asyncio
import base64
import hashlib
import inspect
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from berth import errors
from berth.client import AsyncBerth, Berth, clients
from berth.client.facade import Awaiting, Blocking
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.oip import rest
from berth.oip.request import InferRequest, InferResponse
from berth.states import VersionState
from doubles.scripted_http import Asked, Scripted, ScriptedServer, serve_script

Run = Callable[[Callable[[Any], Any]], Any]
"""Runs `ask(client)` with one of the two clients; the blocking one on a thread, so that the server's loop goes on."""

IDENTITY = Scripted.json({"key_id": "k", "role": "developer", "tenant": "acme"})
MODELS = "/v1/tenants/acme/models"


def version(number: int, state: VersionState, reason: str = "") -> Scripted:
    return Scripted.json(
        {
            "tenant": "acme",
            "model": "m",
            "version": number,
            "sha256": "0" * 64,
            "size_bytes": 3,
            "format": "onnx",
            "signature": {"inputs": [], "outputs": []},
            "estimated_bytes": 3,
            "state": state,
            "reason": reason,
            "since": "2026-01-01T00:00:00Z",
            "created_at": "2026-01-01T00:00:00Z",
            "etag": "e",
            "added_in_a_later_release": True,
        }
    )


def model(name: str) -> dict[str, Any]:
    return {
        "tenant": "acme",
        "name": name,
        "description": "",
        "serving": {"policy": "latest"},
        "labels": {},
        "created_at": "2026-01-01T00:00:00Z",
        "etag": "e",
    }


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serve_script() as server:
        server.script("GET /v1/whoami", IDENTITY)
        yield server


@pytest.fixture(params=["blocking", "async"])
def run(request: pytest.FixtureRequest, server: ScriptedServer) -> Run:
    def blocking(ask: Callable[[Any], Any]) -> Any:
        with Berth("secret", controller=server.url, router=server.url) as client:
            return ask(client)

    async def asynchronous(ask: Callable[[Any], Any]) -> Any:
        async with AsyncBerth("secret", controller=server.url, router=server.url) as client:
            return await ask(client)

    return asynchronous if request.param == "async" else lambda ask: asyncio.to_thread(blocking, ask)


def paths(server: ScriptedServer) -> list[str]:
    return [f"{asked.method} {asked.path}" for asked in server.asked]


def test_both_clients_offer_the_same() -> None:
    def surface(cls: type[Any]) -> dict[str, Any]:
        return {
            name: member.operation if isinstance(member, Blocking | Awaiting) else None
            for name, member in vars(cls).items()
            if not name.startswith("_")
        }

    for name in ("Tenants", "Keys", "Models", "Versions", "Jobs", "Events", "Berth"):
        assert surface(getattr(clients, name)) == surface(getattr(clients, f"Async{name}"))
    assert inspect.signature(Berth.__init__) == inspect.signature(AsyncBerth.__init__)


async def test_the_tenant_of_the_key_is_asked_once(server: ScriptedServer, run: Run) -> None:
    server.script(f"GET {MODELS}/m", Scripted.json(model("m")))
    server.script(f"DELETE {MODELS}/m", Scripted(204))

    def ask(client: Any) -> Any:
        if isinstance(client, Berth):
            client.models.get("m")
            return client.models.delete("m")

        async def both() -> None:
            await client.models.get("m")
            await client.models.delete("m")

        return both()

    await run(ask)
    assert paths(server) == ["GET /v1/whoami", f"GET {MODELS}/m", f"DELETE {MODELS}/m"]
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer secret"}


async def test_a_platform_key_must_name_the_tenant(server: ScriptedServer, run: Run) -> None:
    server.script("GET /v1/whoami", Scripted.json({"key_id": "k", "role": "admin"}))
    with pytest.raises(errors.InvalidArgument, match="say which tenant"):
        await run(lambda client: client.models.list())
    server.script(f"GET {MODELS}", Scripted.json({"items": [model("m")]}))
    assert [found.name for found in await run(lambda client: client.of("acme").models.list())] == ["m"]


async def test_lists_gather_all_pages(server: ScriptedServer, run: Run) -> None:
    server.script(
        f"GET {MODELS}",
        Scripted.json({"items": [model("a")], "next_cursor": "c/1"}),
        Scripted.json({"items": [model("b")]}),
    )
    assert [found.name for found in await run(lambda client: client.models.list())] == ["a", "b"]
    assert server.asked[-1].query["cursor"] == "c/1"


async def test_names_cannot_leave_their_place_in_the_path(server: ScriptedServer, run: Run) -> None:
    with pytest.raises(errors.NotFound):
        await run(lambda client: client.models.get("../../../v1/keys"))
    assert server.asked[-1].path.startswith(f"{MODELS}/")


async def test_an_upload_says_what_it_sends_and_shows_progress(
    server: ScriptedServer, run: Run, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10_000
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    server.script(f"POST {MODELS}/m/versions", version(1, VersionState.PENDING))
    seen: list[tuple[int, int]] = []
    got = await run(lambda client: client.versions.upload("m", file, progress=lambda *at: seen.append(at)))
    asked = server.asked[-1]
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert got.version == 1
    assert asked.body == content
    assert asked.headers["content-digest"] == f"sha-256=:{digest}:"
    assert asked.headers["content-length"] == str(len(content))
    assert seen[-1] == (len(content), len(content))
    assert [at for at, _ in seen] == sorted(at for at, _ in seen)
    assert len(seen) > 1


async def test_an_interrupted_upload_is_repeated_under_its_key(
    server: ScriptedServer, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"abc")
    server.script(
        f"POST {MODELS}/m/versions",
        Scripted.problem(errors.Unavailable("restarting", retry_after=0)),
        Scripted(cut=True, headers={"content-length": "9"}),
        version(1, VersionState.PENDING),
    )
    await run(lambda client: client.versions.upload("m", file))
    uploads = [asked for asked in server.asked if asked.method == "POST"]
    assert [asked.body for asked in uploads] == [b"abc"] * 3
    assert len({asked.headers["idempotency-key"] for asked in uploads}) == 1


async def test_creating_is_not_repeated(server: ScriptedServer, run: Run) -> None:
    server.script("POST /v1/tenants", Scripted.problem(errors.Unavailable("restarting", retry_after=0)))
    with pytest.raises(errors.Unavailable, match="restarting"):
        await run(lambda client: client.tenants.create("acme"))
    assert len(server.asked) == 1


async def test_an_absent_server_is_a_typed_error(run: Run, server: ScriptedServer) -> None:
    def ask(client: Any) -> Any:
        # Port 1 is privileged and closed.
        other = type(client)("secret", controller="http://127.0.0.1:1", attempts=1)
        return other.whoami()

    with pytest.raises(errors.Unavailable, match=r"cannot reach the controller at http://127\.0\.0\.1:1"):
        await run(ask)


async def test_waiting_ends_with_availability(server: ScriptedServer, run: Run) -> None:
    server.script(
        f"GET {MODELS}/m/versions/2",
        version(2, VersionState.PENDING),
        version(2, VersionState.LOADING),
        version(2, VersionState.AVAILABLE),
    )
    assert (await run(lambda client: client.wait_available("m", 2))).state is VersionState.AVAILABLE


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (VersionState.FAILED, errors.Conflict, "failed to load: out of memory"),
        (VersionState.RETIRED, errors.Conflict, "is retired"),
        (VersionState.LOADING, errors.DeadlineExceeded, "still loading after 0.05 s: out of memory"),
    ],
)
async def test_waiting_says_why_it_was_in_vain(
    server: ScriptedServer, run: Run, state: VersionState, error: type[errors.BerthError], text: str
) -> None:
    server.script(f"GET {MODELS}/m/versions/2", version(2, state, "out of memory"))
    with pytest.raises(error, match=text):
        await run(lambda client: client.wait_available("m", 2, timeout=0.05))


def answer(outputs: dict[str, np.ndarray[Any, Any]], asked_for: bytes, header_length: str | None) -> Scripted:
    request = rest.decode_request(asked_for, header_length)
    body = rest.encode_response(InferResponse("m", "3", outputs), request)
    return Scripted(200, body.content, {**body.headers, "berth-replica": "w-0", "x-request-id": "r-9"})


async def test_inference_carries_arrays_both_ways(server: ScriptedServer, run: Run) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    binary = rest.encode_request(InferRequest({"x": x}, binary_outputs=True), binary=True)
    header_length = binary.headers[INFERENCE_HEADER_LENGTH_TEXT]
    server.script(
        "POST /v2/models/m/versions/stable/infer",
        Scripted.json({"error": "moving"}, 503),
        answer({"y": x * 2}, binary.content, header_length),
    )
    got = await run(
        lambda client: client.infer_traced("m", {"x": x, "words": ["é", "b"]}, "stable", timeout=1.5, request_id="r-9")
    )
    np.testing.assert_array_equal(got.outputs["y"], x * 2)
    assert (got.version, got.replica, got.request_id) == ("3", "w-0", "r-9")
    asked: Asked = server.asked[-1]
    assert asked.headers["berth-timeout-ms"] == "1500"
    sent = rest.decode_request(asked.body, asked.headers[INFERENCE_HEADER_LENGTH_TEXT])
    np.testing.assert_array_equal(sent.inputs["x"], x)
    assert sent.inputs["words"].tolist() == ["é".encode(), b"b"]
    assert sent.binary_outputs


EVENT = '{"id": %d, "at": "2026-01-01T00:00:00Z", "kind": "k", "actor": "a", "subject": "s"}'


def events(*ids: int, cut: bool) -> Scripted:
    text = "retry: 0\n\n" + "".join(f"id: {number}\ndata: {EVENT % number}\n\n" for number in ids)
    return Scripted(200, text.encode(), {"content-type": "text/event-stream"}, cut=cut)


async def test_events_resume_after_the_last_one_seen(server: ScriptedServer, run: Run) -> None:
    server.script(
        "GET /v1/tenants/acme/events",
        events(5, 6, cut=True),
        Scripted.problem(errors.Unavailable("restarting")),
        events(7, cut=False),
    )

    def ask(client: Any) -> Any:
        if isinstance(client, Berth):
            return [event.id for event in itertools.islice(client.events.follow(after=4), 3)]

        async def three() -> list[int]:
            seen: list[int] = []
            async for event in client.events.follow(after=4):
                seen.append(event.id)
                if len(seen) == 3:
                    break
            return seen

        return three()

    assert await run(ask) == [5, 6, 7]
    resumed = [asked.headers["last-event-id"] for asked in server.asked if asked.path.endswith("/events")]
    assert resumed == ["4", "6", "6"]


async def test_a_forbidden_event_stream_is_an_error(server: ScriptedServer, run: Run) -> None:
    server.script("GET /v1/tenants/acme/events", Scripted.problem(errors.PermissionDenied("viewers only")))

    def ask(client: Any) -> Any:
        if isinstance(client, Berth):
            return next(client.events.follow())
        return anext(client.events.follow())

    with pytest.raises(errors.PermissionDenied, match="viewers only"):
        await run(ask)
