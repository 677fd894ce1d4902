"""`make bench-profile`: where the router's time goes under load, by package and by function.

py-spy looks at the real process from outside a hundred times a second, C frames included: nothing runs in it that does
not run otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import h2load
from bench.h2load import Shape
from bench.peers.launch import PEERS_VENV
from bench.rig import OTHERS, accept_settings, replicas, router, table_of

_FRAME = re.compile(r".+ \((?P<file>[^()]+)\)$")
_SOURCE = re.compile(r"\.pyx?(:\d+)?$")
_LINE = re.compile(r":\d+(?=\)$)")
_WAITING = ("epoll_wait", "poll ", "pthread_cond", "futex")
_NATIVE = "threads without Python"
# Of the standard library those packages in which a router spends time; its modules have no folder.
_NOT_PACKAGES = {"", "asyncio", "concurrent", "collections", "importlib", "json", "email", "http", "logging", "urllib"}


def by_package(stacks: Iterable[str]) -> Counter[str]:
    """Samples by the package of the innermost Python frame that is not the standard library's."""
    found: Counter[str] = Counter()
    for frames, count in _busy(stacks):
        packages = (_package(frame) for frame in reversed(frames))
        found[next((name for name in packages if name), _NATIVE if not _python(frames) else "asyncio")] += count
    return found


def by_function(stacks: Iterable[str]) -> Counter[str]:
    """Samples by innermost Python frame: what C does for it is its own."""
    found: Counter[str] = Counter()
    for frames, count in _busy(stacks):
        innermost = next(iter(reversed(_python(frames))), _NATIVE)
        found[_LINE.sub("", innermost)] += count
    return found


def _busy(stacks: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """Frames and counts, without the samples in which a thread waited."""
    for stack in stacks:
        text, _, count = stack.rpartition(" ")
        frames = text.split(";")
        if not frames[-1].startswith(_WAITING):
            yield frames, int(count)


def _python(frames: list[str]) -> list[str]:
    return [frame for frame in frames if (match := _FRAME.match(frame)) and _SOURCE.search(match["file"])]


def _package(frame: str) -> str:
    """`aiohttp`, `router/core` and so on; empty for the standard library, for C, and for how the process starts."""
    match = _FRAME.match(frame)
    if match is None or not _SOURCE.search(match["file"]):
        return ""
    folder, _, file = match["file"].rpartition("/")
    if folder.partition("/")[0] in _NOT_PACKAGES or file.startswith("__main__"):
        return ""
    return "" if match["file"].startswith("berth/process.py") else folder


async def record(shape: Shape, settings: Mapping[str, object], seconds: int, folder: Path) -> list[str]:
    """Stacks as py-spy writes them: frames from the outermost on, with semicolons, and a count."""
    out = folder / "stacks.txt"
    async with (
        replicas(["replica-a", "replica-b"], folder) as behind,
        router(table_of(behind.where), folder, settings) as running,
    ):
        port = running.side.grpc if shape.wire == "gRPC" else running.side.http
        await h2load.drive(shape, port, 1.0, folder)
        spy = [str(PEERS_VENV / "bin" / "py-spy"), "record", "--native", "-r", "100", "-f", "raw"]
        watching = await asyncio.create_subprocess_exec(
            *spy, "-d", str(seconds), "-o", str(out), "-p", str(running.side.pid), stdout=asyncio.subprocess.DEVNULL
        )
        await h2load.drive(shape, port, seconds + 2.0, folder)
        if await watching.wait():
            raise SystemExit("py-spy could not watch the router: it needs the right to trace other processes")
    with out.open() as lines:
        return list(lines)


def _show(title: str, counts: Counter[str], most: int) -> None:
    table = Table("share", "where", title=title, title_justify="left")
    total = counts.total()
    for name, count in counts.most_common(most):
        table.add_row(f"{count / total:.1%}", name)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    accept_settings(parser)
    given = parser.parse_args()
    h2load.require()
    if not (PEERS_VENV / "bin" / "py-spy").exists():
        raise SystemExit("py-spy is needed: make peers")
    os.sched_setaffinity(0, map(int, OTHERS.split(",")))
    for shape in (Shape("gRPC", 32, 1), Shape("HTTP/1.1", 32)):
        with tempfile.TemporaryDirectory() as folder:
            stacks = asyncio.run(record(shape, dict(given.set), given.seconds, Path(folder)))
        _show(f"{shape}: by package", by_package(stacks), 12)
        _show(f"{shape}: by function", by_function(stacks), 25)


if __name__ == "__main__":
    main()
