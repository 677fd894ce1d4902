"""What a worker's inference server costs: small ONNX model, end to end over gRPC and REST: `python -m bench.worker`.

Sides are measured in turn, round by round, on the same core: this tree, a server of the same kind made of the usual
Python libraries, and, with `--other PATH`, another checkout of this repository. The figure is requests per CPU-second
of the server's process, which a busy machine disturbs less than a rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from bench.h2load import require
from bench.peers import berth_worker, plain_worker
from bench.peers.berth_worker import KEY, TOKEN
from bench.processes import cpu_seconds, running
from bench.results import Row, show, write
from berth.auth.peer import PeerCredential
from berth.oip import rest, rpc
from berth.oip.request import InferRequest
from doubles import onnx_models

_TARGET = 3.0
_SERVER_CORE, _LOAD_CORE = "0", "1"


class Shape(NamedTuple):
    what: str
    grpc: bool
    binary: bool
    elements: int
    load: tuple[str, ...]


_ONE_BY_ONE = ("--clients=32", "--max-concurrent-streams=1")
_SHAPES = (
    Shape("gRPC 32x1, 16 floats", True, True, 16, _ONE_BY_ONE),
    Shape("gRPC 4x8, 1 KiB", True, True, 256, ("--clients=4", "--max-concurrent-streams=8")),
    Shape("REST JSON x32, 16 floats", False, False, 16, ("--h1", "--clients=32")),
    Shape("REST binary x32, 1 KiB", False, True, 256, ("--h1", "--clients=32")),
)


@contextlib.asynccontextmanager
async def _side(program: Path, folder: Path, tree: Path) -> AsyncIterator[tuple[int, int, int]]:
    # -P: the program's own folder is not searched, so that everything it imports is the tree's.
    argv = [sys.executable, "-P", str(program), str(folder)]
    env = {"PYTHONPATH": str(tree)}
    async with running(argv, cores=_SERVER_CORE, log=folder.parent / "log", env=env, talks=True) as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            said = (await process.stdout.readline()).split()
        if len(said) != 2:
            raise SystemExit(f"a side did not start:\n{(folder.parent / 'log').read_text()[-2000:]}")
        yield process.pid, int(said[0]), int(said[1])


async def _drive(shape: Shape, pid: int, port: int, seconds: int, folder: Path) -> float:
    """Requests per CPU-second of process `pid`."""
    tensor = np.arange(shape.elements, dtype=np.float32)
    request = InferRequest({"x": tensor}, binary_outputs=shape.binary)
    if shape.grpc:
        message = rpc.encode_request(KEY.servable, request).SerializeToString()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        path, headers = "/inference.GRPCInferenceService/ModelInfer", {"content-type": "application/grpc"}
        headers["te"] = "trailers"
    else:
        made = rest.encode_request(request, binary=shape.binary)
        body, headers = made.content, dict(made.headers)
        path = f"/v2/models/{KEY.servable}/infer"
    headers |= PeerCredential.from_token(TOKEN).headers()
    data = folder.parent / "body"
    data.write_bytes(body)
    before = sum(cpu_seconds(pid).values())
    process = await asyncio.create_subprocess_exec(
        "taskset", "-c", _LOAD_CORE, "h2load", f"--duration={seconds}", "--threads=1", *shape.load, f"--data={data}",
        *(f"--header={name}: {value}" for name, value in headers.items()), f"http://127.0.0.1:{port}{path}",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    used = sum(cpu_seconds(pid).values()) - before
    return _succeeded(said.decode(), shape) / used


def _succeeded(said: str, shape: Shape) -> int:
    words = said.replace(",", "").replace("(", " ").replace(")", " ").split()
    done, failed = int(words[words.index("succeeded") - 1]), int(words[words.index("failed") - 1])
    data = int(words[words.index("data") - 1])
    # A gRPC refusal is a success to HTTP: only one that brought the bytes is one to us.
    if failed or not done or data < done * shape.elements * (4 if shape.binary else 2):
        raise SystemExit(f"{shape.what}: bad load\n{said[-1500:]}")
    return done


def _sides(other: Path | None) -> Iterator[tuple[str, Path, Path]]:
    """Name, program and source tree."""
    here = Path(__file__).resolve().parent.parent
    yield "berth", Path(berth_worker.__file__), here
    yield "plain Python", Path(plain_worker.__file__), here
    if other is not None:
        yield "other", Path(berth_worker.__file__), other.resolve()


async def measure(rounds: int, seconds: int, other: Path | None) -> None:
    require()
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(onnx_models.identity(TensorProto.FLOAT))
        async with contextlib.AsyncExitStack() as stack:
            sides = {
                name: await stack.enter_async_context(_side(program, folder, tree))
                for name, program, tree in _sides(other)
            }
            for _ in range(rounds):
                for shape in _SHAPES:
                    for name, (pid, grpc, http) in sides.items():
                        rate = await _drive(shape, pid, grpc if shape.grpc else http, seconds, folder)
                        rates.setdefault((shape.what, name), []).append(rate)
    rows = []
    for shape in _SHAPES:
        middle = {name: float(round(statistics.median(rates[shape.what, name]))) for name in sides}
        ratio = middle["berth"] / middle["plain Python"]
        rows.append(Row(f"{shape.what}: x plain Python", round(ratio, 2), "x", _TARGET, "higher", middle))
        rows.append(Row(f"{shape.what}: requests per CPU-second", middle["berth"], "/s", better="higher", sides=middle))
    write("worker", rounds, rows)
    show("worker", rows)
    for row in rows[::2]:
        print(row.what, row.sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="whole ones: h2load takes no others")
    parser.add_argument("--other", type=Path, help="another checkout of this repository to compare with")
    given = parser.parse_args()
    asyncio.run(measure(given.rounds, given.seconds, given.other))


if __name__ == "__main__":
    main()
