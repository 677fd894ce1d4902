"""Builds the complete desired state of a cell from the rows of the store, in an order that is not theirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from berth.ids import ModelKey, VersionKey
from berth.model import (
    ApiKey,
    Artifact,
    DesiredJob,
    DesiredModel,
    DesiredState,
    Serving,
    TenantLimits,
    VersionSpec,
)
from berth.resources import Resources
from berth.states import Runtime


class JobRow(NamedTuple):
    name: str
    cell: str
    runtime: Runtime
    replicas: int | None = None


class AssignmentRow(NamedTuple):
    key: VersionKey
    job: str
    artifact: Artifact
    reserved: Resources
    releasing: bool


class ElsewhereRow(NamedTuple):
    """A version that another cell is to hold."""

    key: VersionKey
    cell: str


class ModelRow(NamedTuple):
    """A model that is not deleted. By default it serves only what `rollout.target` says."""

    key: ModelKey
    serving: Serving
    default_answer: bytes = b""


def build(
    cell: str,
    generation: int,
    *,
    jobs: Iterable[JobRow],
    assignments: Iterable[AssignmentRow],
    models: Iterable[ModelRow],
    keys: Iterable[ApiKey],
    limits: Iterable[TenantLimits],
    elsewhere: Iterable[ElsewhereRow] = (),
) -> DesiredState:
    """What `cell` should hold. Rows of other cells' jobs and releasing assignments are left out: omission unloads.

    A job without versions stays, so that its replicas learn to hold nothing. All models are included, whether or not
    the cell holds a version: routers must tell "not loaded" from "does not exist". `elsewhere` tells them which cells
    to pass requests on to.
    """
    versions: defaultdict[str, list[VersionSpec]] = defaultdict(list)
    for row in assignments:
        if not row.releasing:
            versions[row.job].append(VersionSpec(row.key, row.artifact, row.reserved))
    others: defaultdict[ModelKey, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for there in elsewhere:
        others[there.key.model_key][there.key.version].add(there.cell)
    return DesiredState(
        cell=cell,
        generation=generation,
        jobs=tuple(
            DesiredJob(
                job.name, job.runtime, tuple(sorted(versions[job.name], key=lambda spec: spec.key)), job.replicas
            )
            for job in sorted(jobs, key=lambda job: job.name)
            if job.cell == cell
        ),
        models=tuple(
            DesiredModel(
                model.key,
                Serving(model.serving.versions, dict(sorted(model.serving.labels.items()))),
                model.default_answer,
                {version: tuple(sorted(cells)) for version, cells in sorted(others.get(model.key, {}).items())},
            )
            for model in sorted(models, key=lambda model: model.key)
        ),
        keys=tuple(sorted(keys, key=lambda key: key.sha256)),
        limits=tuple(sorted(limits, key=lambda entry: entry.tenant)),
    )
