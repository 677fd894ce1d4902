"""What every test of the tree relies on.

Tests marked `triton` run where `make triton` has been: in BERTH_TRITON_HOME, or in .venv-triton of this clone.
Elsewhere they are deselected and the run says so: a skip in the summary would soon be read as a pass.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import hypothesis
import pytest

import build_compiled
from berth.settings import environment

# A time limit per example would fail tests on a busy machine, and says nothing of the code.
hypothesis.settings.register_profile("berth", deadline=None)
hypothesis.settings.load_profile("berth")


# Before anything is imported: tests are of the sources that there are, compiled or not.
build_compiled.discard_stale()


def pytest_configure() -> None:
    # Python 3.11's policy would make an event loop for whoever asks first, and nobody would close it.
    asyncio.set_event_loop(None)


def _triton_home() -> Path | None:
    given = environment().get("BERTH_TRITON_HOME")
    home = Path(given) if given else Path(__file__).parent / ".venv-triton"
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
