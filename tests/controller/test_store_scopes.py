"""Whoever reads rows of tenants from the store says whose: no function can forget the filter of its own accord."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from berth.ids import ModelKey
from berth.model import Artifact, Signature
from berth.resources import Resources
from berth.states import Role, Runtime
from controller import store
from controller.core.commands import START
from controller.core.events import ModelCreated, model_subject
from controller.core.jobs import NewJob
from controller.core.quota import Quota
from controller.store import artifacts, assignments, cells, events, jobs, keys, models, tenants, versions
from controller.store.scope import EVERY_TENANT, PLATFORM
from controller.store.transaction import Transactions, Tx

OF_TENANTS = re.compile(
    r"\b(TenantRecord|KeyRecord|ModelRecord|VersionRecord|AssignmentRecord|ServableRecord|EventRecord"
    r"|ApiKey|TenantLimits|ElsewhereRow)\b"
)
# What says whose: a scope, or something that has its tenant in it. A tenant's name is one.
SAYS_WHOSE = re.compile(r"\b(TenantScope|Owner|ModelKey|ModelRecord|VersionRecord)\b")
# With the reason.
EXEMPT = {
    "keys.find_by_hash": "who calls is only known by it",
    "tenants.find": "its name is the tenant's",
}


def readers() -> Iterator[tuple[str, inspect.Signature]]:
    for module in pkgutil.iter_modules(store.__path__):
        found = importlib.import_module(f"controller.store.{module.name}")
        for name, function in inspect.getmembers(found, inspect.iscoroutinefunction):
            if not name.startswith("_") and function.__module__ == found.__name__:
                yield f"{module.name}.{name}", inspect.signature(function)


def test_every_reader_of_tenants_rows_is_told_whose() -> None:
    walked = dict(readers())
    assert len(walked) > 50
    assert walked.keys() >= EXEMPT.keys()
    of_tenants = {name: it for name, it in walked.items() if OF_TENANTS.search(str(it.return_annotation))}
    assert len(of_tenants) > 15
    for name, signature in of_tenants.items():
        told = [it for it in signature.parameters.values() if SAYS_WHOSE.search(str(it.annotation))]
        assert told or name in EXEMPT, f"{name} reads rows of tenants, and is not told whose"


async def test_a_scope_is_a_filter(transactions: Transactions) -> None:
    async def prepare(tx: Tx) -> list[int]:
        await cells.ensure(tx, "local")
        await jobs.add(tx, "pool", NewJob("local", Runtime.ONNXRUNTIME, "cpu", 1, 1 << 30))
        await artifacts.touch(tx, "a" * 64, 1)
        ids = []
        for number, name in enumerate(("acme", "other")):
            await tenants.add(tx, name, replace(Quota(1, 1), weight=2.0 + number))
            model = await models.add(tx, ModelKey(name, "digits"), "")
            version = await versions.add(tx, model, 1, versions.NewVersion(Artifact("a" * 64, 1), Signature((), ()), 1))
            await assignments.assign(tx, version, "pool", Resources.host(1))
            await keys.add(tx, name, f"key-{name}", name.encode(), role=Role.VIEWER, description="")
            tx.tell(START, ModelCreated(model_subject(model.key), {}))
            ids.append(model.id)
        await keys.add(tx, PLATFORM, "key-platform", b"p", role=Role.ADMIN, description="")
        return ids

    ids = await transactions.run(prepare, fleet=True)

    async def read(tx: Tx, scope: Any) -> dict[str, set[Any]]:
        return {
            "models": {model.key.tenant for model in await models.find_by_ids(tx, scope, ids)},
            "every": {model.key.tenant for model in await models.every(tx, scope)},
            "ids": set(await models.ids_of(tx, scope, None)),
            "versions": {version.key.tenant for version in await versions.of_models(tx, scope, ids)},
            "numbers": set(await versions.live_numbers(tx, scope)),
            "assignments": {held.key.tenant for held in await assignments.of_models(tx, scope, ids)},
            "in cell": {held.key.tenant for held in await assignments.in_cell(tx, scope, "local")},
            "elsewhere": {row.key.tenant for row in await assignments.elsewhere(tx, scope, "another")},
            "page": {held.key.tenant for held in await assignments.page(tx, scope, ("", "", 0, ""), 10)},
            "events": {event.tenant for event in await events.page(tx, scope, 0, 10)},
            "limits": {limit.tenant for limit in await tenants.limits(tx, scope)},
            "keys": {key.tenant for key in await keys.live(tx, scope)},
        }

    everyone = await transactions.read(lambda tx: read(tx, EVERY_TENANT))
    for what, found in everyone.items():
        expected = set(ids) if what in ("ids", "numbers") else {"acme", "other"}
        assert found == expected | ({""} if what == "keys" else set()), what
    own = await transactions.read(lambda tx: read(tx, "acme"))
    for what, found in own.items():
        assert found == ({ids[0]} if what in ("ids", "numbers") else {"acme"}), what
    assert await transactions.read(lambda tx: keys.find(tx, "acme", "key-other")) is None
    assert await transactions.read(lambda tx: keys.find(tx, PLATFORM, "key-other")) is None
    assert [key.id for key in await transactions.read(lambda tx: keys.page(tx, PLATFORM, "", 10))] == ["key-platform"]
