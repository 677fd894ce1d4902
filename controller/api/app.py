"""The application: routers, problem documents, health and the schema, without a server around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from berth import __name__ as product
from berth.errors import BerthError
from berth.telemetry import CONTENT_TYPE_LATEST, metrics_text
from controller.api import event_routes, job_routes, model_routes, problems, tenant_routes, version_routes
from controller.api.calls import Services
from controller.api.edge import Edge

_ROUTERS = (
    tenant_routes.router,
    model_routes.router,
    version_routes.router,
    job_routes.router,
    event_routes.router,
)


def build_app(
    services: Services,
    registry: CollectorRegistry,
    readiness: Callable[[], Awaitable[str | None]],
    *,
    pause_s: float,
) -> ASGIApp:
    """The control API as an ASGI application. `readiness` says why the process is not ready, or None."""
    app = FastAPI(title=product, version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    problems.install(app)
    for router in _ROUTERS:
        app.include_router(router, responses=problems.RESPONSES)
    _add_probes(app, registry, readiness)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
    return Edge(app, services.max_artifact_bytes, registry, pause_s=pause_s)


def _add_probes(app: FastAPI, registry: CollectorRegistry, readiness: Callable[[], Awaitable[str | None]]) -> None:
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    async def readyz() -> Response:
        try:
            reason = await readiness()
        except BerthError as error:
            reason = error.detail
        return PlainTextResponse("ok\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    async def metrics() -> Response:
        return Response(await metrics_text(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, include_in_schema=False)


def _describe(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title="Berth control API", version="1", routes=app.routes)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = problems.Problem.model_json_schema()
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"key": []}]
    for operations in schema["paths"].values():
        for operation in operations.values():
            # The security scheme says it; as a parameter, tools would fill it with noise.
            kept = [entry for entry in operation.get("parameters", ()) if entry["name"] != "authorization"]
            operation["parameters"] = kept
    return schema
