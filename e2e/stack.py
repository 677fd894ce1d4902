"""`berth up` as a user runs it, in a folder of its own: started, looked at, hurt, stopped.

What runs is read from the stack's own state file; only processes named there are ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from berth.client import Berth
from berth.local.ports import PortBook
from e2e.waiting import until

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0


class Process(NamedTuple):
    name: str
    pid: int
    state: str
    restarts: int
    ports: dict[str, int]


@dataclass(slots=True)
class Stack:
    """One `berth up` on free ports. `options` are its further arguments."""

    folder: Path
    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    http_port: int = 0
    grpc_port: int = 0
    controller_port: int = 0
    _up: subprocess.Popen[bytes] | None = None
    _clients: list[Berth] = field(default_factory=list)

    def start(self) -> Stack:
        """Run `berth up` and return once it says that everything is ready."""
        if not self.http_port:
            ports = PortBook(random.Random())
            self.http_port, self.grpc_port, self.controller_port = (ports.internal() for _ in range(3))
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--dir", str(self.home), "--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        arguments += ["--controller-port", str(self.controller_port), *self.options]
        with self._output.open("wb") as output:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "berth", "up", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **self.environ},
                cwd=self.folder,
            )
        until(self._ready, within=START_LIMIT_S, what=f"berth up is ready; it says: {self.said()[-2000:]}")
        return self

    def stop(self) -> int:
        """Ctrl-C, and the exit status. Nothing that was started may be left."""
        assert self._up is not None
        started = self.processes()
        self._up.send_signal(signal.SIGINT)
        status = self._up.wait(STOP_LIMIT_S)
        for process in started.values():
            until(partial(_ended, process.pid), within=5, what=f"{process.name} has ended")
        self._up = None
        return status

    def abandon(self) -> None:
        """Close what is open, and end it whatever state it is in: a test that failed did not stop it."""
        for client in self._clients:
            client.close()
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(STOP_LIMIT_S)
            self._up.kill()

    # --- what runs ------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self.folder / ".berth"

    @property
    def _output(self) -> Path:
        return self.folder / "up.out"

    def said(self) -> str:
        """What `berth up` has printed so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def processes(self) -> dict[str, Process]:
        """What runs now, by name."""
        try:
            document = json.loads((self.home / "run" / "processes.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {
            entry["name"]: Process(entry["name"], entry["pid"], entry["state"], entry["restarts"], entry["ports"])
            for entry in document["processes"]
            if entry["pid"]
        }

    @property
    def supervisor_pid(self) -> int:
        """The process id of `berth up` itself."""
        assert self._up is not None
        return self._up.pid

    def named(self, prefix: str) -> list[Process]:
        """The processes whose name begins with `prefix`, in order of name."""
        return [process for name, process in sorted(self.processes().items()) if name.startswith(prefix)]

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process, and return its id."""
        pid = self.processes()[name].pid
        os.kill(pid, number)
        return pid

    def kill(self, name: str) -> int:
        """kill -9. Returns the id of the process that is no more."""
        return self.signal(name, signal.SIGKILL)

    def wait_replaced(self, name: str, killed: int, within: float = 30.0) -> None:
        """Wait until `name` runs as another process and is ready."""

        def replaced() -> bool:
            process = self.processes().get(name)
            return process is not None and process.pid != killed and process.state == "ready"

        until(replaced, within=within, what=f"{name} is back")

    # --- how it is used -------------------------------------------------------------------------------------------

    @property
    def controller_url(self) -> str:
        return f"http://127.0.0.1:{self.controller_port}"

    @property
    def router_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def router_grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def admin_key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def client(self, key: str | None = None, tenant: str | None = None) -> Berth:
        """The SDK as the platform's admin, or with `key`; closed when the test is over, if not before."""
        client = Berth(key or self.admin_key, controller=self.controller_url, router=self.router_url, tenant=tenant)
        self._clients.append(client)
        return client

    def _ready(self) -> bool:
        assert self._up is not None
        if self._up.poll() is not None:
            raise AssertionError(f"berth up ended with {self._up.returncode}:\n{self.said()}")
        return "Try it" in self.said()


def _ended(pid: int) -> bool:
    return not alive(pid)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
