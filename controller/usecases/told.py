"""Records as the members that events tell of them, `before` and `after`: as the API spells them, and nothing secret."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from berth.resources import HOST
from controller.core.scaling import document_of
from controller.store.records import JobRecord, KeyRecord, ModelRecord, TenantRecord, VersionRecord


def tenant_members(tenant: TenantRecord) -> dict[str, Any]:
    return {"quota": asdict(tenant.quota)}


def key_members(key: KeyRecord) -> dict[str, Any]:
    return {"role": key.role, "description": key.description}


def model_members(model: ModelRecord) -> dict[str, Any]:
    """A default answer is too long to be told: its size in bytes is."""
    return {
        "description": model.description,
        "pinned": model.pinned,
        "labels": dict(sorted(model.labels.items())),
        "cells": list(model.cells),
        "default_answer_bytes": None if model.default_answer is None else len(model.default_answer),
    }


def version_members(version: VersionRecord) -> dict[str, Any]:
    return {"sha256": version.artifact.sha256, "size_bytes": version.artifact.size_bytes}


def job_members(job: JobRecord) -> dict[str, Any]:
    return {
        "cell": job.cell,
        "runtime": job.runtime,
        "hardware": job.hardware,
        "replicas": job.replicas,
        "wished_replicas": job.wished_replicas,
        "memory_per_replica": job.capacity[HOST],
        "service_class": job.service_class,
        "dedicated_tenant": job.dedicated_tenant,
        "scaling": document_of(job.scaling),
        "from_file": job.from_file,
    }
