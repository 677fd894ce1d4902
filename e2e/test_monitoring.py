"""What dashboards and alerts name is on the pages that processes really show."""

from __future__ import annotations

import re

import httpx

from deploy.monitoring.alerts import ALERTS
from deploy.monitoring.dashboards import DASHBOARDS
from e2e.stack import Stack

# Shown only where they mean something: on Kubernetes, and with certificates.
_ELSEWHERE = {"berth_discovery_age_seconds", "berth_tls_certificate_expires_timestamp_seconds"}


def series(family: str, kind: str) -> set[str]:
    """The names of the series of a family, as the exposition format spells them."""
    if kind == "histogram":
        return {f"{family}_bucket", f"{family}_sum", f"{family}_count"}
    return {family}


def test_every_series_that_is_watched_exists(stack: Stack) -> None:
    shown: set[str] = set()
    for process in stack.processes().values():
        port = process.ports.get("rest") or process.ports.get("admin")
        if port is None:
            continue
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
        for family, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
            shown |= series(family, kind)
    watched = [alert.expr for alert in ALERTS]
    watched += [query.expr for one in DASHBOARDS for row in one.rows for panel in row.panels for query in panel.queries]
    named = {name for expression in watched for name in re.findall(r"\bberth_[a-z_]+", expression)}
    assert named - shown - _ELSEWHERE == set()
