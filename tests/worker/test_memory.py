"""What versions may take, where the container or the GPU has less than was promised."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from berth.footprint import PROCESS
from berth.settings import SettingsError
from worker.keeping.memory import versions_limit

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(
    ("container", "device", "given"),
    [
        (None, None, 8 * GIB),
        (9 * GIB, None, 8 * GIB),
        (8 * GIB + 512 * MIB + PROCESS, None, 8 * GIB),
        (8 * GIB, None, 8 * GIB - 512 * MIB - PROCESS),
        (None, 80 * GIB, 8 * GIB),
        (None, 4 * GIB, 4 * GIB - 512 * MIB),
        (6 * GIB, 4 * GIB, 4 * GIB - 512 * MIB),
    ],
)
def test_the_least_counts(container: int | None, device: int | None, given: int) -> None:
    with capture_logs() as logs:
        assert versions_limit(8 * GIB, 512 * MIB, container=container, device=device) == given
    assert bool(logs) is (given < 8 * GIB)


def test_less_than_what_was_asked_for_is_said_with_its_reason() -> None:
    with capture_logs() as logs:
        versions_limit(8 * GIB, 512 * MIB, container=8 * GIB, device=None)
    [entry] = logs
    assert entry["log_level"] == "warning"
    assert entry["asked"] == 8 * GIB
    assert "512 MiB are for loads" in entry["because"]


def test_a_container_without_room_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="the container has 512 MiB, which is less than"):
        versions_limit(GIB, 512 * MIB, container=512 * MIB, device=None)
