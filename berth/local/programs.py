"""The supervisor runs programs: a program can be launched, and each launch is a life that ends, asked or not.

Two kinds exist: a command of ours, and the embedded PostgreSQL, which brings its own way to start and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from berth.local.postgres import PostgresError, PostgresServer

_KILL_TIMEOUT_S = 5.0
_POSTGRES_POLL_S = 0.1

Probe = Callable[[], Awaitable[bool]]


class LaunchFailed(Exception):
    pass


class RunningProgram(Protocol):
    """One run of a program."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit code, once it has ended; negative for a signal."""

    async def stop(self) -> None:
        """Ask it to end, then make it. Returns when it has ended, after a bounded time."""

    async def kill(self) -> None:
        """End it at once."""


class Program(Protocol):
    """`stage` orders the end: higher stages are stopped first."""

    @property
    def name(self) -> str: ...

    @property
    def stage(self) -> int: ...

    @property
    def ports(self) -> Mapping[str, int]: ...

    async def launch(self) -> RunningProgram:
        """Start it. Raises `LaunchFailed`."""

    async def is_ready(self) -> bool:
        """Whether the life under way does its work. Never raises."""


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """A program of ours: an argument vector and an environment. Its output goes to `log`."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    probe: Probe
    stage: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)
    patience_s: float = 45.0

    async def launch(self) -> RunningProgram:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    env={**self.env, "BERTH_PARENT_PID": str(os.getpid())},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # A Ctrl-C reaches the whole foreground group: they are to end in order, not all at once.
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchFailed(str(error)) from None
        return _CommandLife(process, self.patience_s)

    async def is_ready(self) -> bool:
        return await self.probe()


class _CommandLife:
    def __init__(self, process: asyncio.subprocess.Process, patience_s: float) -> None:
        self._process = process
        self._patience_s = patience_s

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._patience_s):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


class Postgres:
    """The embedded PostgreSQL as a program. Ready as soon as it is launched."""

    name = "postgresql"
    stage = 0
    ports: Mapping[str, int] = {}

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    async def launch(self) -> RunningProgram:
        try:
            await asyncio.to_thread(self._server.start)
        except PostgresError as error:
            raise LaunchFailed(str(error)) from None
        pid = self._server.pid
        if pid is None:
            raise LaunchFailed("it ended as soon as it was started")
        return _PostgresLife(self._server, pid)

    async def is_ready(self) -> bool:
        return self._server.pid is not None


class _PostgresLife:
    def __init__(self, server: PostgresServer, pid: int) -> None:
        self._server = server
        self.pid = pid

    async def wait(self) -> int:
        while True:
            if self._server.pid != self.pid:
                # The server does not tell; a clean end unasked is as unwanted as any other.
                return 1
            await asyncio.sleep(_POSTGRES_POLL_S)

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def kill(self) -> None:
        await asyncio.to_thread(self._server.stop)


def http_probe(port: int, path: str = "/readyz", host: str = "127.0.0.1") -> Probe:
    """Ready when `GET path` on loopback answers 200 within a second."""
    request = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode()

    async def probe() -> bool:
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(request)
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return status.split(b" ")[1:2] == [b"200"]

    return probe
