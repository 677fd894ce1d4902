import random
from pathlib import Path

import pytest

from berth.local.blueprint import Blueprint, StackOptions
from berth.local.crew import WorkerSpec
from berth.local.home import Home
from berth.local.ports import PortBook
from berth.local.programs import ProcessCommand
from berth.local.stack import _expected_crew

SECRETS = {"BERTH_KEY": "berth_secret", "BERTH_DATABASE_URL": "postgresql://u:p@h/d", "BERTH_TENANT": "acme"}


@pytest.fixture
def blueprint(tmp_path: Path) -> Blueprint:
    environ = {"PATH": "/bin", "BERTH_HEDGE_DELAY_MS": "20", "BERTH_CELL": "elsewhere", **SECRETS}
    options = StackOptions(root=tmp_path, routers=2, synchronizers=2, controllers=2, environ=environ)
    return Blueprint(options, Home(tmp_path), PortBook(random.Random(3)))


def everything(blueprint: Blueprint) -> list[ProcessCommand]:
    worker = blueprint.worker(WorkerSpec("gpu-0", "gpu", "triton", 1 << 30))
    return [*blueprint.controllers("postgresql://db"), *blueprint.synchronizers(), *blueprint.routers(), worker]


def test_names_ports_and_endpoints_are_all_different(blueprint: Blueprint) -> None:
    commands = everything(blueprint)
    assert len({command.name for command in commands}) == len(commands) == 7
    ports = [port for command in commands for role, port in command.ports.items() if role != "rest"]
    assert len(set(ports)) == len(ports)
    endpoints = blueprint.endpoints
    assert [len(group) for group in (endpoints.controllers, endpoints.rest, endpoints.grpc)] == [2, 2, 2]


def test_what_a_person_has_set_reaches_the_processes_but_no_secret_and_nothing_a_stack_decides(
    blueprint: Blueprint,
) -> None:
    for command in everything(blueprint):
        assert command.env["BERTH_HEDGE_DELAY_MS"] == "20"
        assert command.env["BERTH_CELL"] == "local"
        assert not {"BERTH_KEY", "BERTH_TENANT"} & set(command.env)
        assert command.name.startswith("controller") == ("BERTH_DATABASE_URL" in command.env)
        assert "secret" not in repr(command)
        assert not any("postgresql" in argument for argument in command.argv)


def test_peers_are_told_each_others_ports(blueprint: Blueprint) -> None:
    controllers = blueprint.controllers("postgresql://db")
    synchronizers = blueprint.synchronizers()
    feeds = ",".join(command.env["BERTH_FEED_ADDRESS"] for command in controllers)
    assert {command.env["BERTH_CONTROLLERS"] for command in synchronizers} == {feeds}
    route_feeds = ",".join(command.env["BERTH_ROUTE_FEED_ADDRESS"] for command in synchronizers)
    assert {command.env["BERTH_ROUTE_FEEDS"] for command in blueprint.routers()} == {route_feeds}


def test_routers_stop_first_and_controllers_last(blueprint: Blueprint) -> None:
    stages = [command.stage for command in everything(blueprint)]
    assert stages == [1, 1, 3, 3, 4, 4, 2]


def test_workers_are_started_from_what_ran_last(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run.mkdir()

    def replicas(workers: int | None) -> list[str]:
        return [spec.replica for spec in _expected_crew(StackOptions(root=tmp_path, workers=workers), home)]

    assert replicas(None) == ["onnxruntime-0", "onnxruntime-1"]
    home.workers.write_text('[["onnxruntime-0", "onnxruntime", "onnxruntime", 5], ["b-0", "b", "onnxruntime", 5]]')
    assert replicas(None) == ["b-0", "onnxruntime-0"]
    assert replicas(2) == ["b-0", "onnxruntime-0", "onnxruntime-1"]
    home.workers.write_text('[["half"]]')
    assert replicas(1) == ["onnxruntime-0"]
