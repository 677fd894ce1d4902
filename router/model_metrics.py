"""Requests by model, for as many models as the operator wants to see: their number has no bound, a label's must have.

Models get a label of their own in the order in which they are asked for; the others share `other`. What is counted
has been resolved, so that a stranger's inventions take up no label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from berth.ids import ModelKey

_OTHER = ("", "other")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ModelMetrics:
    """For `most` models; for none at all if that is 0."""

    def __init__(self, registry: CollectorRegistry, most: int) -> None:
        self._most = most
        self._known: set[ModelKey] = set()
        if most:
            labels = ["tenant", "model"]
            self._requests = Counter(
                "berth_router_model_requests",
                "Answers by model: good, bad, none.",
                [*labels, "answer"],
                registry=registry,
            )
            self._seconds = Histogram(
                "berth_router_model_seconds",
                "Time from admission to the answer.",
                labels,
                buckets=_SECONDS,
                registry=registry,
            )

    @property
    def counts(self) -> bool:
        """Whether there is anything to be told."""
        return bool(self._most)

    def answered(self, key: ModelKey, answer: str, seconds: float) -> None:
        """A request for `key` ended after `seconds`; `answer` is good, bad (a replica's refusal) or none."""
        if not self._most:
            return
        if key not in self._known and len(self._known) < self._most:
            self._known.add(key)
        tenant, model = key if key in self._known else _OTHER
        self._requests.labels(tenant, model, answer).inc()
        self._seconds.labels(tenant, model).observe(seconds)
