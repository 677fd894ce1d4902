"""The OpenAPI document, and random requests made from it."""

from __future__ import annotations

import asyncio
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


async def test_the_document_describes_problems_and_the_key(controller: Any) -> None:
    document = await controller.get("/openapi.json")
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            problem = operation["responses"]["4XX"]["content"]
            assert problem == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, (
                method,
                path,
            )


async def test_random_requests_are_answered_as_the_document_says(controller: Any) -> None:
    await controller.tenant("acme")
    await controller.upload("acme/digits")
    url = str(controller.api.base_url)
    called = await asyncio.to_thread(call_everything, url, dict(controller.api.headers))
    assert called > 100
    assert (await controller.api.get("/readyz")).status_code == 200


def call_everything(url: str, headers: dict[str, str]) -> int:
    """Call every operation a few times; returns how many calls were made."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    called = 0
    credential = {"authorization": headers["authorization"]}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=6,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            nonlocal called
            called += 1
            case.validate_response(case.call(headers=credential), checks=CHECKS)

        call()
    return called
