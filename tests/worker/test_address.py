"""Where a replica says that it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.settings import SettingsError
from worker.control.address import OpenPorts, check_instance, own_address
from worker.settings import WorkerSettings

PORTS = OpenPorts(control=1, grpc=2, http=3)


def settings(tmp_path: Path, **more: str) -> WorkerSettings:
    needed = {
        "BERTH_JOB": "cpu",
        "BERTH_MEMORY_LIMIT": "1GiB",
        "BERTH_ARTIFACT_STORE": "file:///nowhere",
        "BERTH_CACHE_DIR": str(tmp_path),
        "BERTH_INSTANCE": "w-1",
    }
    return WorkerSettings.load({**needed, **more})


@pytest.mark.parametrize(
    ("variables", "control", "http"),
    [
        pytest.param({}, "127.0.0.1:1", "127.0.0.1:3", id="where it listens"),
        pytest.param({"BERTH_HTTP_ADDRESS": "[::1]:0"}, "127.0.0.1:1", "[::1]:3", id="of the other family"),
        pytest.param({"BERTH_ADVERTISE_HOST": "w-1.workers"}, "w-1.workers:1", "w-1.workers:3", id="as it is told"),
        pytest.param({"BERTH_ADVERTISE_HOST": "fd00::7"}, "[fd00::7]:1", "[fd00::7]:3", id="an address of IPv6"),
    ],
)
def test_where_it_is(tmp_path: Path, variables: dict[str, str], control: str, http: str) -> None:
    address = own_address(settings(tmp_path, **variables), PORTS)
    assert (address.replica, address.job, address.control, address.http) == ("w-1", "cpu", control, http)


def test_each_life_is_another(tmp_path: Path) -> None:
    first, second = (own_address(settings(tmp_path), PORTS) for _ in range(2))
    assert first.incarnation != second.incarnation


@pytest.mark.parametrize("everywhere", ["0.0.0.0:0", "[::]:0", ":0"])
def test_everywhere_is_no_place(tmp_path: Path, everywhere: str) -> None:
    with pytest.raises(SettingsError, match="BERTH_ADVERTISE_HOST"):
        own_address(settings(tmp_path, BERTH_GRPC_ADDRESS=everywhere), PORTS)


def test_a_name_that_is_no_file_is_refused() -> None:
    with pytest.raises(SettingsError, match="BERTH_INSTANCE"):
        check_instance("../w")
