"""What a deletion makes of an object that does not go at once: grace periods, finalizers, preconditions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.moments import moment_of, stamp
from doubles.kubernetes.status import conflict

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a DELETE asks. `grace_s` None: what the object says."""

    grace_s: int | None = None
    propagation: str | None = None
    uid: str | None = None
    version: str | None = None

    @classmethod
    def read(cls, options: Object, query: Mapping[str, Any]) -> Deletion:
        """From a DeleteOptions body, and the query where the body is silent."""
        given = {**query, **{name: value for name, value in options.items() if value is not None}}
        preconditions = options.get("preconditions") or {}
        grace = given.get("gracePeriodSeconds")
        orphan = given.get("orphanDependents")
        propagation = given.get("propagationPolicy") or ("Orphan" if str(orphan).lower() == "true" else None)
        return cls(
            grace_s=None if grace is None else int(grace),
            propagation=propagation,
            uid=preconditions.get("uid"),
            version=preconditions.get("resourceVersion"),
        )

    def check(self, kind: Kind, held: Object) -> None:
        """Raises a 409 where the preconditions do not hold for an object's metadata."""
        if self.uid is not None and self.uid != held["uid"]:
            why = (
                f"the UID in the precondition ({self.uid}) does not match the UID in record ({held['uid']}). "
                "The object might have been deleted and then recreated"
            )
            raise conflict(kind, held["name"], why)
        if self.version is not None and self.version != held["resourceVersion"]:
            why = (
                f"the ResourceVersion in the precondition ({self.version}) does not match the ResourceVersion in "
                f"record ({held['resourceVersion']}). The object might have been modified"
            )
            raise conflict(kind, held["name"], why)


def grace_of(kind: Kind, value: Object, asked: int | None) -> int:
    """Seconds for which a deleted object stays. Only pods that run somewhere do."""
    if kind.kind != "Pod":
        return 0
    if not value["spec"].get("nodeName") or value.get("status", {}).get("phase") in {"Failed", "Succeeded"}:
        return 0
    held: int | None = value["metadata"].get("deletionGracePeriodSeconds")
    if asked is None:
        asked = held if held is not None else int(value["spec"].get("terminationGracePeriodSeconds", 30))
    return 1 if asked < 0 else asked


def with_propagation(kind: Kind, value: Object, propagation: str | None) -> Object:
    """The object with the finalizer by which the garbage collector knows what to do first."""
    if propagation is None and kind.resource == "jobs.batch":
        propagation = "Orphan"  # batch/v1 keeps what batch/v1beta1 did
    if propagation is None:
        return value
    finalizer = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(propagation)
    metadata = {name: item for name, item in value["metadata"].items() if name != "finalizers"}
    kept = [name for name in value["metadata"].get("finalizers") or () if name not in {FOREGROUND, ORPHAN}]
    if finalizer:
        kept.append(finalizer)
    return value | {"metadata": metadata | ({"finalizers": kept} if kept else {})}


def shortened(value: Object, grace: int, now: datetime) -> Object:
    """A graceful deletion that begins, or one that is shortened; a longer period changes nothing."""
    metadata = value["metadata"]
    held = metadata.get("deletionGracePeriodSeconds")
    if held is not None and grace >= held:
        return value
    begun = now if held is None else moment_of(metadata["deletionTimestamp"]) - timedelta(seconds=held)
    marks: Object = {
        "deletionTimestamp": stamp(max(now, begun + timedelta(seconds=grace))),
        "deletionGracePeriodSeconds": grace,
    }
    return value | {"metadata": metadata | marks | _next_generation(metadata)}


def marked(value: Object, now: datetime) -> Object:
    """An object that finalizers hold, with its deletionTimestamp."""
    metadata = value["metadata"]
    marks: Object = {"deletionGracePeriodSeconds": 0}
    if "deletionTimestamp" not in metadata:
        marks |= {"deletionTimestamp": stamp(now)} | _next_generation(metadata)
    result = value | {"metadata": metadata | marks}
    return result | {"status": {"phase": "Terminating"}} if value["kind"] == "Namespace" else result


def _next_generation(metadata: Object) -> Object:
    """Beginning to go counts as a change of what is wanted."""
    if "generation" not in metadata or "deletionTimestamp" in metadata:
        return {}
    return {"generation": metadata["generation"] + 1}
