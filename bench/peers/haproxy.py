"""HAProxy: one thread, HTTP/1.1 and HTTP/2 (gRPC)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.peers.launch import Ports, Side, Upstream, configured, find, free_ports


def render(ports: Ports, upstreams: Sequence[Upstream], folder: Path) -> str:
    del folder
    http = "\n  ".join(f"server s{number} {upstream.http}" for number, upstream in enumerate(upstreams))
    grpc = "\n  ".join(f"server s{number} {upstream.grpc} proto h2" for number, upstream in enumerate(upstreams))
    return f"""\
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  balance leastconn
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen http
  bind 127.0.0.1:{ports.http}
  {http}
listen grpc
  bind 127.0.0.1:{ports.grpc} proto h2
  {grpc}
"""


@asynccontextmanager
async def start(upstreams: Sequence[Upstream], folder: Path, cores: str) -> AsyncIterator[Side]:
    """Raises `Missing`."""
    program = find("haproxy", "apt-get install haproxy")
    ports = free_ports()
    argv = [program, "-db", "-f", str(folder / "haproxy.cfg")]
    text = render(ports, upstreams, folder)
    async with configured("haproxy", "haproxy.cfg", text, argv, ports, folder=folder, cores=cores) as side:
        yield side
