"""A closed loop of requests by nghttp2's h2load, over gRPC or HTTP/1.1, and what it says afterwards."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import payload
from bench.rig import OTHERS


@dataclass(frozen=True, slots=True)
class Shape:
    """What is sent: `connections` times `streams` requests at a time, of `size` bytes of tensor."""

    wire: str
    connections: int
    streams: int = 1
    size: int = payload.SMALL

    def __str__(self) -> str:
        size = "600 KB" if self.size >= payload.LARGE_FROM else "1 KiB"
        by = f"x{self.streams}" if self.wire == "gRPC" else ""
        return f"{self.wire} {self.connections}{by}, {size}"


class Load(NamedTuple):
    """`latencies` in seconds, ascending; empty unless asked for."""

    requests: int
    seconds: float
    latencies: list[float]


class BadLoad(Exception):
    """Requests failed, or their answers were not what was asked for: such a figure means nothing."""


def require() -> None:
    """Raises `SystemExit` with what to do if the generator is not installed."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is needed: apt-get install nghttp2-client")


async def drive(shape: Shape, port: int, seconds: float, folder: Path, *, latencies: bool = False) -> Load:
    """Raises `BadLoad`."""
    log = folder / "latencies.tsv"
    log.unlink(missing_ok=True)
    argv = arguments(shape, port, seconds, folder) + ([f"--log-file={log}"] if latencies else [])
    process = await asyncio.create_subprocess_exec(
        "taskset", "-c", OTHERS, *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds + 20):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    load = read(said.decode(), shape)
    return load._replace(latencies=read_latencies(log.read_text())) if latencies else load


def arguments(shape: Shape, port: int, seconds: float, folder: Path) -> list[str]:
    """The command line; the body is written into `folder`."""
    body = folder / f"{shape.wire[:4]}-{shape.size}".replace("/", "-")
    if shape.wire == "gRPC":
        content, headers, path = (
            payload.grpc_request(shape.size),
            {"content-type": "application/grpc"},
            payload.GRPC_PATH,
        )
        headers["te"] = "trailers"
        protocol = [f"--max-concurrent-streams={shape.streams}", "--window-bits=30", "--connection-window-bits=30"]
    else:
        content, headers = payload.http_request(shape.size)
        path, protocol = payload.HTTP_PATH, ["--h1"]
    body.write_bytes(content)
    headers["authorization"] = f"Bearer {payload.KEY}"
    given = [f"--header={name}: {value}" for name, value in headers.items()]
    return [
        "h2load", f"--clients={shape.connections}", f"--duration={seconds:g}", "--threads=1", *protocol,
        f"--data={body}", *given, f"http://127.0.0.1:{port}{path}",
    ]  # fmt: skip


def read(said: str, shape: Shape) -> Load:
    """What h2load printed. Raises `BadLoad`."""
    finished = re.search(r"^finished in ([\d.]+)(ms|s|m),", said, re.MULTILINE)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    data = re.search(r"\((\d+)\) data$", said, re.MULTILINE)
    if not finished or not counts or not data:
        raise BadLoad(said[-2000:])
    done, failed, errored = map(int, counts.groups())
    # A gRPC refusal is a success to HTTP; only one that brought the bytes is one to us.
    if not done or failed or errored or int(data[1]) < done * shape.size:
        raise BadLoad(f"{shape}: {counts[0]}, {data[1]} bytes of data for {done} answers")
    return Load(done, float(finished[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[finished[2]], [])


def read_latencies(text: str) -> list[float]:
    """Seconds from h2load's log: start, status and duration in microseconds, a request a line."""
    return sorted(int(line.rsplit("\t", 1)[1]) / 1e6 for line in text.splitlines())
