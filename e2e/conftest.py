"""Stacks that tests share: one that is only used, and none that is hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from berth.client import Berth
from berth.states import Role
from e2e.models import multiplier
from e2e.stack import Stack


class Tenant(NamedTuple):
    """A tenant with a developer's key, and a client that uses it."""

    name: str
    key: str
    client: Berth


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that outlives the test: nothing in it may be killed, and every test uses tenants of its own."""
    limits = {
        "BERTH_MAX_ARTIFACT_BYTES": str(64 << 20),
        "BERTH_MAX_BODY_BYTES": str(8 << 20),
        "BERTH_BODY_TIMEOUT_S": "2",
        "BERTH_BODY_PAUSE_S": "2",
    }
    stack = Stack(tmp_path_factory.mktemp("stack"), ("--workers", "2", "--memory-per-worker", "256MiB"), limits)
    try:
        yield stack.start()
        assert stack.stop() == 0, stack.said()
    finally:
        stack.abandon()


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes stacks for one test to hurt; they are gone afterwards."""
    made: list[Stack] = []

    def make(*options: str, **environ: str) -> Stack:
        stack = Stack(tmp_path / f"stack-{len(made)}", options, environ)
        made.append(stack)
        return stack.start()

    yield make
    for stack in made:
        stack.abandon()


def make_tenant(stack: Stack, name: str) -> Tenant:
    """A fresh tenant with a developer key."""
    with stack.client() as admin:
        admin.tenants.create(name)
        key = admin.of(name).keys.create(Role.DEVELOPER).secret
    return Tenant(name, key, stack.client(key))


def upload(tenant: Tenant, model: str, content: bytes, folder: Path) -> int:
    """Upload `content` as the next version of `model` and wait until it can be queried."""
    path = folder / f"{model}.onnx"
    path.write_bytes(content)
    version = tenant.client.versions.upload(model, path).version
    tenant.client.wait_available(model, version, timeout=30)
    return version


@pytest.fixture(scope="session")
def multiplying(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """Tenant `plain` with the model `times` that multiplies by three."""
    tenant = make_tenant(stack, "plain")
    upload(tenant, "times", multiplier(3), tmp_path_factory.mktemp("models"))
    return tenant
