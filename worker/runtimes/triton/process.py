"""One life of a tritonserver: started on a free loopback port, watched, ended with all its children.

Nothing else may use its port: it listens on loopback, and where the deployment has mutual TLS, Triton asks for it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from berth.auth.peer import PeerCredential
from berth.settling import settle
from worker.runtimes.triton.installation import Installation
from worker.runtimes.triton.link import CHANNEL_OPTIONS, TritonLink
from worker.runtimes.triton.shared_memory import clean_shared_memory

log = structlog.get_logger(__name__)

_HOST = "127.0.0.1"
_LAUNCH = Path(__file__).with_name("launch.py")
_READY_S = 20.0
# Each model starts with this much shared memory and grows in such steps; Triton's default is 64 times as much.
_SHARED_BYTES = 1 << 20


class TritonStartFailed(Exception):
    """Says why, with the end of Triton's log."""


class _Ended(Exception):
    pass


class TritonServer:
    """A running tritonserver. `link` leads to it; `wait` returns when it has ended, for whatever reason."""

    def __init__(self, process: asyncio.subprocess.Process, link: TritonLink, shm_prefix: str) -> None:
        self.link = link
        self.pid = process.pid
        self._process = process
        self._shm_prefix = shm_prefix

    def __repr__(self) -> str:
        return f"<TritonServer pid={self.pid} exit={self._process.returncode}>"

    @classmethod
    async def start(
        cls,
        installation: Installation,
        *,
        models: Path,
        log_file: Path,
        shm_prefix: str,
        credential: PeerCredential,
        environ: Mapping[str, str],
    ) -> TritonServer:
        """Start and wait until it answers. Raises `TritonStartFailed` with the end of its log."""
        clean_shared_memory(shm_prefix)
        address = f"{_HOST}:{_free_port()}"
        command = _command(installation, models, shm_prefix, address, credential)
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *command,
                env=installation.environment(environ), stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        # It keeps the certificates that it starts with, and so must we: those of its next life are the next ones.
        channel = credential.grpc_channel(address, CHANNEL_OPTIONS, rotates=False)
        server = cls(process, TritonLink(address, channel), shm_prefix)
        try:
            await server._become_ready()
        except BaseException as error:
            await settle(server.end())
            if isinstance(error, (grpc.aio.AioRpcError, _Ended)):
                raise TritonStartFailed(f"tritonserver did not start: {_last_words(log_file)}") from None
            raise
        return server

    async def wait(self) -> int:
        """The exit status, negative for a signal."""
        return await self._process.wait()

    async def has_ended(self, within: float) -> bool:
        """Whether it has ended, or does within so many seconds: a broken connection shows a little earlier."""
        try:
            async with asyncio.timeout(within):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """End it and its children at once; `wait` returns soon."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """End it and its children, and remove what they leave.

        By force: asked politely it takes two seconds, and has nothing to save.
        """
        self.kill()
        await self._process.wait()
        await self.link.close()
        clean_shared_memory(self._shm_prefix)

    async def _become_ready(self) -> None:
        """Returns when it answers; raises `_Ended` when it ends before, `AioRpcError` when it takes too long."""
        ready = asyncio.ensure_future(
            self.link.call("ServerReady", service_pb2.ServerReadyRequest(), _READY_S, wait_for_ready=True)
        )
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ready.cancel()
                raise _Ended
            ready.result()
        finally:
            for task in (ready, ended):
                task.cancel()
            await asyncio.wait((ready, ended))


def _command(
    installation: Installation, models: Path, shm_prefix: str, address: str, credential: PeerCredential
) -> list[str]:
    host, _, port = address.rpartition(":")
    command = [
        str(installation.server),
        f"--model-repository={models}",
        "--model-control-mode=explicit",
        f"--backend-directory={installation.backends}",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        f"--backend-config=python,shm-default-byte-size={_SHARED_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={_SHARED_BYTES}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--grpc-address={host}",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--log-info=false",
    ]
    tls = credential.tls_files
    if tls is not None:
        command += [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={tls.cert}",
            f"--grpc-server-key={tls.key}",
            f"--grpc-root-cert={tls.ca}",
        ]
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_words(log_file: Path) -> str:
    lines = log_file.read_text(errors="replace").splitlines()
    telling = [line for line in lines if line.startswith(("E", "error", "fatal")) or "error" in line] or lines
    return " | ".join(telling[-3:])[-1_000:] or "it said nothing"
