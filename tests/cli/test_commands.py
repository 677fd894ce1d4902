"""Whole commands, from arguments to output and exit status, against a real HTTP server."""

import asyncio
import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from berth import errors
from berth.cli.app import EXIT_TRY_AGAIN, execute
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.oip import rest
from berth.oip.request import InferRequest, InferResponse
from doubles.scripted_http import Scripted, ScriptedServer, serve_script

AT = "2026-01-01T00:00:00Z"
MODELS = "/v1/tenants/acme/models"
MODEL = {
    "tenant": "acme",
    "name": "digits",
    "description": "",
    "serving": {"policy": "pinned", "version": 2},
    "labels": {"stable": 1},
    "latest_version": 3,
    "created_at": AT,
    "etag": "e",
}
VERSION = {
    "tenant": "acme",
    "model": "digits",
    "version": 3,
    "sha256": "0" * 64,
    "size_bytes": 2048,
    "format": "onnx",
    "signature": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []},
    "estimated_bytes": 4096,
    "state": "failed",
    "reason": "out of memory",
    "since": AT,
    "job": "onnxruntime",
    "replicas": {"total": 2, "failed": 2},
    "created_at": AT,
    "etag": "e",
}
JOB = {
    "name": "onnxruntime",
    "cell": "local",
    "runtime": "onnxruntime",
    "replicas": 2,
    "memory_per_replica": 1 << 30,
    "reserved_bytes": 1 << 28,
    "created_at": AT,
    "etag": "e",
}


class Result(NamedTuple):
    status: int
    out: str
    err: str


Berth = Callable[..., Awaitable[Result]]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serve_script() as server:
        server.script("GET /v1/whoami", Scripted.json({"key_id": "k", "role": "developer", "tenant": "acme"}))
        server.script(f"GET {MODELS}", Scripted.json({"items": [MODEL]}))
        server.script(f"GET {MODELS}/digits", Scripted.json(MODEL))
        server.script(f"PATCH {MODELS}/digits", Scripted.json(MODEL))
        server.script(f"GET {MODELS}/digits/versions", Scripted.json({"items": [VERSION]}))
        yield server


@pytest.fixture
def berth(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Berth:
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setenv("BERTH_CONTROLLER", server.url)
    monkeypatch.setenv("BERTH_ROUTER", server.url)
    monkeypatch.setenv("BERTH_KEY", "secret")
    monkeypatch.delenv("BERTH_TENANT", raising=False)

    async def run(*arguments: object) -> Result:
        status = await asyncio.to_thread(execute, [str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run


async def test_cells_and_default_answers_are_sent_whole(berth: Berth, server: ScriptedServer, tmp_path: Path) -> None:
    assert (await berth("model", "cells", "digits", "east", "west")).status == 0
    assert json.loads(server.asked[-1].body) == {"cells": ["east", "west"]}
    assert (await berth("model", "cells", "digits")).status == 0
    assert json.loads(server.asked[-1].body) == {"cells": []}
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}
    file = tmp_path / "answer.json"
    file.write_text(json.dumps({"outputs": [output]}))
    assert (await berth("model", "default-answer", "digits", file)).status == 0
    assert json.loads(server.asked[-1].body) == {"default_answer": {"outputs": [output]}}
    assert (await berth("model", "default-answer", "digits")).status == 0
    assert json.loads(server.asked[-1].body) == {"default_answer": None}
    file.write_text("{}")
    got = await berth("model", "default-answer", "digits", file)
    assert (got.status, "Field required" in got.err) == (2, True)


async def test_a_limit_changes_and_the_others_stay(berth: Berth, server: ScriptedServer) -> None:
    quota = {"max_models": 7, "weight": 2.0}
    tenant = {"name": "acme", "quota": quota, "created_at": AT, "etag": "e1"}
    server.script("GET /v1/tenants/acme", Scripted.json(tenant))
    server.script("PATCH /v1/tenants/acme", Scripted.json(tenant))
    got = await berth("tenant", "limit", "acme", "--bytes-per-second", "50MiB", "--max-concurrent", "9")
    assert got.status == 0, got.err
    sent = json.loads(server.asked[-1].body)["quota"]
    assert (sent["max_models"], sent["weight"], sent["bytes_per_second"], sent["max_concurrent"]) == (7, 2, 50 << 20, 9)
    assert server.asked[-1].headers["if-match"] == '"e1"'


async def test_login_checks_the_key_and_keeps_it_private(
    berth: Berth, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from-file\n")
    servers = ("--controller", server.url, "--router", server.url)
    got = await berth("login", *servers, "--key-file", key_file)
    assert (got.status, "tenant acme, role developer" in got.out) == (0, True)
    assert "from-file" not in got.out
    config = tmp_path / "config.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    for name in ("BERTH_KEY", "BERTH_CONTROLLER", "BERTH_ROUTER"):
        monkeypatch.delenv(name)
    assert (await berth("model", "list")).status == 0
    assert server.asked[-1].headers["authorization"] == "Bearer from-file"


async def test_login_goes_where_the_environment_says(berth: Berth, server: ScriptedServer, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from-file")
    assert (await berth("login", "--key-file", key_file)).status == 0
    assert server.asked[-1].headers["authorization"] == "Bearer from-file"
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["controller"], stored["router"]) == (server.url, server.url)


async def test_a_refused_key_is_not_stored(berth: Berth, server: ScriptedServer, tmp_path: Path) -> None:
    server.script("GET /v1/whoami", Scripted.problem(errors.Unauthenticated("unknown key")))
    key_file = tmp_path / "key"
    key_file.write_text("bad")
    got = await berth("login", "--controller", server.url, "--key-file", key_file)
    assert (got.status, got.err.splitlines()[0]) == (1, "berth: An API key is required: unknown key")
    assert not (tmp_path / "config.json").exists()


async def test_without_a_key_it_says_what_to_do(berth: Berth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTH_KEY")
    got = await berth("model", "list")
    assert (got.status, got.out) == (1, "")
    assert "berth login" in got.err


async def test_a_broken_configuration_is_not_a_traceback(berth: Berth, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    got = await berth("model", "list")
    assert got.status == 1
    assert "run `berth login` again" in got.err
    key_file = tmp_path / "key"
    key_file.write_text("again")
    again = ("--controller", server.url, "--router", server.url, "--key-file", key_file)
    assert (await berth("login", *again)).status == 0
    assert (await berth("model", "list")).status == 0


async def test_tables_for_people_and_json_for_programs(berth: Berth) -> None:
    table = await berth("model", "list")
    assert table.out.split() == [
        *("NAME", "SERVES", "LATEST", "LABELS", "DESCRIPTION"),
        *("digits", "2", "(pinned)", "3", "stable=1"),
    ]
    assert json.loads((await berth("model", "list", "--json")).out)[0]["labels"] == {"stable": 1}


async def test_show_tells_state_reason_and_signature(berth: Berth) -> None:
    got = await berth("model", "show", "digits")
    assert got.status == 0
    for piece in ("failed", "0/2", "out of memory", "2.0 KiB", "FP32", "[-1, 4]"):
        assert piece in got.out


async def test_upload_prints_the_version_and_waits_if_asked(
    berth: Berth, server: ScriptedServer, tmp_path: Path
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"model")
    pending, available = VERSION | {"state": "pending"}, VERSION | {"state": "available"}
    server.script(f"POST {MODELS}/digits/versions", Scripted.json(pending, 201))
    server.script(f"GET {MODELS}/digits/versions/3", Scripted.json(pending), Scripted.json(available))
    assert "digits version 3 is pending" in (await berth("model", "upload", "digits", file)).out
    assert "digits version 3 is available" in (await berth("model", "upload", "digits", file, "--wait")).out
    got = await berth("model", "upload", "digits", file, "--wait", "--json")
    assert json.loads(got.out)["state"] == "available"


async def test_a_refusal_says_everything_the_server_said(berth: Berth, server: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"model")
    refusal = errors.InsufficientCapacity("no job has room", short_of={"onnxruntime": 12})
    server.script(f"POST {MODELS}/digits/versions", Scripted.problem(refusal))
    got = await berth("model", "upload", "digits", file)
    assert (got.status, got.out) == (1, "")
    assert "No job has room: no job has room" in got.err
    assert "short_of: {'onnxruntime': 12}" in got.err


async def test_an_absent_server_is_a_status_of_its_own(berth: Berth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_CONTROLLER", "http://127.0.0.1:1")
    got = await berth("tenant", "create", "acme")
    assert got.status == EXIT_TRY_AGAIN
    assert "cannot reach the controller" in got.err


@pytest.mark.parametrize(
    ("arguments", "status", "asked"),
    [
        (["version", "pin", "digits", "2"], 0, f"PATCH {MODELS}/digits"),
        (["version", "unpin", "digits"], 0, f"PATCH {MODELS}/digits"),
        (["version", "delete", "digits", "2"], 0, f"DELETE {MODELS}/digits/versions/2"),
        (["label", "set", "digits", "stable", "2"], 0, f"PUT {MODELS}/digits/labels/stable"),
        (["label", "delete", "digits", "stable"], 0, f"DELETE {MODELS}/digits/labels/stable"),
        (["model", "delete", "digits", "--yes"], 0, f"DELETE {MODELS}/digits"),
        (["model", "cells", "digits", "east", "west"], 0, f"PATCH {MODELS}/digits"),
        (["model", "default-answer", "digits"], 0, f"PATCH {MODELS}/digits"),
        (["job", "create", "onnxruntime", "--memory", "512MiB"], 0, "POST /v1/jobs"),
        (["job", "scale", "onnxruntime", "4"], 0, "PATCH /v1/jobs/onnxruntime"),
        (["job", "delete", "onnxruntime"], 0, "DELETE /v1/jobs/onnxruntime"),
        (["pool", "scale", "onnxruntime", "4"], 0, "PATCH /v1/jobs/onnxruntime"),
        (["pool", "autoscale", "onnxruntime", "--mode", "berth", "--max", "9"], 0, "PATCH /v1/jobs/onnxruntime"),
        (["pool", "autoscale", "onnxruntime"], 2, None),
        (["pool", "autoscale", "onnxruntime", "--mode", "magic"], 2, None),
        (["pool", "scale", "onnxruntime", "-1"], 2, None),
        (["key", "revoke", "k1", "--tenant", "acme"], 0, "DELETE /v1/tenants/acme/keys/k1"),
        (["version", "pin", "digits", "0"], 2, None),
        (["job", "create", "x", "--memory", "much"], 2, None),
        (["job", "create", "x", "--runtime", "abacus"], 2, None),
        (["key", "create", "king"], 2, None),
        (["up", "--runtime", "abacus"], 2, None),
        (["model", "upload", "digits", "/absent.onnx"], 2, None),
    ],
)
async def test_commands_ask_for_what_they_say(
    berth: Berth, server: ScriptedServer, arguments: list[str], status: int, asked: str | None
) -> None:
    for route in (
        f"DELETE {MODELS}/digits/versions/2",
        f"DELETE {MODELS}/digits/labels/stable",
        f"DELETE {MODELS}/digits",
        "DELETE /v1/jobs/onnxruntime",
        "DELETE /v1/tenants/acme/keys/k1",
    ):
        server.script(route, Scripted(204))
    server.script(f"PUT {MODELS}/digits/labels/stable", Scripted.json(MODEL))
    for route in ("POST /v1/jobs", "PATCH /v1/jobs/onnxruntime"):
        server.script(route, Scripted.json(JOB))
    got = await berth(*arguments)
    assert got.status == status, got.err
    assert asked is None or asked in [f"{one.method} {one.path}" for one in server.asked]


POOL = JOB | {
    "scaling": {"mode": "berth", "min_replicas": 1, "max_replicas": 9},
    "desired_replicas": 3,
    "desired_reason": "27.2 requests at work, one replica sustains 12.1",
    "observed": {"workload": "deployment/berth-pool-onnxruntime", "replicas": 2, "ready": 1},
}


async def test_pools_say_who_decides_and_why(berth: Berth, server: ScriptedServer) -> None:
    server.script("GET /v1/jobs", Scripted.json({"items": [POOL]}))
    server.script("GET /v1/jobs/onnxruntime", Scripted.json(POOL))
    got = await berth("pool", "list")
    assert got.status == 0, got.err
    row = got.out.splitlines()[1].split()
    assert row[:10] == [
        *("onnxruntime", "local", "deployment/berth-pool-onnxruntime", "2", "1", "berth", "1", "to", "9", "3")
    ]
    assert "one replica sustains 12.1" in got.out
    shown = await berth("pool", "show", "onnxruntime")
    assert "27.2 requests at work" in shown.out
    assert json.loads((await berth("pool", "show", "onnxruntime", "--json")).out)["observed"]["ready"] == 1


async def test_scaling_a_pool_asks_and_an_owned_one_says_who_owns_it(berth: Berth, server: ScriptedServer) -> None:
    route = "PATCH /v1/jobs/onnxruntime"
    refused = errors.Conflict(
        "HPA or KEDA decides how many replicas job 'onnxruntime' has: its scaling mode is external"
    )
    server.script(route, Scripted.json(JOB | {"wished_replicas": 4}), Scripted.json(JOB), Scripted.problem(refused))
    assert "is asked to have 4" in (await berth("pool", "scale", "onnxruntime", "4")).out
    assert json.loads(server.asked[-1].body) == {"replicas": 4}
    assert "has 2" in (await berth("pool", "scale", "onnxruntime", "2")).out
    got = await berth("pool", "scale", "onnxruntime", "5")
    assert (got.status, "HPA or KEDA decides" in got.err) == (1, True)
    server.script(route, Scripted.json(POOL))
    assert (await berth("pool", "autoscale", "onnxruntime", "--min", "0", "--stabilize-down-s", "60")).status == 0
    assert json.loads(server.asked[-1].body) == {"scaling": {"min_replicas": 0, "stabilize_down_s": 60.0}}


async def test_a_new_key_is_shown_once(berth: Berth, server: ScriptedServer) -> None:
    key = {"id": "k1", "role": "developer", "tenant": "acme", "created_at": AT, "secret": "berth_abc"}
    server.script("POST /v1/tenants/acme/keys", Scripted.json(key, 201))
    server.script("POST /v1/keys", Scripted.json(key | {"tenant": None, "role": "operator"}, 201))
    got = await berth("key", "create", "developer", "--tenant", "acme")
    assert got.out.count("berth_abc") == 1
    assert (await berth("key", "create", "operator")).status == 0
    server.script("GET /v1/tenants/acme/keys", Scripted.json({"items": [key]}))
    assert "k1" in (await berth("key", "list", "--tenant", "acme")).out


async def test_status_of_the_whole_platform(berth: Berth, server: ScriptedServer) -> None:
    replica = {
        "name": "onnxruntime-0",
        "job": "onnxruntime",
        "cell": "local",
        "connected": True,
        "draining": False,
        "memory_limit": 1 << 30,
        "memory_used": 1 << 20,
        "in_flight": 3,
        "servables": [
            {"tenant": "acme", "model": "digits", "version": 3, "state": "error", "reason": "bad node", "since": AT}
        ],
        "seen_at": AT,
    }
    quota = {"max_models": 1, "max_bytes": 1, "requests_per_second": 0, "max_concurrent": 0}
    server.script("GET /v1/whoami", Scripted.json({"key_id": "k", "role": "admin"}))
    server.script("GET /v1/jobs", Scripted.json({"items": [JOB]}))
    server.script("GET /v1/replicas", Scripted.json({"items": [replica]}))
    server.script(
        "GET /v1/tenants", Scripted.json({"items": [{"name": "acme", "quota": quota, "created_at": AT, "etag": "e"}]})
    )
    got = await berth("status")
    assert got.status == 0, got.err
    for piece in ("25 %", "1.0 MiB of 1.0 GiB", "digits:3: bad node", "acme/digits", "out of memory"):
        assert piece in got.out
    assert set(json.loads((await berth("status", "--json")).out)) == {"jobs", "replicas", "versions"}


async def test_status_of_a_tenant_asks_for_nothing_it_may_not_see(berth: Berth, server: ScriptedServer) -> None:
    got = await berth("status")
    assert got.status == 0, got.err
    assert "acme/digits" in got.out
    assert {one.path for one in server.asked} == {"/v1/whoami", MODELS, f"{MODELS}/digits/versions"}


async def test_events_are_json_lines_for_programs(berth: Berth, server: ScriptedServer) -> None:
    event = {"at": AT, "kind": "version.uploaded", "actor": "k", "subject": "model/digits/versions/1", "data": {"n": 1}}
    server.script("GET /v1/tenants/acme/events", Scripted.json({"items": [event | {"id": n} for n in (1, 2, 3)]}))
    lines = (await berth("events", "--json", "--after", "1")).out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [2, 3]
    assert "version.uploaded" in (await berth("events")).out


async def test_infer_converts_by_the_models_metadata(berth: Berth, server: ScriptedServer) -> None:
    metadata = {"name": "digits", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}
    server.script("GET /v2/models/digits", Scripted.json(metadata))
    body = rest.encode_response(
        InferResponse("digits", "3", {"y": np.array([[2.5]], np.float32)}), InferRequest({}, binary_outputs=True)
    )
    server.script("POST /v2/models/digits/infer", Scripted(200, body.content, {**body.headers, "berth-replica": "w"}))
    got = await berth("infer", "digits", "--input", "x=[[1, 2]]", "--json")
    assert json.loads(got.out) == {"outputs": {"y": [[2.5]]}, "version": "3", "replica": "w"}
    asked = server.asked[-1]
    sent = rest.decode_request(asked.body, asked.headers[INFERENCE_HEADER_LENGTH_TEXT])
    assert sent.inputs["x"].dtype == np.float32
    assert "version 3, answered by w" in (await berth("infer", "digits", "--input", "x=[[1, 2]]")).out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom berth.cli.app import execute\nassert execute(['--help']) == 0\n"
        "heavy = {'numpy', 'httpx', 'pydantic', 'grpc', 'onnx', 'sqlalchemy', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
