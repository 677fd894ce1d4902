"""`make bench-soak`: does the router's memory stay flat over a million requests and ten thousand connections?

Requests go over gRPC and HTTP/1.1 in turn. Of the connections, most ask once and close; every tenth is broken off in
the middle of a body, as a client that dies would. Resident memory is read after each part; the first parts are left
out of the comparison, because caches and pools fill then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import h2load, payload
from bench.h2load import Shape
from bench.results import Row, show, write
from bench.rig import Router, replicas, router, table_of

_PART_S = 5.0
_SHAPES = (Shape("gRPC", 32, 1), Shape("HTTP/1.1", 32))
_AT_ONCE = 100
_WARM = 0.2
"""The share of the run that only warms up."""
_MIB = 1 << 20


async def soak(requests: int, connections: int, folder: Path) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """The rows, and the resident memory in MiB on the way."""
    async with (
        replicas(["replica-a", "replica-b"], folder) as behind,
        router(table_of(behind.where), folder, {}) as ours,
    ):
        by_requests = await _requests(ours, requests, folder)
        by_connections = await _connections(ours, connections)
    rows = [
        Row(f"{requests:,} requests: resident memory, end over start", _growth(by_requests), "x", 1.05),
        Row(f"{connections:,} connections: resident memory, end over start", _growth(by_connections), "x", 1.05),
        Row("resident memory at the end", by_connections[-1], "MiB"),
    ]
    return rows, {"requests, MiB": _on_the_way(by_requests), "connections, MiB": _on_the_way(by_connections)}


async def _requests(ours: Router, wanted: int, folder: Path) -> list[float]:
    seen, done = [_resident(ours.side.pid)], 0
    for shape in _alternating():
        port = ours.side.grpc if shape.wire == "gRPC" else ours.side.http
        load = await h2load.drive(shape, port, _PART_S, folder)
        done += load.requests
        seen.append(_resident(ours.side.pid))
        print(f"{done:>10,} requests {seen[-1]:7.1f} MiB", flush=True)
        if done >= wanted:
            break
    return seen


def _alternating() -> Iterator[Shape]:
    while True:
        yield from _SHAPES


async def _connections(ours: Router, wanted: int) -> list[float]:
    seen = [_resident(ours.side.pid)]
    content, headers = payload.http_request(payload.SMALL)
    headers |= {"authorization": f"Bearer {payload.KEY}", "host": "router", "content-length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {payload.HTTP_PATH} HTTP/1.1\r\n{head}\r\n".encode() + content
    for begun in range(0, wanted, _AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            for number in range(_AT_ONCE):
                tasks.create_task(_connect(ours.side.http, request, whole=number % 10 != 0))
        if (begun // _AT_ONCE) % 10 == 9:
            seen.append(_resident(ours.side.pid))
            print(f"{begun + _AT_ONCE:>10,} connections {seen[-1]:7.1f} MiB", flush=True)
    return seen


async def _connect(port: int, request: bytes, *, whole: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request if whole else request[:-100])
        await writer.drain()
        if whole:
            status = await reader.readline()
            if b" 200 " not in status:
                raise h2load.BadLoad(f"answered {status!r}")
        else:
            writer.transport.abort()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _growth(parts: list[float]) -> float:
    start = parts[max(1, int(len(parts) * _WARM))]
    return parts[-1] / start


def _on_the_way(parts: list[float]) -> dict[str, float]:
    """What was seen at quarters of the run."""
    last = len(parts) - 1
    return {f"{quarter * 25} %": parts[last * quarter // 4] for quarter in range(5)}


def _resident(pid: int) -> float:
    """Resident memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / _MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    given = parser.parse_args()
    h2load.require()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        rows, detail = asyncio.run(soak(given.requests, given.connections, Path(folder)))
    write("soak", 1, rows, detail=detail)
    show("Memory", rows)


if __name__ == "__main__":
    main()
