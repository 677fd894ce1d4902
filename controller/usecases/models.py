"""Models, what their names resolve to, and the deletion of models and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from berth.errors import Conflict, InvalidArgument, NotFound
from berth.ids import ModelKey, check_name, parse_version
from berth.states import VersionState
from controller import default_answer
from controller.core import events, quota
from controller.core.commands import Command
from controller.store import assignments, cells, models, tenants, versions
from controller.store.records import AssignmentRecord, ModelRecord, VersionRecord
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.placement import assign_wanted
from controller.usecases.statuses import statuses
from controller.usecases.tenants import get as get_tenant
from controller.usecases.told import model_members, version_members


async def get(tx: Tx, key: ModelKey) -> ModelRecord:
    """Raises `NotFound`."""
    known = naming.storable(key.tenant) and naming.storable(key.model)
    model = await models.find(tx, key) if known else None
    if model is None:
        raise naming.no_model(key)
    return model


async def get_version(tx: Tx, model: ModelRecord, text: str) -> VersionRecord:
    """Raises `NotFound` if `text` is not a number, or not the number of a version."""
    number = parse_version(text)
    version = await versions.find(tx, model, number) if number is not None else None
    if version is None:
        raise naming.no_version(model.key, text)
    return version


async def create(tx: Tx, command: Command, key: ModelKey, description: str, asked: Sequence[str]) -> ModelRecord:
    """Raises `NotFound` without the tenant, `Conflict` if the name is taken, `QuotaExceeded`, and `InvalidArgument` for
    a cell that is none.
    """
    tenant = await get_tenant(tx, key.tenant)
    check_name("model", key.model)
    if await models.find(tx, key) is not None:
        raise Conflict(f"tenant {key.tenant!r} has a model {key.model!r} already")
    count, _ = await tenants.usage(tx, tenant.name)
    quota.check_models(tenant.quota.max_models, count)
    model = await models.add(tx, key, naming.check_text("description", description), await _checked(tx, asked))
    tx.change_desired()
    tx.tell(command, events.ModelCreated(events.model_subject(key), model_members(model)))
    return model


async def describe(tx: Tx, command: Command, model: ModelRecord, description: str) -> None:
    await models.describe(tx, model, naming.check_text("description", description))
    tx.tell(
        command,
        events.ModelUpdated(
            events.model_subject(model.key), {"description": model.description}, {"description": description}
        ),
    )


async def ask_for_cells(tx: Tx, command: Command, model: ModelRecord, asked: Sequence[str]) -> None:
    """Have a copy of the model in each cell that is `asked` for; none of them: in one, whichever has room.

    A copy elsewhere leaves when each of them answers. Raises `InvalidArgument` for a cell that is none, and
    `InsufficientCapacity`.
    """
    where = await _checked(tx, asked)
    if where == list(model.cells):
        return
    await models.set_cells(tx, model, where)
    await assign_wanted(tx, await get(tx, model.key), command.caller.tenant)
    tx.change_desired()
    subject = events.model_subject(model.key)
    tx.tell(command, events.ModelUpdated(subject, {"cells": list(model.cells)}, {"cells": where}, cells=where))


async def _checked(tx: Tx, asked: Sequence[str]) -> list[str]:
    """In order and each once. A cell is one that a job was ever in."""
    unknown = sorted(set(asked) - (await cells.generations(tx)).keys())
    if unknown:
        raise InvalidArgument(f"there is no cell {unknown[0]!r}")
    return sorted(set(asked))


async def set_default_answer(
    tx: Tx, command: Command, model: ModelRecord, outputs: Sequence[Mapping[str, Any]] | None
) -> None:
    """Have routers answer with `outputs`, as OIP spells them, when no replica does in time; None: with an error again.

    Raises `InvalidArgument` for what is no answer of the newest version, `PayloadTooLarge`, `QuotaExceeded`.
    """
    text = None if outputs is None else default_answer.encode(model.key.model, outputs)
    if text is not None:
        newest = None if model.latest is None else await versions.find(tx, model, model.latest)
        default_answer.check(text, None if newest is None else newest.signature)
        quota.check_default_answers(await models.default_answer_bytes(tx, model.key.tenant, model.id), len(text))
    if text == model.default_answer:
        return
    await models.set_default_answer(tx, model, text)
    tx.change_desired()
    before, after = events.difference(model_members(model), model_members(model._replace(default_answer=text)))
    tx.tell(command, events.ModelUpdated(events.model_subject(model.key), before, after))


async def serve(tx: Tx, command: Command, model: ModelRecord, pinned: int | None) -> None:
    """Let `pinned` answer requests that name no version, or the newest for None. It is assigned again if it has to be.

    Raises `InvalidArgument` for a version that is not there, `InsufficientCapacity` if there is no room for it.
    """
    if pinned is not None and await versions.find(tx, model, pinned) is None:
        raise InvalidArgument(f"model {model.key.model!r} has no version {pinned} to pin")
    if pinned == model.pinned:
        return
    await models.pin(tx, model, pinned)
    await assign_wanted(tx, await get(tx, model.key), command.caller.tenant)
    tx.change_desired()
    subject, before, after = events.model_subject(model.key), {"pinned": model.pinned}, {"pinned": pinned}
    if pinned is None:
        tx.tell(command, events.ModelUnpinned(subject, before, after))
    else:
        tx.tell(command, events.ModelPinned(subject, pinned, before, after))


async def set_label(tx: Tx, command: Command, model: ModelRecord, label: str, number: int, *, force: bool) -> None:
    """Point `label` at a version: requests that name the label go there from now on.

    So the version must be available, unless `force` says that requests may wait. Raises `Conflict` if it is not.
    """
    check_name("label", label)
    if parse_version(label) is not None:
        raise InvalidArgument(f"label {label!r} looks like a version number: requests could not tell them apart")
    version = await versions.find(tx, model, number)
    if version is None:
        raise InvalidArgument(f"model {model.key.model!r} has no version {number} to label")
    if not force:
        state = (await statuses(tx, model.key.tenant, [version]))[version.key].state
        if state is not VersionState.AVAILABLE:
            raise Conflict(f"version {number} is {state}, not available; add ?force=true to label it all the same")
    if model.labels.get(label) == number:
        return
    await models.set_label(tx, model, label, number)
    await assign_wanted(tx, await get(tx, model.key), command.caller.tenant)
    tx.change_desired()
    before, after = {"version": model.labels.get(label)}, {"version": number}
    tx.tell(command, events.LabelPut(events.model_subject(model.key), label, number, before, after))


async def remove_label(tx: Tx, command: Command, model: ModelRecord, label: str) -> None:
    """Raises `NotFound` if there is no such label."""
    if label not in model.labels:
        raise NotFound(f"model {model.key.model!r} of tenant {model.key.tenant!r} has no label {label!r}")
    await models.remove_label(tx, model, label)
    tx.change_desired()
    before = {"version": model.labels[label]}
    tx.tell(command, events.LabelRemoved(events.model_subject(model.key), label, before))


async def delete(tx: Tx, command: Command, model: ModelRecord) -> None:
    """Gone for callers at once. Replicas drain; bytes and rows are freed when none reports a version any more."""
    await models.mark_deleted(tx, model)
    held = await assignments.of_models(tx, model.key.tenant, [model.id])
    await _release(tx, held)
    for version in await versions.of_models(tx, model.key.tenant, [model.id]):
        if version.key not in {assignment.key for assignment in held}:
            await versions.remove(tx, version)
    await models.remove_emptied(tx)
    tx.change_desired()
    tx.tell(command, events.ModelDeleted(events.model_subject(model.key), model_members(model)))


async def delete_version(tx: Tx, command: Command, model: ModelRecord, version: VersionRecord) -> None:
    """Like `delete`, for one version. Raises `Conflict` while it is pinned or labelled: that promises that it answers.

    Where the newest version goes, the one before it becomes the target; the rollout assigns it when there is room.
    """
    number = version.key.version
    labelled = sorted(label for label, target in model.labels.items() if target == number)
    if model.pinned == number or labelled:
        why = "pinned" if model.pinned == number else f"labelled {', '.join(labelled)}"
        raise Conflict(f"version {number} of model {model.key.model!r} is {why}", labels=labelled)
    await versions.mark_deleted(tx, version)
    held = [
        entry for entry in await assignments.of_models(tx, model.key.tenant, [model.id]) if entry.key == version.key
    ]
    await _release(tx, held)
    if not held:
        await versions.remove(tx, version)
    tx.change_desired()
    tx.tell(command, events.VersionDeleted(events.version_subject(version.key), version_members(version)))


async def _release(tx: Tx, held: list[AssignmentRecord]) -> None:
    for assignment in held:
        if assignment.releasing_at is None:
            await assignments.release(tx, assignment)


def policy_to_pinned(policy: str, version: int | None) -> int | None:
    """The pinned version of a serving policy. Raises `InvalidArgument` if its two members contradict each other."""
    if (policy == "pinned") != (version is not None):
        raise InvalidArgument("a pinned policy names a version, and no other does")
    return version
