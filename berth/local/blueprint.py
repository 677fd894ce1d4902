"""The programs of a local stack: which processes, with which settings, on which ports. Starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from berth.local.crew import WorkerSpec
from berth.local.home import Home
from berth.local.ports import PortBook, address
from berth.local.programs import ProcessCommand, http_probe
from berth.local.triton_env import LOCK

CELL = "local"
DEFAULT_TRITON_HOME = LOCK.parent / ".venv-triton"
"""Shared by all stacks of a checkout: it is 300 MB, and the same for each."""
# These settings of a person's shell are for the client, or the stack decides them itself. All others reach the
# processes.
_NOT_PASSED_ON = frozenset({"BERTH_KEY", "BERTH_CONTROLLER", "BERTH_ROUTER", "BERTH_TENANT", "BERTH_DATABASE_URL"})
# Routers stop first, while what they have begun can still be answered. Workers stop after the synchronizer: with it,
# they would wait until routers confirm the withdrawal of their routes, and there is no router any more.
_STAGES = {"controller": 1, "worker": 2, "synchronizer": 3, "router": 4}


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What a person chose. `workers` None keeps what the job has, two at first. Ports are wishes, memory is bytes."""

    root: Path
    workers: int | None = None
    routers: int = 1
    synchronizers: int = 1
    controllers: int = 1
    runtime: str = "onnxruntime"
    memory_per_worker: int = 1 << 30
    http_port: int = 8000
    grpc_port: int = 8001
    controller_port: int = 8080
    database_url: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def triton_home(self) -> Path:
        """Where Triton is, or is to be installed."""
        given = self.environ.get("BERTH_TRITON_HOME")
        return Path(given).absolute() if given else DEFAULT_TRITON_HOME


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base URLs of the control API and of inference over REST, and `host:port` of inference over gRPC."""

    controllers: tuple[str, ...]
    rest: tuple[str, ...]
    grpc: tuple[str, ...]


class Blueprint:
    """Ports are chosen when it is made, and stay."""

    def __init__(self, options: StackOptions, home: Home, ports: PortBook) -> None:
        self._options = options
        self._home = home
        self._ports = ports
        self._rest = [ports.near(options.controller_port + index) for index in range(options.controllers)]
        self._feeds = [ports.internal() for _ in range(options.controllers)]
        self._route_feeds = [ports.internal() for _ in range(options.synchronizers)]
        self._http: list[int] = []
        self._grpc: list[int] = []
        for _ in range(options.routers):
            self._http.append(ports.near(options.http_port))
            self._grpc.append(ports.near(options.grpc_port))

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(
            tuple(f"http://{address(port)}" for port in self._rest),
            tuple(f"http://{address(port)}" for port in self._http),
            tuple(address(port) for port in self._grpc),
        )

    @property
    def artifact_store(self) -> str:
        return self._home.artifacts.as_uri()

    def controllers(self, database_url: str) -> list[ProcessCommand]:
        return [
            self._command(
                "controller",
                index,
                {
                    "database_url": database_url,
                    "rest_address": address(rest),
                    "feed_address": address(feed),
                    "artifact_store": self.artifact_store,
                    "spool_dir": str(self._home.spool),
                    "bootstrap_key_file": str(self._home.admin_key),
                },
                ports={"rest": rest, "feed": feed},
                ready_port=rest,
            )
            for index, (rest, feed) in enumerate(zip(self._rest, self._feeds, strict=True))
        ]

    def synchronizers(self) -> list[ProcessCommand]:
        return [
            self._command(
                "synchronizer",
                index,
                {
                    "controllers": ",".join(address(port) for port in self._feeds),
                    "route_feed_address": address(port),
                    "registry_dir": str(self._home.registry),
                    "state_dir": str(self._home.state(f"synchronizer-{index}")),
                },
                ports={"route_feed": port},
            )
            for index, port in enumerate(self._route_feeds)
        ]

    def routers(self) -> list[ProcessCommand]:
        return [
            self._command(
                "router",
                index,
                {
                    "http_address": address(http),
                    "grpc_address": address(grpc),
                    "route_feeds": ",".join(address(port) for port in self._route_feeds),
                    "state_dir": str(self._home.state(f"router-{index}")),
                },
                ports={"http": http, "grpc": grpc},
            )
            for index, (http, grpc) in enumerate(zip(self._http, self._grpc, strict=True))
        ]

    def worker(self, spec: WorkerSpec) -> ProcessCommand:
        settings = {
            "instance": spec.replica,
            "job": spec.job,
            "runtime": spec.runtime,
            "memory_limit": str(spec.memory),
            "registry_dir": str(self._home.registry),
            "artifact_store": self.artifact_store,
            "cache_dir": str(self._home.cache(spec.replica)),
            # Ready means here that it runs. The controller is asked whether models are served.
            "ready_wait_s": "0",
        }
        if spec.runtime == "triton":
            settings["triton_home"] = str(self._options.triton_home)
        return self._command("worker", spec.replica, settings)

    def _command(
        self,
        component: str,
        suffix: int | str,
        settings: Mapping[str, str],
        ports: Mapping[str, int] | None = None,
        ready_port: int | None = None,
    ) -> ProcessCommand:
        """`ready_port` is where /readyz is, for a component that has no admin port."""
        name = f"{component}-{suffix}"
        admin = ready_port or self._ports.internal()
        fixed = {"instance": name, "cell": CELL, "credential_file": str(self._home.credential), **settings}
        if ready_port is None:
            fixed["admin_address"] = address(admin)
        env = {key: value for key, value in self._options.environ.items() if key not in _NOT_PASSED_ON}
        env |= {f"BERTH_{key.upper()}": value for key, value in fixed.items()}
        return ProcessCommand(
            name=name,
            # -P: a folder called `router` where `berth up` is run must not pass for ours.
            argv=(sys.executable, "-P", "-m", component),
            env=env,
            log=self._home.rotate_log(name),
            probe=http_probe(admin),
            stage=_STAGES[component],
            ports={"admin": admin, **(ports or {})},
        )
