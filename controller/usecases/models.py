"""Models, what their names resolve to, and the deletion of models and versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from berth.api import schemas
from berth.errors import Conflict, InvalidArgument, NotFound
from berth.ids import ModelKey, check_name, parse_version
from berth.states import VersionState
from controller import default_answer
from controller.core import quota
from controller.store import jobs, models, records, tenants
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.keys import Caller
from controller.usecases.placement import assign_wanted
from controller.usecases.statuses import statuses
from controller.usecases.tenants import get as get_tenant


async def get(tx: Tx, key: ModelKey) -> records.Model:
    """Raises `NotFound`."""
    known = naming.storable(key.tenant) and naming.storable(key.model)
    model = await models.find(tx, key) if known else None
    if model is None:
        raise naming.no_model(key)
    return model


async def get_version(tx: Tx, model: records.Model, text: str) -> records.Version:
    """Raises `NotFound` for a number that is not a version, and for what is not a number."""
    number = parse_version(text)
    version = await models.find_version(tx, model.id, number) if number is not None else None
    if version is None:
        raise naming.no_version(model.key, text)
    return version


async def create(tx: Tx, actor: str, key: ModelKey, description: str, cells: Sequence[str]) -> records.Model:
    """Raises `NotFound` without the tenant, `Conflict` if the name is taken, `QuotaExceeded`, and `InvalidArgument` for
    a cell that is none.
    """
    tenant = await get_tenant(tx, key.tenant)
    check_name("model", key.model)
    if await models.find(tx, key) is not None:
        raise Conflict(f"tenant {key.tenant!r} has a model {key.model!r} already")
    count, _ = await tenants.usage(tx, tenant.name)
    quota.check_models(tenant.max_models, count)
    model = await models.add(tx, key, naming.check_text("description", description), await _checked(tx, cells))
    tx.change_desired()
    tx.tell("model.created", actor, key.tenant, naming.model_subject(key))
    return model


async def describe(tx: Tx, actor: str, model: records.Model, description: str) -> None:
    await models.change(tx, model.id, description=naming.check_text("description", description))
    tx.tell("model.updated", actor, model.key.tenant, naming.model_subject(model.key))


async def ask_for_cells(tx: Tx, caller: Caller, model: records.Model, cells: Sequence[str]) -> None:
    """Have a copy of the model in each of `cells`; none of them: in one, whichever has room.

    A copy elsewhere leaves when each of them answers. Raises `InvalidArgument` for a cell that is none, and
    `InsufficientCapacity`.
    """
    asked = await _checked(tx, cells)
    if asked == list(model.cells):
        return
    await models.change(tx, model.id, cells=asked)
    await assign_wanted(tx, await get(tx, model.key), caller.tenant)
    tx.change_desired()
    tx.tell("model.updated", caller.key_id, model.key.tenant, naming.model_subject(model.key), cells=asked)


async def _checked(tx: Tx, cells: Sequence[str]) -> list[str]:
    """In order and each once. A cell is one that a job was ever in."""
    unknown = sorted(set(cells) - (await jobs.generations(tx)).keys())
    if unknown:
        raise InvalidArgument(f"there is no cell {unknown[0]!r}")
    return sorted(set(cells))


async def set_default_answer(tx: Tx, actor: str, model: records.Model, answer: schemas.DefaultAnswer | None) -> None:
    """Have routers answer with `answer` when no replica does in time, or with an error again for None.

    Raises `InvalidArgument` for what is no answer of the newest version, `PayloadTooLarge`, `QuotaExceeded`.
    """
    text = None if answer is None else default_answer.encode(model.key.model, answer)
    if text is not None:
        newest = None if model.latest is None else await models.find_version(tx, model.id, model.latest)
        default_answer.check(text, None if newest is None else newest.signature)
        quota.check_default_answers(await models.default_answer_bytes(tx, model.key.tenant, model.id), len(text))
    if text == model.default_answer:
        return
    await models.change(tx, model.id, default_answer=text)
    tx.change_desired()
    tx.tell("model.updated", actor, model.key.tenant, naming.model_subject(model.key))


async def serve(tx: Tx, caller: Caller, model: records.Model, pinned: int | None) -> None:
    """Let `pinned` answer requests that name no version, or the newest for None. It is assigned again if it has to be.

    Raises `InvalidArgument` for a version that is not there, `InsufficientCapacity` if there is no room for it.
    """
    if pinned is not None and await models.find_version(tx, model.id, pinned) is None:
        raise InvalidArgument(f"model {model.key.model!r} has no version {pinned} to pin")
    if pinned == model.pinned:
        return
    await models.change(tx, model.id, pinned=pinned)
    await assign_wanted(tx, await get(tx, model.key), caller.tenant)
    tx.change_desired()
    kind, data = ("model.unpinned", {}) if pinned is None else ("model.pinned", {"version": pinned})
    tx.tell(kind, caller.key_id, model.key.tenant, naming.model_subject(model.key), **data)


async def set_label(tx: Tx, caller: Caller, model: records.Model, label: str, number: int, *, force: bool) -> None:
    """Point `label` at a version: requests that name the label go there from now on.

    So the version must be available, unless `force` says that requests may wait. Raises `Conflict` if it is not.
    """
    check_name("label", label)
    if parse_version(label) is not None:
        raise InvalidArgument(f"label {label!r} looks like a version number: requests could not tell them apart")
    version = await models.find_version(tx, model.id, number)
    if version is None:
        raise InvalidArgument(f"model {model.key.model!r} has no version {number} to label")
    if not force:
        state = (await statuses(tx, [version]))[version.key].state
        if state is not VersionState.AVAILABLE:
            raise Conflict(f"version {number} is {state}, not available; add ?force=true to label it all the same")
    if model.labels.get(label) == number:
        return
    await models.set_label(tx, model.id, label, number)
    await assign_wanted(tx, await get(tx, model.key), caller.tenant)
    tx.change_desired()
    subject = naming.model_subject(model.key)
    tx.tell("label.set", caller.key_id, model.key.tenant, subject, label=label, version=number)


async def remove_label(tx: Tx, actor: str, model: records.Model, label: str) -> None:
    """Raises `NotFound` if there is no such label."""
    if label not in model.labels:
        raise NotFound(f"model {model.key.model!r} of tenant {model.key.tenant!r} has no label {label!r}")
    await models.remove_label(tx, model.id, label)
    tx.change_desired()
    tx.tell("label.removed", actor, model.key.tenant, naming.model_subject(model.key), label=label)


async def delete(tx: Tx, actor: str, model: records.Model) -> None:
    """Gone for callers at once. Replicas drain; bytes and rows are freed when none reports a version any more."""
    await models.mark_deleted(tx, model.id)
    held = {assignment.key.version for assignment in await jobs.assignments_of(tx, [model.id])}
    await _release(tx, await jobs.assignments_of(tx, [model.id]))
    for version in await models.versions_of(tx, [model.id]):
        if version.key.version not in held:
            await models.remove_version(tx, model.id, version.key.version)
    await models.remove_emptied(tx)
    tx.change_desired()
    tx.tell("model.deleted", actor, model.key.tenant, naming.model_subject(model.key))


async def delete_version(tx: Tx, actor: str, model: records.Model, version: records.Version) -> None:
    """Like `delete`, for one version. Raises `Conflict` while it is pinned or labelled: that promises that it answers.

    Where the newest version goes, the one before it becomes the target; the rollout assigns it when there is room.
    """
    number = version.key.version
    labelled = sorted(label for label, target in model.labels.items() if target == number)
    if model.pinned == number or labelled:
        why = "pinned" if model.pinned == number else f"labelled {', '.join(labelled)}"
        raise Conflict(f"version {number} of model {model.key.model!r} is {why}", labels=labelled)
    await models.mark_version_deleted(tx, model.id, number)
    held = [entry for entry in await jobs.assignments_of(tx, [model.id]) if entry.key.version == number]
    await _release(tx, held)
    if not held:
        await models.remove_version(tx, model.id, number)
    tx.change_desired()
    tx.tell("version.deleted", actor, model.key.tenant, naming.model_subject(model.key, number))


async def _release(tx: Tx, held: list[records.Assignment]) -> None:
    for assignment in held:
        if assignment.releasing_at is None:
            await jobs.release(tx, assignment)


def policy_to_pinned(policy: str, version: int | None) -> int | None:
    """The pinned version of a serving policy. Raises `InvalidArgument` if its two members contradict each other."""
    if (policy == "pinned") != (version is not None):
        raise InvalidArgument("a pinned policy names a version, and no other does")
    return version


def serving_of(model: records.Model) -> dict[str, Any]:
    return {"policy": "latest" if model.pinned is None else "pinned", "version": model.pinned}
