"""The configurations that peers are given, checked by the peers themselves where they are installed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import envoy, haproxy, nginx
from bench.peers.launch import Missing, Ports, Upstream, find

UPSTREAMS = [Upstream("127.0.0.1:21001", "127.0.0.1:21002"), Upstream("127.0.0.1:21003", "127.0.0.1:21004")]
PORTS = Ports(http=20001, grpc=20002)


def test_envoy_sends_each_protocol_to_all_replicas() -> None:
    config = json.loads(envoy.render(PORTS, UPSTREAMS))["static_resources"]
    listening = {entry["name"]: entry["address"]["socket_address"]["port_value"] for entry in config["listeners"]}
    assert listening == {"http": 20001, "grpc": 20002}
    behind = {
        cluster["name"]: [
            entry["endpoint"]["address"]["socket_address"]["port_value"]
            for entry in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        for cluster in config["clusters"]
    }
    assert behind == {"http": [21001, 21003], "grpc": [21002, 21004]}


def test_envoy_hedges_only_when_told_to() -> None:
    assert "hedge_policy" not in envoy.render(PORTS, UPSTREAMS)
    route = json.loads(envoy.render(PORTS, UPSTREAMS, hedge_ms=10.0))["static_resources"]["listeners"][0][
        "filter_chains"
    ][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["hedge_policy"] == {"hedge_on_per_try_timeout": True}
    assert route["retry_policy"]["per_try_timeout"] == "0.010s"


def test_nginx_and_haproxy_name_every_replica(tmp_path: Path) -> None:
    plain = nginx.render(PORTS, UPSTREAMS, tmp_path)
    assert "listen 127.0.0.1:20001;" in plain
    assert all(f"server {upstream.http};" in plain for upstream in UPSTREAMS)
    both = haproxy.render(PORTS, UPSTREAMS, tmp_path)
    assert "bind 127.0.0.1:20002 proto h2" in both
    assert all(f"{upstream.grpc} proto h2" in both and f"{upstream.http}\n" in both for upstream in UPSTREAMS)


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg", "envoy.json"])
def test_installed_peers_accept_what_they_are_given(name: str, tmp_path: Path) -> None:
    texts = {
        "nginx.conf": nginx.render(PORTS, UPSTREAMS, tmp_path),
        "haproxy.cfg": haproxy.render(PORTS, UPSTREAMS, tmp_path),
        "envoy.json": envoy.render(PORTS, UPSTREAMS, hedge_ms=10.0),
    }
    (tmp_path / name).write_text(texts[name])
    checks: dict[str, tuple[Callable[[], str], list[str]]] = {
        "nginx.conf": (lambda: find("nginx", ""), ["-t", "-p", str(tmp_path), "-e", "stderr", "-c"]),
        "haproxy.cfg": (lambda: find("haproxy", ""), ["-c", "-f"]),
        "envoy.json": (envoy.find_envoy, ["--mode", "validate", "-l", "error", "-c"]),
    }
    program_of, options = checks[name]
    try:
        program = program_of()
    except Missing as missing:
        pytest.skip(str(missing))
    done = subprocess.run(
        [program, *options, str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_a_peer_that_is_not_there_is_missing_with_what_to_do() -> None:
    with pytest.raises(Missing, match="apt-get install no-such-proxy"):
        find("no-such-proxy", "apt-get install no-such-proxy")


def test_importing_the_benchmarks_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import bench.router, bench.tail, bench.upstream"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == ""
