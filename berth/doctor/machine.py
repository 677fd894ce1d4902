"""This machine: can `berth up` run here? What can be tried is tried, not guessed from version numbers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from structlog.testing import capture_logs

from berth.doctor.findings import Finding, fail, ok, warn

_SUPPORTED = ((3, 11), (3, 13))
_MEMORY = 2 << 30
_DISK = 2 << 30
PORTS = (8000, 8001, 8080)


def examine(folder: Path, ports: Sequence[int] = PORTS) -> Iterator[Finding]:
    """Look at what `berth up` needs, with its data in `folder`. Takes a second or two: PostgreSQL is really started."""
    yield _python()
    yield from _memory()
    yield _disk(folder)
    yield from _ports(ports)
    yield _postgres()
    yield _runtimes()


def _python() -> Finding:
    version = sys.version_info[:2]
    said = f"Python {sys.version.split()[0]}"
    if _SUPPORTED[0] <= version <= _SUPPORTED[1]:
        return ok("python", said)
    return fail("python", said, "install Python 3.11, 3.12 or 3.13")


def _memory() -> Iterator[Finding]:
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return
    said = f"{available / (1 << 30):.1f} GiB are free"
    if available >= _MEMORY:
        yield ok("memory", said)
    else:
        yield warn("memory", said, "a stack with two workers takes 0.4 GiB idle, and what models need on top")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    said = f"{free / (1 << 30):.1f} GiB are free for {folder}"
    if not os.access(existing, os.W_OK):
        return fail("disk", f"{existing} is not writable", "choose another folder: berth up --dir")
    if free >= _DISK:
        return ok("disk", said)
    return warn("disk", said, "artifacts are kept there, and once more in each worker's cache")


def _ports(ports: Sequence[int]) -> Iterator[Finding]:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                said = f"127.0.0.1:{port} is taken"
                yield warn(f"port {port}", said, "a running Berth, or another program; `berth up` takes the next one")
            else:
                yield ok(f"port {port}", f"127.0.0.1:{port} is free")


def _postgres() -> Finding:
    from berth.local.postgres import PostgresError, PostgresServer

    # The server's own log lines do not belong in a table. The loggers of the process stay as they are.
    with tempfile.TemporaryDirectory(prefix="berth-doctor-") as folder, capture_logs():
        server = PostgresServer(Path(folder) / "data", durable=False)
        try:
            server.start()
        except (PostgresError, OSError) as error:
            return fail("postgresql", str(error), "or use one that runs elsewhere: set BERTH_DATABASE_URL")
        server.stop()
    return ok("postgresql", "starts, and stops, as this user")


def _runtimes() -> Finding:
    from berth.local.blueprint import DEFAULT_TRITON_HOME
    from berth.settings import environment

    triton = Path(environment().get("BERTH_TRITON_HOME") or DEFAULT_TRITON_HOME)
    if importlib.util.find_spec("onnxruntime") is None:
        return fail("runtimes", "ONNX Runtime is not installed", "install Berth with its dependencies: make install")
    if (triton / "bin" / "python").exists():
        return ok("runtimes", f"ONNX Runtime, and Triton in {triton}")
    return ok("runtimes", "ONNX Runtime; Triton is installed by `berth up --runtime triton` when it is asked for")
