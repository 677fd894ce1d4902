"""Kubernetes' external metrics API, read-only, so that HPA can follow the autoscaler's number without a metrics stack.

The cluster's API server forwards `/apis/external.metrics.k8s.io/v1beta1/…` here (an APIService points at this port). It
proves who it is by a client certificate of its front proxy's authority, with a common name that the cluster allows.
Nothing else may connect. Before it forwards, it has authenticated the caller and asked RBAC. So nothing is left to
decide about the caller here, and the headers that name the caller are not looked at. Jobs are the platform's, so every
namespace sees the same values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from berth.errors import BerthError
from controller.store import jobs
from controller.store.records import JobRecord
from controller.store.transaction import Transactions

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
METRIC = "berth_job_desired_replicas"
_ROOT = f"/apis/{GROUP}/{VERSION}"


class BadSelector(ValueError):
    """A label selector that is not understood."""


def build(transactions: Transactions, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Starlette:
    """The application, without TLS around it."""

    async def values(request: Request) -> Response:
        if request.path_params["metric"] != METRIC:
            return _status(404, "NotFound", f"there is no metric {request.path_params['metric']!r}")
        try:
            select = selector(request.query_params.get("labelSelector", ""))
            found = await transactions.read(jobs.every)
        except BadSelector as error:
            return _status(400, "BadRequest", str(error))
        except BerthError as error:
            return _status(503, "ServiceUnavailable", error.detail)
        return JSONResponse(
            {
                "kind": "ExternalMetricValueList",
                "apiVersion": f"{GROUP}/{VERSION}",
                "metadata": {},
                "items": [_value(job, now()) for job in found if job.decision is not None and select(job)],
            }
        )

    return Starlette(
        routes=[
            Route("/healthz", _fixed(PlainTextResponse("ok\n"))),
            Route("/apis", _fixed(JSONResponse(_GROUPS))),
            Route(f"/apis/{GROUP}", _fixed(JSONResponse(_GROUP))),
            Route(_ROOT, _fixed(JSONResponse(_RESOURCES))),
            Route(f"{_ROOT}/namespaces/{{namespace}}/{{metric}}", values),
        ]
    )


def selector(text: str) -> Callable[[JobRecord], bool]:
    """Which jobs a label selector such as `job=gpu` or `job in (gpu,cpu)` means. Raises `BadSelector`."""
    if not text:
        return lambda job: True
    label, equals, name = text.replace("==", "=").partition("=")
    if equals and label.strip() == "job" and not set(",()!") & set(name):
        return lambda job: job.name == name.strip()
    head, inside, tail = text.partition("(")
    if inside and head.split() == ["job", "in"] and tail.rstrip().endswith(")"):
        names = {part.strip() for part in tail.rstrip()[:-1].split(",")}
        return lambda job: job.name in names
    raise BadSelector(f"only job=NAME and job in (NAME,…) are understood, not {text!r}")


def _value(job: JobRecord, now: datetime) -> dict[str, Any]:
    assert job.decision is not None
    return {
        "metricName": METRIC,
        "metricLabels": {"job": job.name, "cell": job.cell},
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "value": str(job.decision.replicas),
    }


def _fixed(response: Response) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return response

    return answer


def _status(code: int, reason: str, message: str) -> Response:
    """An error as Kubernetes spells it."""
    return JSONResponse(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        },
        status_code=code,
    )


_PREFERRED = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
_GROUP = {
    "kind": "APIGroup",
    "apiVersion": "v1",
    "name": GROUP,
    "versions": [_PREFERRED],
    "preferredVersion": _PREFERRED,
}
_GROUPS = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]}
_RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [
        {
            "name": METRIC,
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
    ],
}
