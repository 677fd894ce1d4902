"""The alerts: few, each with something to do about it. The runbook of one is `docs/runbooks/NAME.md`.

Series carry the labels that the chart's PodMonitor adds: `namespace` and `cell`, and `pod` of course.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

RUNBOOKS = "docs/runbooks"


class Severity(StrEnum):
    """`CRITICAL`: requests fail or soon will, wake somebody. `WARNING`: look at it in working hours."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """`expr` must hold for `minutes` before anyone is told. `summary` is a sentence; it may use Prometheus's labels."""

    name: str
    expr: str
    minutes: int
    severity: Severity
    summary: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus wants it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.minutes}m",
            "labels": {"severity": str(self.severity)},
            "annotations": {"summary": self.summary, "runbook": f"{RUNBOOKS}/{self.name}.md"},
        }


_BY_CELL = "by (namespace, cell)"
_BY_POD = "by (namespace, cell, pod)"
# Answers that are the service's fault and not the caller's.
_FAILED = 'code=~"5..|INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"'

ALERTS: Sequence[Alert] = (
    Alert(
        "BerthRequestsFail",
        f"sum {_BY_CELL} (rate(berth_router_requests_total{{{_FAILED}}}[5m]))"
        f" / sum {_BY_CELL} (rate(berth_router_requests_total[5m])) > 0.01",
        5,
        Severity.CRITICAL,
        "{{ $value | humanizePercentage }} of the requests in cell {{ $labels.cell }} fail.",
    ),
    Alert(
        "BerthRouterFull",
        f'sum {_BY_CELL} (rate(berth_router_refused_total{{why=~"full|late|timed_out"}}[5m])) > 0',
        5,
        Severity.CRITICAL,
        "Routers of cell {{ $labels.cell }} turn requests away: they are full.",
    ),
    Alert(
        "BerthColdRequestsRefused",
        f'sum {_BY_CELL} (rate(berth_router_refused_total{{why="cold"}}[5m])) > 0',
        10,
        Severity.WARNING,
        "Requests in cell {{ $labels.cell }} ask for versions that are not loaded in time.",
    ),
    Alert(
        "BerthHedgeBudgetSpent",
        f'sum {_BY_CELL} (rate(berth_router_hedges_denied_total{{reason="budget"}}[10m]))'
        f' > sum {_BY_CELL} (rate(berth_router_hedges_total{{event="sent"}}[10m]))',
        15,
        Severity.WARNING,
        "More hedges are due in cell {{ $labels.cell }} than the budget allows: replicas are slow.",
    ),
    Alert(
        "BerthReplicasEjected",
        f"sum {_BY_CELL} (increase(berth_router_ejections_total[15m])) > 10",
        5,
        Severity.WARNING,
        "Routers of cell {{ $labels.cell }} keep judging replicas unfit.",
    ),
    Alert(
        "BerthRoutersDisagree",
        f"max {_BY_CELL} (berth_router_route_generation) - min {_BY_CELL} (berth_router_route_generation) > 0",
        3,
        Severity.CRITICAL,
        "A router of cell {{ $labels.cell }} is behind the others: it is cut off from the synchronizer.",
    ),
    Alert(
        "BerthNoActiveSynchronizer",
        f"max {_BY_CELL} (berth_synchronizer_leading) == 0",
        1,
        Severity.CRITICAL,
        "No synchronizer leads cell {{ $labels.cell }}: inference goes on, changes do not arrive.",
    ),
    Alert(
        "BerthLeaderWithoutLease",
        "berth_synchronizer_leading == 1 and berth_synchronizer_lease_held == 0",
        5,
        Severity.WARNING,
        "{{ $labels.pod }} leads cell {{ $labels.cell }} but reaches no controller.",
    ),
    Alert(
        "BerthDiscoveryStale",
        "berth_discovery_age_seconds > 120 and on (namespace, cell, pod) berth_synchronizer_leading == 1",
        2,
        Severity.WARNING,
        "{{ $labels.pod }} has not heard of {{ $labels.collection }} from the API for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "BerthWithdrawTimeouts",
        f"sum {_BY_CELL} (increase(berth_synchronizer_withdraw_timeouts_total[15m])) > 0",
        1,
        Severity.WARNING,
        "A version in cell {{ $labels.cell }} was unloaded though a router had not acknowledged.",
    ),
    Alert(
        "BerthStateFolderUnwritable",
        f"sum {_BY_POD} (increase(berth_synchronizer_disk_errors_total[10m])) > 0",
        5,
        Severity.WARNING,
        "{{ $labels.pod }} cannot write its state folder: after a restart it would know nothing without a controller.",
    ),
    Alert(
        "BerthLoadsFail",
        f'sum {_BY_CELL} (increase(berth_worker_loads_total{{outcome="failed"}}[15m])) > 3',
        5,
        Severity.WARNING,
        "Loads keep failing in cell {{ $labels.cell }}.",
    ),
    Alert(
        "BerthWorkerMemoryShort",
        "berth_worker_memory_used_bytes / berth_worker_memory_limit_bytes > 0.95",
        15,
        Severity.WARNING,
        "{{ $labels.pod }} uses {{ $value | humanizePercentage }} of the memory for versions.",
    ),
    Alert(
        "BerthWorkerCutOff",
        "berth_worker_synchronizers == 0",
        5,
        Severity.WARNING,
        "{{ $labels.pod }} hears from no synchronizer: it serves on, and takes no changes.",
    ),
    Alert(
        "BerthForcedDrains",
        f"sum {_BY_CELL} (increase(berth_worker_forced_drains_total[15m])) > 0",
        1,
        Severity.WARNING,
        "Drains in cell {{ $labels.cell }} are cut short: requests outlive BERTH_DRAIN_TIMEOUT_S.",
    ),
    Alert(
        "BerthPlacementRefused",
        "sum by (namespace) (increase(berth_placement_refusals_total[15m])) > 0",
        1,
        Severity.WARNING,
        "Uploads are refused for want of room.",
    ),
    Alert(
        "BerthControllerErrors",
        'sum by (namespace) (rate(berth_http_requests_total{status=~"5.."}[5m])) > 0.1',
        5,
        Severity.CRITICAL,
        "The control API answers with server errors.",
    ),
    Alert(
        "BerthTransactionsSlow",
        "histogram_quantile(0.99, sum by (namespace, le) (rate(berth_transaction_seconds_bucket[5m]))) > 2",
        10,
        Severity.WARNING,
        "Transactions take {{ $value | humanizeDuration }} (p99): PostgreSQL is slow or contended.",
    ),
    Alert(
        "BerthJobAtItsMaximum",
        "berth_job_desired_replicas >= berth_job_max_replicas and berth_job_max_replicas > 0",
        15,
        Severity.WARNING,
        "Job {{ $labels.job }} has as many replicas as it may have.",
    ),
    Alert(
        "BerthCertificateExpires",
        "berth_tls_certificate_expires_timestamp_seconds - time() < 7 * 24 * 3600",
        60,
        Severity.CRITICAL,
        "The certificate of {{ $labels.pod }} expires in {{ $value | humanizeDuration }}.",
    ),
)


def rules() -> dict[str, Any]:
    """The body of a PrometheusRule."""
    return {"groups": [{"name": "berth", "rules": [alert.rule() for alert in ALERTS]}]}
