"""Runs the application on a port until it is asked to stop, under our signals and our task group."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from berth.settings import SettingsError

# Seconds for requests under way when the process is asked to stop, and for an idle connection.
GRACE_S = 5
_KEEP_ALIVE_S = 30
_MOST_CONNECTIONS = 1_000


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # `berth.process` handles signals, for all tasks of the process.
        yield


def bind(address: str) -> socket.socket:
    """Listen on `host:port`, port 0 for a free one. Raises `SettingsError` if that is not possible."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        listener.close()
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    return listener


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event, tls: ssl.SSLContext | None = None) -> None:
    """Serve until `stop` is set and requests under way have ended, or `GRACE_S` seconds have passed."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=_MOST_CONNECTIONS,
        ws="none",
        # An address that a header names is text of whoever sent it, and would go into events.
        proxy_headers=False,
    )
    config.load()
    # Of contexts uvicorn makes its own, from files that it reads once.
    config.ssl = tls
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]), name="rest")
        stopping = tasks.create_task(stop.wait(), name="rest-stop")
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
