"""The states that Berth shows: of a servable on one replica, and of a version as a whole."""

from __future__ import annotations

from enum import StrEnum


class ServableState(StrEnum):
    """Life of a version in one worker; `worker.core.lifecycle` owns the transitions."""

    NEW = "new"
    LOADING = "loading"
    AVAILABLE = "available"
    DRAINING = "draining"
    UNLOADING = "unloading"
    END = "end"
    ERROR = "error"


class VersionState(StrEnum):
    """What the API says of a version; derived from assignments and observations, never stored."""

    PENDING = "pending"
    """Assigned; no replica has begun to load it."""
    LOADING = "loading"
    """At least one replica is loading it, or has loaded it and routers do not know yet."""
    AVAILABLE = "available"
    """At least one replica holds it and routers send requests there: it can be queried now."""
    FAILED = "failed"
    """No replica serves it and at least one could not load it; the reason says why."""
    DRAINING = "draining"
    """Superseded or deleted; replicas are letting go of it."""
    RETIRED = "retired"
    """Kept, assigned nowhere; pinning it assigns it again."""


class Role(StrEnum):
    """What an API key may do. `ADMIN` and `OPERATOR` belong to the platform, the others to one tenant."""

    ADMIN = "admin"
    OPERATOR = "operator"
    DEVELOPER = "developer"
    VIEWER = "viewer"

    @property
    def is_platform(self) -> bool:
        return self in (Role.ADMIN, Role.OPERATOR)


class Runtime(StrEnum):
    ONNXRUNTIME = "onnxruntime"
    TRITON = "triton"


class ServiceClass(StrEnum):
    PROD = "prod"
    TEMPORARY = "temporary"


class ScalingMode(StrEnum):
    """Who decides how many replicas a job has: whoever scales its workload, Berth's autoscaler, or HPA or KEDA."""

    MANUAL = "manual"
    BERTH = "berth"
    EXTERNAL = "external"


class ArtifactFormat(StrEnum):
    ONNX = "onnx"
