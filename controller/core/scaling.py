"""How a job's number of replicas is decided, and by whom: exactly one owner at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berth.states import ScalingMode, ServiceClass


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """`target_queue_s` is how long requests may wait for their turn on a replica; fewer replicas only after they were
    too many for `stabilize_down_s`."""

    mode: ScalingMode = ScalingMode.MANUAL
    min_replicas: int = 1
    max_replicas: int = 10
    target_queue_s: float = 0.05
    stabilize_down_s: float = 300.0


def asked_replicas(mode: ScalingMode, wished: int | None, decided: int | None) -> int | None:
    """What the cell is told to scale the job to; None: somebody else decides, or nobody asked."""
    match mode:
        case ScalingMode.MANUAL:
            return wished
        case ScalingMode.BERTH:
            return decided
        case ScalingMode.EXTERNAL:
            return None


def owner(mode: ScalingMode) -> str:
    """Who owns the number, for refusals."""
    return {
        ScalingMode.MANUAL: "whoever scales its workload",
        ScalingMode.BERTH: "Berth's autoscaler",
        ScalingMode.EXTERNAL: "HPA or KEDA",
    }[mode]


def document_of(policy: ScalingPolicy) -> dict[str, Any]:
    """As the API, events and the database spell it."""
    return {
        "mode": str(policy.mode),
        "min_replicas": policy.min_replicas,
        "max_replicas": policy.max_replicas,
        "target_queue_ms": round(1e3 * policy.target_queue_s, 6),
        "stabilize_down_s": policy.stabilize_down_s,
    }


def policy_of(document: Mapping[str, Any]) -> ScalingPolicy:
    """The inverse of `document_of`."""
    return ScalingPolicy(
        ScalingMode(document["mode"]),
        document["min_replicas"],
        document["max_replicas"],
        document["target_queue_ms"] / 1e3,
        document["stabilize_down_s"],
    )


def may_sleep(service_class: ServiceClass, policy: ScalingPolicy) -> bool:
    """Whether an autoscaler may leave the job without any replica."""
    return service_class is ServiceClass.TEMPORARY and policy.min_replicas == 0
