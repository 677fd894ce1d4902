"""What versions may take, where the container or the GPU has less than was promised."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from berth.settings import SettingsError
from worker.memory import PROCESS_BYTES, container_limit, versions_limit

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(
    ("container", "device", "given"),
    [
        (None, None, 8 * GIB),
        (9 * GIB, None, 8 * GIB),
        (8 * GIB + 512 * MIB + PROCESS_BYTES, None, 8 * GIB),
        (8 * GIB, None, 8 * GIB - 512 * MIB - PROCESS_BYTES),
        (None, 80 * GIB, 8 * GIB),
        (None, 4 * GIB, 4 * GIB - 512 * MIB),
        (6 * GIB, 4 * GIB, 4 * GIB - 512 * MIB),
    ],
)
def test_the_least_counts(container: int | None, device: int | None, given: int) -> None:
    with capture_logs() as logs:
        assert versions_limit(8 * GIB, 512 * MIB, container=container, device=device) == given
    assert bool(logs) is (given < 8 * GIB)
    for entry in logs:
        assert entry["log_level"] == "warning"
        assert entry["asked"] == 8 * GIB
        assert "512 MiB are for loads" in entry["because"]


def test_a_container_without_room_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="the container has 512 MiB, which is less than"):
        versions_limit(GIB, 512 * MIB, container=512 * MIB, device=None)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({}, None, id="nothing to be seen"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n"}, 1000, id="container, v2"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None, id="no limit, v2"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b/c\n",
                "sys/fs/cgroup/a/b/c/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.max": "2000\n",
                "sys/fs/cgroup/a/memory.max": "3000\n",
            },
            2000,
            id="one above, v2",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "4000\n",
            },
            4000,
            id="v1",
        ),
        pytest.param(
            {"proc/self/cgroup": "4:memory:/outside/1\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n"},
            5000,
            id="container whose path is another's, v1",
        ),
    ],
)
def test_the_container_is_asked_for_its_limit(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert container_limit(tmp_path) == limit


def test_the_machine_at_hand_can_be_asked() -> None:
    assert (container_limit() or GIB) > 0
