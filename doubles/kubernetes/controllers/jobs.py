"""Jobs: pods until enough of them succeeded, or too many failed."""

from __future__ import annotations

from doubles.kubernetes.controllers.cluster import (
    PODS,
    Cluster,
    is_active,
    is_going,
    with_condition,
    without_zeros,
)
from doubles.kubernetes.kinds import Object
from doubles.kubernetes.moments import stamp


def reconcile(cluster: Cluster, job: Object) -> None:
    spec, status = job["spec"], job.get("status", {})
    if is_going(job) or any(item["type"] in {"Complete", "Failed"} for item in status.get("conditions") or ()):
        return
    pods = cluster.children(job, PODS)
    active = [pod for pod in pods if is_active(pod)]
    succeeded = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
    failed = sum(pod["status"]["phase"] == "Failed" for pod in pods)
    told: Object = {"startTime": status.get("startTime") or stamp(cluster.now)}
    ended = _end(spec, succeeded, failed)
    if ended is not None:
        for pod in active:
            cluster.delete(pod)
        told["conditions"] = with_condition((), ended, cluster.now)
        if ended["type"] == "Complete":
            told["completionTime"] = stamp(cluster.now)
        active = []
    elif not spec.get("suspend"):
        for _ in range(min(spec["parallelism"], spec["completions"] - succeeded) - len(active)):
            name = f"{job['metadata']['name']}-"
            active.append(cluster.create_pod(job, spec["template"], {"generateName": name}))
    ready = cluster.counts(active, 0)[0]
    counts = {"active": len(active), "ready": ready, "succeeded": succeeded, "failed": failed}
    cluster.set_status(job, told | without_zeros(counts))


def _end(spec: Object, succeeded: int, failed: int) -> Object | None:
    if succeeded >= spec["completions"]:
        return {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": ""}
    if failed > spec["backoffLimit"]:
        message = "Job has reached the specified backoff limit"
        return {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}
    return None
