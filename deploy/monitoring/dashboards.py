"""Grafana dashboards as values: rows of panels, each with a few queries. Layout and boilerplate are made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT = 8, 8  # three panels in a row of Grafana's 24 columns
_SCHEMA = 39
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_IN = 'namespace="$namespace", cell=~"$cell"'
_HERE = 'namespace="$namespace"'


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A time series. `unit` is one of Grafana's: reqps, s, bytes, percentunit, short. `about` says how to read it."""

    title: str
    unit: str
    queries: Sequence[Query]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`uid` is also the name of the file."""

    uid: str
    title: str
    rows: Sequence[Row]

    def render(self) -> dict[str, Any]:
        """As Grafana imports it."""
        panels: list[dict[str, Any]] = []
        y = 0
        for row in self.rows:
            panels.append(_row(row.title, len(panels) + 1, y))
            y += 1
            for at, panel in enumerate(row.panels):
                place = {"x": at % 3 * _WIDTH, "y": y + at // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
                panels.append(_panel(panel, len(panels) + 1, place))
            y += -(-len(row.panels) // 3) * _HEIGHT
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["berth"],
            "schemaVersion": _SCHEMA,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "templating": {"list": _variables()},
            "panels": panels,
        }


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query.expr, "legendFormat": query.legend, "datasource": _DATASOURCE}
            for at, query in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    def choice(name: str, query: str, several: bool) -> dict[str, Any]:
        return {
            "name": name,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": query,
            "refresh": 2,
            "multi": several,
            "includeAll": several,
        }

    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        choice("namespace", "label_values(berth_router_in_flight, namespace)", several=False),
        choice("cell", 'label_values(berth_router_in_flight{namespace="$namespace"}, cell)', several=True),
    ]


def _rate(metric: str, by: str, *, where: str = _IN, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{where}{more}}}[$__rate_interval]))"


def _quantile(q: float, metric: str, *, where: str = _IN) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def _slowest(title: str, by: str) -> Panel:
    rate = f"rate(berth_router_model_seconds_bucket{{{_IN}}}[$__rate_interval])"
    query = f"topk(10, histogram_quantile(0.99, sum by (le, {by}) ({rate})))"
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(title, "s", [Query(query, legend)], "Empty unless BERTH_METRICS_MODELS of the routers is above 0.")


def _latency(title: str, metric: str, *, where: str = _IN) -> Panel:
    return Panel(title, "s", [Query(_quantile(q, metric, where=where), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)])


TRAFFIC = Dashboard(
    "berth-traffic",
    "Berth: traffic",
    [
        Row(
            "What clients see",
            [
                Panel(
                    "Answers", "reqps", [Query(_rate("berth_router_requests_total", "wire, code"), "{{wire}} {{code}}")]
                ),
                _latency("Time to the whole answer", "berth_router_request_seconds"),
                Panel(
                    "Refused before a replica saw them",
                    "reqps",
                    [Query(_rate("berth_router_refused_total", "why"), "{{why}}")],
                    "rate, bytes, concurrency: the tenants' limits. full, late, timed_out: the router's own room.",
                ),
            ],
        ),
        Row(
            "Routers",
            [
                Panel(
                    "Requests under way",
                    "short",
                    [
                        Query(f"sum by (pod) (berth_router_in_flight{{{_IN}}})", "{{pod}}"),
                        Query(f"sum by (what) (berth_router_waiting{{{_IN}}})", "waiting for a {{what}}"),
                    ],
                ),
                Panel(
                    "Connections and buffered bytes",
                    "short",
                    [
                        Query(f"sum by (pod) (berth_router_connections{{{_IN}}})", "connections {{pod}}"),
                        Query(f"sum(berth_router_buffered_bytes{{{_IN}}}) / 1048576", "buffered MiB"),
                    ],
                ),
                Panel(
                    "Generation of the route table",
                    "short",
                    [Query(f"max by (pod) (berth_router_route_generation{{{_IN}}})", "{{pod}}")],
                    "Lines that part for more than a moment are routers that are cut off.",
                ),
            ],
        ),
        Row(
            "Slowest ten, 99 of 100 requests",
            [
                _slowest("Models", "tenant, model"),
                _slowest("Versions on replicas", "tenant, model, version, replica"),
                Panel(
                    "Requests that no replica answered well",
                    "reqps",
                    [
                        Query(
                            _rate(
                                "berth_router_model_seconds_count",
                                "tenant, model, outcome",
                                more=',outcome=~"bad|none"',
                            ),
                            "{{tenant}} {{model}} {{outcome}}",
                        )
                    ],
                    "Empty unless BERTH_METRICS_MODELS of the routers is above 0.",
                ),
            ],
        ),
        Row(
            "Hedges and retries",
            [
                Panel(
                    "Second copies",
                    "reqps",
                    [Query(_rate("berth_router_hedges_total", "event"), "{{event}}")],
                    "won: the second copy answered first. wasted: the loser could not be withdrawn.",
                ),
                Panel(
                    "Not sent",
                    "reqps",
                    [
                        Query(_rate("berth_router_hedges_denied_total", "reason"), "denied: {{reason}}"),
                        Query(_rate("berth_router_hedges_unarmed_total", "reason"), "unarmed: {{reason}}"),
                    ],
                ),
                Panel(
                    "Attempts that failed",
                    "reqps",
                    [
                        Query(_rate("berth_router_attempt_failures_total", "failure"), "{{failure}}"),
                        Query(_rate("berth_router_retries_total", "cell"), "retries {{cell}}"),
                        Query(_rate("berth_router_ejections_total", "cause"), "ejected: {{cause}}"),
                    ],
                ),
            ],
        ),
    ],
)

FLEET = Dashboard(
    "berth-fleet",
    "Berth: workers",
    [
        Row(
            "What they hold",
            [
                Panel("Versions held", "short", [Query(f"berth_worker_held_versions{{{_IN}}}", "{{pod}}")]),
                Panel(
                    "Memory of versions, of what they may take",
                    "percentunit",
                    [
                        Query(
                            f"berth_worker_memory_used_bytes{{{_IN}}} / berth_worker_memory_limit_bytes{{{_IN}}}",
                            "{{pod}}",
                        )
                    ],
                ),
                Panel(
                    "Replicas of each job",
                    "short",
                    [
                        Query(f"max by (job) (berth_job_desired_replicas{{{_HERE}}})", "{{job}} desired"),
                        Query(f"max by (job) (berth_job_max_replicas{{{_HERE}}})", "{{job}} at most"),
                    ],
                    "What the autoscaler wants; see `berth pool list` for its reasons.",
                ),
            ],
        ),
        Row(
            "Loading",
            [
                Panel("Loads", "short", [Query(_rate("berth_worker_loads_total", "outcome"), "{{outcome}}")]),
                _latency("Time to load", "berth_worker_load_seconds"),
                Panel(
                    "Unloads and drains cut short",
                    "short",
                    [
                        Query(_rate("berth_worker_unloads_total", "cell"), "unloads {{cell}}"),
                        Query(_rate("berth_worker_forced_drains_total", "cell"), "cut short {{cell}}"),
                    ],
                ),
            ],
        ),
        Row(
            "Inference",
            [
                Panel(
                    "Requests",
                    "reqps",
                    [Query(_rate("berth_worker_inference_requests_total", "outcome"), "{{outcome}}")],
                ),
                _latency("Time of good answers", "berth_worker_inference_seconds"),
                Panel(
                    "Under way, and given up after they had begun",
                    "short",
                    [
                        Query(f"sum by (pod) (berth_worker_inference_in_flight{{{_IN}}})", "{{pod}}"),
                        Query(_rate("berth_worker_wasted_total", "cell"), "wasted per second {{cell}}"),
                    ],
                ),
            ],
        ),
    ],
)

CONTROL = Dashboard(
    "berth-control",
    "Berth: control plane",
    [
        Row(
            "Controller",
            [
                Panel(
                    "Requests",
                    "reqps",
                    [Query(_rate("berth_http_requests_total", "status", where=_HERE), "{{status}}")],
                ),
                _latency("Time to the end of an answer", "berth_http_seconds", where=_HERE),
                _latency("Transactions, retries included", "berth_transaction_seconds", where=_HERE),
            ],
        ),
        Row(
            "Uploads and rollouts",
            [
                Panel(
                    "Uploads",
                    "short",
                    [
                        Query(_rate("berth_uploads_total", "outcome", where=_HERE), "{{outcome}}"),
                        Query(_rate("berth_placement_refusals_total", "namespace", where=_HERE), "no room"),
                    ],
                ),
                Panel(
                    "Steps of rollouts",
                    "short",
                    [Query(_rate("berth_rollout_steps_total", "step", where=_HERE), "{{step}}")],
                ),
                Panel(
                    "Transactions run again",
                    "short",
                    [Query(_rate("berth_transaction_retries_total", "cause", where=_HERE), "{{cause}}")],
                ),
            ],
        ),
        Row(
            "Synchronizers",
            [
                Panel(
                    "Who leads",
                    "short",
                    [
                        Query(f"berth_synchronizer_leading{{{_IN}}}", "{{pod}} leads"),
                        Query(f"berth_synchronizer_lease_held{{{_IN}}}", "{{pod}} holds the lease"),
                    ],
                    "Two that lead at once are told apart by their epochs; the older one is refused by everyone.",
                ),
                Panel(
                    "Streams",
                    "short",
                    [
                        Query(f"berth_synchronizer_replicas_connected{{{_IN}}}", "replicas {{pod}}"),
                        Query(f"berth_synchronizer_routers_connected{{{_IN}}}", "routers {{pod}}"),
                        Query(f"berth_discovery_age_seconds{{{_IN}}}", "age of {{collection}}, s {{pod}}"),
                    ],
                ),
                Panel(
                    "What they send",
                    "short",
                    [
                        Query(_rate("berth_synchronizer_route_updates_total", "cell"), "route tables {{cell}}"),
                        Query(_rate("berth_synchronizer_aspired_sets_total", "cell"), "aspired sets {{cell}}"),
                        Query(
                            _rate("berth_synchronizer_withdraw_timeouts_total", "cell"), "withdraw time-outs {{cell}}"
                        ),
                    ],
                ),
            ],
        ),
    ],
)

DASHBOARDS: Sequence[Dashboard] = (TRAFFIC, FLEET, CONTROL)
