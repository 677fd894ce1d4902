"""nginx: one worker, HTTP/1.1 on both sides, bodies streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.peers.launch import Ports, Side, Upstream, configured, find, free_ports


def render(ports: Ports, upstreams: Sequence[Upstream], folder: Path) -> str:
    servers = "\n    ".join(f"server {upstream.http};" for upstream in upstreams)
    temporary = "\n  ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  {temporary}
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  upstream replicas {{
    least_conn;
    {servers}
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{ports.http};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_buffers 8 128k;
      proxy_buffer_size 128k;
    }}
  }}
}}
"""


@asynccontextmanager
async def start(upstreams: Sequence[Upstream], folder: Path, cores: str) -> AsyncIterator[Side]:
    """Raises `Missing`."""
    program = find("nginx", "apt-get install nginx-light")
    ports = free_ports(grpc=False)
    argv = [program, "-p", str(folder), "-e", str(folder / "nginx-error.log"), "-c", str(folder / "nginx.conf")]
    text = render(ports, upstreams, folder)
    async with configured("nginx", "nginx.conf", text, argv, ports, folder=folder, cores=cores) as side:
        yield side
