"""What every peer has in common: it is found or reported as missing, configured, started, and then is a `Side`."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench.processes import Process, free_port, running, wait_listening

PEERS_VENV = Path(".venv-peers")
"""Where `make peers` installs what comes as a Python package."""


class Missing(Exception):
    """The peer is not installed here; its text says how to get it."""


class Upstream(NamedTuple):
    """Where one replica listens, as `host:port`."""

    http: str
    grpc: str


class Side(NamedTuple):
    """One proxy to measure. A port of 0: it does not speak that."""

    name: str
    pid: int
    http: int
    grpc: int


class Ports(NamedTuple):
    http: int
    grpc: int


Render = Callable[[Ports, Sequence[Upstream], Path], str]
"""The text of a configuration; the folder is the peer's to write in."""


def find(program: str, how: str) -> str:
    """The path of `program`. Raises `Missing`."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise Missing(f"{program}: {how}")
    return path


@asynccontextmanager
async def configured(
    name: str, config: str, text: str, argv: Sequence[str], ports: Ports, *, folder: Path, cores: str
) -> AsyncIterator[Side]:
    """A proxy that reads `text` from the file `config` of `folder`, listening."""
    (folder / config).write_text(text)
    async with started(name, argv, ports, folder=folder, cores=cores) as (side, _):
        yield side


@asynccontextmanager
async def started(
    name: str, argv: Sequence[str], ports: Ports, *, folder: Path, cores: str
) -> AsyncIterator[tuple[Side, Process]]:
    log = folder / f"{name}.log"
    async with running(argv, cores=cores, log=log) as process:
        for port in ports:
            if port:
                await wait_listening(port, process, log)
        yield Side(name, process.pid, *ports), process


def free_ports(*, http: bool = True, grpc: bool = True) -> Ports:
    return Ports(free_port() if http else 0, free_port() if grpc else 0)
