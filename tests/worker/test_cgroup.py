"""What the container may use, as the kernel's files say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.cgroup import cores, memory_limit


def written(files: dict[str, str], root: Path) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


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
    assert memory_limit(written(files, tmp_path)) == limit


@pytest.mark.parametrize(
    ("files", "allowed", "count"),
    [
        pytest.param({}, 64, 64, id="no container"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64, 64, id="no quota, v2"),
        pytest.param({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 64, 2, id="two, v2"),
        pytest.param({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 64, 2, id="one and a half, v2"),
        pytest.param({"sys/fs/cgroup/cpu.max": "5000 100000\n"}, 64, 1, id="a twentieth, v2"),
        pytest.param({"sys/fs/cgroup/cpu.max": "800000 100000\n"}, 4, 4, id="more than it may run on, v2"),
        pytest.param({"sys/fs/cgroup/cpu.max": "rubbish\n"}, 3, 3, id="not to be understood"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            64,
            3,
            id="one above, v2",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000\n",
            },
            64,
            4,
            id="v1",
        ),
    ],
)
def test_cores_are_those_of_the_container(files: dict[str, str], allowed: int, count: int, tmp_path: Path) -> None:
    assert cores(written(files, tmp_path), allowed=allowed) == count


def test_the_machine_at_hand_can_be_asked() -> None:
    assert (memory_limit() or 1) > 0
    assert cores() >= 1
