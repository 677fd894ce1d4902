"""Tests marked `triton` run where `make triton` has been: in BERTH_TRITON_HOME, or in .venv-triton of this clone.

Elsewhere they are deselected and the run says so: a skip in the summary would soon be read as a pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.settings import environment


def _triton_home() -> Path | None:
    given = environment().get("BERTH_TRITON_HOME")
    home = Path(given) if given else Path(__file__).parents[2] / ".venv-triton"
    return home if (home / "berth-triton.json").is_file() or (home / "bin/tritonserver").is_file() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _triton_home() is not None:
        return
    deselected = [item for item in items if item.get_closest_marker("triton") is not None]
    if not deselected:
        return
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"no Triton here: {len(deselected)} tests left out; `make triton` installs it")


@pytest.fixture(scope="session")
def triton_home() -> Path:
    home = _triton_home()
    assert home is not None, "only tests marked `triton` ask for it, and those are left out without one"
    return home
