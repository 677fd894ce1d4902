"""The processes in which Triton's Python backend runs models, one each: finding, measuring and watching them.

All by /proc: Triton tells nothing of them, and does not notice when one dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Anonymous and shared memory: what goes away with the process. Pages of libraries are shared and can be dropped.
_OWN = re.compile(rb"^(?:Pss_Anon|Pss_Shmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stub:
    """A process that runs a model, and the name of its shared memory region."""

    pid: int
    region: str

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def find_stubs(server: int, script: Path) -> list[Stub]:
    """The children of process `server` that run `script`."""
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if len(arguments) > 2 and arguments[1] == os.fsencode(script) and _parent(entry) == server:
                found.append(Stub(int(entry.name), arguments[2].decode("ascii", "replace")))
    return found


def own_bytes(pid: int) -> int:
    """Memory that is a process's own, its part of what it shares included; 0 if the process is gone."""
    with contextlib.suppress(OSError):
        return sum(map(int, _OWN.findall((_PROC / str(pid) / "smaps_rollup").read_bytes()))) * 1024
    return 0


class ProcessWatch:
    """Calls `ended` once on the event loop when process `pid` ends; at once if it is gone already."""

    def __init__(self, pid: int, ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self.over = asyncio.Event()
        self._handle: int | None = None
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.call_soon(self._fire)
        else:
            self._loop.add_reader(self._handle, self._fire)

    def close(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None

    def _fire(self) -> None:
        self.close()
        self.over.set()
        self._ended()


async def end(stub: Stub, within: float) -> None:
    """Kill a process and wait until it is gone, at most so many seconds: until then its memory is not free."""
    watch = ProcessWatch(stub.pid, lambda: None)
    stub.kill()
    try:
        async with asyncio.timeout(within):
            await watch.over.wait()
    except TimeoutError:
        return
    finally:
        watch.close()


def _parent(entry: Path) -> int:
    # The command in parentheses may hold anything, blanks and parentheses included.
    return int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
