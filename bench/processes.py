"""Processes under measurement: started on given cores, watched through /proc, stopped by their own id."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from berth.local.ports import PortBook

_TICKS = os.sysconf("SC_CLK_TCK")
_PORTS = PortBook(random.Random())

Process = asyncio.subprocess.Process


class DidNotStart(Exception):
    pass


def free_port() -> int:
    return _PORTS.internal()


@asynccontextmanager
async def running(
    argv: Sequence[str],
    *,
    cores: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    talks: bool = False,
    folder: Path | None = None,
) -> AsyncIterator[Process]:
    """The process `argv` on `cores` (taskset's list), in `folder`, until the context ends. `talks` gives it pipes for
    stdin and stdout; what else it says goes to `log`."""
    pipe = asyncio.subprocess.PIPE
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            # With us it ends too, however we end.
            "taskset", "-c", cores, "setpriv", "--pdeathsig", "TERM", *argv,
            stdin=pipe if talks else asyncio.subprocess.DEVNULL, stdout=pipe if talks else output, stderr=output,
            env={**os.environ, **(env or {})}, cwd=folder,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def wait_listening(port: int, process: Process, log: Path, within: float = 30.0) -> None:
    """Return once someone accepts connections on `port`. Raises `DidNotStart`."""
    try:
        async with asyncio.timeout(within):
            while process.returncode is None:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    raise DidNotStart(f"nothing listens on port {port}:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def cpu_seconds(pid: int) -> dict[int, float]:
    """User and system time that `pid` and each process below it have used so far, by process."""
    parents: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            # Fields 4, 14 and 15 of proc(5): parent, utime, stime.
            parents[int(path.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)
    family = {pid}
    while grown := {child for child, (parent, _) in parents.items() if parent in family} - family:
        family |= grown
    return {member: parents[member][1] for member in family if member in parents}
