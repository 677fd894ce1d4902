"""What to store as a job's number of replicas, from what was decided and what its workload is seen to have.

Contract of `settle_replicas`:

1. Where a workload runs the replicas, the job's number is the workload's.
2. Where none does and Berth scales the job, the job's own number follows the decision (`berth up` follows the job). A
   job of the pools file waits for its workload instead.
3. A decision is stored once, when its number is new; its cell is told only if Berth scales the workload.
4. Carried out, it finds nothing more to do.
"""

from __future__ import annotations

from typing import NamedTuple

from berth.states import ScalingMode
from controller.core.autoscaling.scaler import Decision
from controller.core.change import UNCHANGED
from controller.core.jobs import JobChange


class JobNumbers(NamedTuple):
    """A job's numbers of replicas: the stored one, the last decided, and what its workload is told to have (None: there
    is none)."""

    job: str
    mode: ScalingMode
    from_file: bool
    replicas: int
    decided: int | None
    observed: int | None


class Settlement(NamedTuple):
    """What to set of a job, while it is scaled in this `mode`. `decision` is a new one, `before` the number before it.

    `asked`: its cell is to be told.
    """

    job: str
    mode: ScalingMode
    change: JobChange
    asked: bool = False
    decision: Decision | None = None
    before: int | None = None


def settle_replicas(numbers: JobNumbers, decision: Decision | None) -> Settlement | None:
    """What is to be stored of a job; None if all is as it should be. See the module's contract."""
    new = decision if decision is not None and decision.replicas != numbers.decided else None
    decided = numbers.decided if new is None else new.replicas
    if numbers.observed is not None:
        replicas = numbers.observed
    elif numbers.mode is ScalingMode.BERTH and not numbers.from_file and decided is not None:
        replicas = decided
    else:
        replicas = numbers.replicas
    change = JobChange(
        replicas=UNCHANGED if replicas == numbers.replicas else replicas, decision=UNCHANGED if new is None else new
    )
    if not change:
        return None
    asked = new is not None and numbers.mode is ScalingMode.BERTH
    return Settlement(numbers.job, numbers.mode, change, asked, new, numbers.decided)


def start(numbers: JobNumbers) -> int:
    """From how many replicas an autoscaler begins that has just taken over."""
    if numbers.decided is not None:
        return numbers.decided
    return numbers.replicas if numbers.observed is None else numbers.observed
