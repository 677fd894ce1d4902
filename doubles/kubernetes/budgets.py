"""Pod disruption budgets: how many pods may go now, and whether one may be evicted. Pure.

The numbers follow the disruption controller, the refusals the eviction subresource. The real server reads the numbers
from the budget's status, which its controller brings up to date a moment later; here they are computed when asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from doubles.kubernetes.kinds import Object
from doubles.kubernetes.selectors import requirements_of, selects
from doubles.kubernetes.status import ApiError, too_many_requests

_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


class Health(NamedTuple):
    """The numbers of a budget's status."""

    current: int
    desired: int
    expected: int

    @property
    def allowed(self) -> int:
        return max(0, self.current - self.desired) if self.expected > 0 else 0

    def status(self, generation: int) -> Object:
        reason = ("SufficientPods", "True") if self.allowed else ("InsufficientPods", "False")
        return {
            "observedGeneration": generation,
            "currentHealthy": self.current,
            "desiredHealthy": self.desired,
            "expectedPods": self.expected,
            "disruptionsAllowed": self.allowed,
            "conditions": [{"type": "DisruptionAllowed", "status": reason[1], "reason": reason[0], "message": ""}],
        }


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition is true."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready":
            return bool(condition["status"] == "True")
    return False


def is_finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def portion(value: int | str, total: int, *, up: bool) -> int:
    """An int-or-percent of `total`."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * total / 100
    return math.ceil(share) if up else math.floor(share)


def covers(budget: Object, pod: Object) -> bool:
    same = budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
    selector = requirements_of(budget["spec"].get("selector"))
    return same and selects(selector, pod["metadata"].get("labels"))


def health(budget: Object, pods: Sequence[Object], expected: int) -> Health:
    """`pods` are those that the budget covers; `expected` is the sum of their owners' replicas."""
    spec = budget["spec"]
    going = budget.get("status", {}).get("disruptedPods") or {}
    live = [pod for pod in pods if not is_finished(pod)]
    current = sum(
        is_ready(pod) and "deletionTimestamp" not in pod["metadata"] and pod["metadata"]["name"] not in going
        for pod in live
    )
    if "maxUnavailable" in spec:
        desired = max(0, expected - portion(spec["maxUnavailable"], expected, up=True))
    elif isinstance(spec.get("minAvailable", 1), int):
        desired, expected = spec.get("minAvailable", 1), len(live)
    else:
        desired = portion(spec["minAvailable"], expected, up=True)
    return Health(current, desired, expected)


def refusal(pod: Object, budgets: Sequence[tuple[Object, Health]]) -> ApiError | None:
    """Why a pod may not be evicted under the budgets that cover it; None: it may."""
    if is_finished(pod) or pod.get("status", {}).get("phase") == "Pending" or "deletionTimestamp" in pod["metadata"]:
        return None
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        return ApiError(500, "", message)
    for budget, numbers in budgets:
        if not is_ready(pod) and (
            budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
            or (numbers.current >= numbers.desired and numbers.desired > 0)
        ):
            return None
        if numbers.allowed == 0:
            name = budget["metadata"]["name"]
            why = f"The disruption budget {name} does not allow evicting pods currently"
            if numbers.current <= numbers.desired:
                needs = f"needs {numbers.desired} healthy pods and has {numbers.current} currently"
                why = f"The disruption budget {name} {needs}"
            return too_many_requests(_REFUSED, 0, [{"reason": "DisruptionBudget", "message": why}])
    return None
