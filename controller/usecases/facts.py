"""Rows as the facts that rollouts are decided from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from berth.model import ServableStatus
from controller.core.rollout.facts import AssignedCopy, Fleet, KnownReplica, KnownVersion, ModelWish, ServableReport
from controller.store import records


def wish_of(model: records.ModelRecord) -> ModelWish:
    return ModelWish(model.pinned, model.labels, model.cells)


def known(version: records.VersionRecord) -> KnownVersion:
    return KnownVersion(
        number=version.key.version,
        deleted=version.deleted,
        proven=version.proven,
        measured_bytes=version.measured_bytes or 0,
        announced=version.announced,
        changed_at=version.changed_at.timestamp(),
    )


def copy_of(assignment: records.AssignmentRecord) -> AssignedCopy:
    releasing = assignment.releasing_at
    return AssignedCopy(
        version=assignment.key.version,
        job=assignment.job,
        cell=assignment.cell,
        assigned_at=assignment.created_at.timestamp(),
        releasing_at=None if releasing is None else releasing.timestamp(),
        left_out_from=assignment.releasing_generation,
    )


def said_by(servable: records.ServableRecord) -> ServableReport:
    status = ServableStatus(servable.key, servable.state, servable.reason, servable.since, servable.measured_bytes)
    return ServableReport(servable.cell, servable.replica, servable.key.version, status, servable.routed)


def fleet_of(
    reports: Mapping[str, records.CellReport],
    replicas: Iterable[records.ReplicaRecord],
    jobs: Iterable[records.JobRecord],
) -> Fleet:
    return Fleet(
        {cell: report.desired_generation for cell, report in reports.items()},
        [KnownReplica(replica.cell, replica.name, replica.job, replica.connected) for replica in replicas],
        {job.name: job.replicas for job in jobs},
    )
