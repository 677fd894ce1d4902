"""Envoy: one worker thread, HTTP/1.1 and HTTP/2 (gRPC), picking by least requests; optionally with its hedging."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers.launch import PEERS_VENV, Ports, Side, Upstream, configured, find, free_ports

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PREVIOUS_HOSTS = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def render(ports: Ports, upstreams: Sequence[Upstream], *, hedge_ms: float = 0.0) -> str:
    """`hedge_ms`: a second copy after so many milliseconds (`hedge_on_per_try_timeout`), to another host; 0: none."""
    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    _listener("http", ports.http, "HTTP1", hedge_ms),
                    _listener("grpc", ports.grpc, "HTTP2", hedge_ms),
                ],
                "clusters": [
                    _cluster("http", [upstream.http for upstream in upstreams], {"http_protocol_options": {}}),
                    _cluster("grpc", [upstream.grpc for upstream in upstreams], {"http2_protocol_options": {}}),
                ],
            }
        },
        indent=1,
    )


def find_envoy() -> str:
    """Raises `Missing`."""
    for path in sorted(PEERS_VENV.glob("lib/python*/site-packages/envoy/_bin/envoy")):
        return str(path.resolve())
    return find("envoy", "make peers")


@asynccontextmanager
async def start(
    upstreams: Sequence[Upstream], folder: Path, cores: str, *, hedge_ms: float = 0.0
) -> AsyncIterator[Side]:
    """Raises `Missing`."""
    program = find_envoy()
    ports = free_ports()
    argv = [program, "-c", str(folder / "envoy.json"), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    text = render(ports, upstreams, hedge_ms=hedge_ms)
    async with configured("envoy", "envoy.json", text, argv, ports, folder=folder, cores=cores) as side:
        yield side


def _listener(name: str, port: int, codec: str, hedge_ms: float) -> dict[str, Any]:
    route: dict[str, Any] = {"cluster": name, "timeout": "30s"}
    if hedge_ms:
        route["hedge_policy"] = {"hedge_on_per_try_timeout": True}
        route["retry_policy"] = {
            "retry_on": "5xx,connect-failure,refused-stream",
            "num_retries": 1,
            "per_try_timeout": f"{hedge_ms / 1000.0:.3f}s",
            "retry_host_predicate": [
                {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS_HOSTS}}
            ],
            "host_selection_retry_max_attempts": 5,
            # By default a hedge waits for up to 25 ms more, as if it were a retry after a failure.
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "codec_type": codec,
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    return {
        "name": name,
        "address": _address("127.0.0.1", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _cluster(name: str, targets: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    endpoints = []
    for target in targets:
        host, _, port = target.rpartition(":")
        endpoints.append({"endpoint": {"address": _address(host, int(port))}})
    # Envoy allows three retries at a time by default, and hedges are retries: that would be no hedging at all.
    limits = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 4096}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": options,
            }
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
