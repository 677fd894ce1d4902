"""Alerts and dashboards: what the chart ships is what the code says, and what they say exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import typer.main

from berth.cli.app import make_app
from controller.settings import ControllerSettings
from deploy.monitoring.__main__ import stale
from deploy.monitoring.alerts import ALERTS, Alert
from deploy.monitoring.dashboards import DASHBOARDS, Dashboard
from router.settings import RouterSettings
from synchronizer.settings import SynchronizerSettings
from worker.settings import WorkerSettings

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
SETTINGS = {
    variable.name
    for settings in (ControllerSettings, RouterSettings, SynchronizerSettings, WorkerSettings)
    for variable in settings.variables()
}


def expressions(dashboard: Dashboard) -> Iterator[str]:
    """As Prometheus gets them, Grafana's variables filled in."""
    for row in dashboard.rows:
        for panel in row.panels:
            for query in panel.queries:
                yield query.expr.replace("$__rate_interval", "5m").replace("$namespace", "berth").replace("$cell", ".*")


def test_the_chart_has_what_the_code_says() -> None:
    assert stale() == [], "run `python -m deploy.monitoring`"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_can_be_evaluated_and_says_what_to_do(alert: Alert) -> None:
    assert promql_parser.parse(alert.expr) is not None
    assert (RUNBOOKS / f"{alert.name}.md").read_text().startswith(f"# {alert.name}\n")
    assert alert.summary.endswith(".")


def test_no_runbook_is_left_over() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboard_can_be_drawn(dashboard: Dashboard) -> None:
    for expression in expressions(dashboard):
        assert promql_parser.parse(expression) is not None
    panels = json.loads(json.dumps(dashboard.render()))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_names_only_what_there_is(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"BERTH_[A-Z_]+", text)) <= SETTINGS
    tree = typer.main.get_command(make_app())
    for command in re.findall(r"`berth ([a-z -]+)", text):
        at: object = tree
        for word in command.split():
            commands = getattr(at, "commands", None)
            if commands is None:
                break
            assert word in commands, command
            at = commands[word]
