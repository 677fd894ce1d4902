"""What the API server fills in when it takes an object, and the few rules of validity that clients run into.

Defaults are those that somebody reads: probes' periods, a rollout's surge, a pod's grace period. Filling in twice
changes nothing.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.selectors import requirements_of, selects
from doubles.kubernetes.status import ApiError, bad_request, invalid

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"
_FREE_NAMES = frozenset({"roles", "rolebindings", "clusterroles", "clusterrolebindings"})
_STATEFUL_SET_MUTABLE = frozenset(
    {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    }
)
_POD_MUTABLE = frozenset({"activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates"})


def _set(target: Object, **defaults: Any) -> None:
    for name, value in defaults.items():
        target.setdefault(name, value)


def _complete_probe(probe: Object) -> None:
    _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    for action in ("httpGet",):
        if action in probe:
            _set(probe[action], path="/", scheme="HTTP")


def _complete_container(container: Object) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    _set(
        container,
        imagePullPolicy="Always" if tag in {"", "latest"} and "@" not in image else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")
    for variable in container.get("env") or ():
        if field := variable.get("valueFrom", {}).get("fieldRef"):
            _set(field, apiVersion="v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            _complete_probe(container[name])
    limits = container["resources"].get("limits")
    if limits:
        requests = container["resources"].setdefault("requests", {})
        for name, quantity in limits.items():
            requests.setdefault(name, quantity)


def _complete_pod_spec(spec: Object) -> None:
    _set(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    for name in ("initContainers", "containers"):
        for container in spec.get(name) or ():
            _complete_container(container)
    for volume in spec.get("volumes") or ():
        if set(volume) == {"name"}:
            volume["emptyDir"] = {}


def _complete_pod(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    _complete_pod_spec(spec)
    _set(spec, serviceAccountName="default", enableServiceLinks=True)
    pod.setdefault("status", {})
    _set(pod["status"], phase="Pending", qosClass="BestEffort")


def _complete_workload(spec: Object, **defaults: Any) -> None:
    _set(spec, replicas=1, **defaults)
    if "template" in spec:
        spec["template"].setdefault("metadata", {})
        _complete_pod_spec(spec["template"].setdefault("spec", {}))


def _complete_deployment(value: Object) -> None:
    spec = value.setdefault("spec", {})
    _complete_workload(spec, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _set(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _set(spec["strategy"].setdefault("rollingUpdate", {}), maxUnavailable="25%", maxSurge="25%")


def _complete_stateful_set(value: Object) -> None:
    spec = value.setdefault("spec", {})
    _complete_workload(spec, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", updateStrategy={})
    _set(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _set(spec["updateStrategy"].setdefault("rollingUpdate", {}), partition=0)


def _complete_replica_set(value: Object) -> None:
    _complete_workload(value.setdefault("spec", {}))


def _complete_job(value: Object) -> None:
    spec, metadata = value.setdefault("spec", {}), value["metadata"]
    _set(spec, parallelism=1, completions=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)
    template = spec.setdefault("template", {})
    _complete_pod_spec(template.setdefault("spec", {}))
    uid = metadata.get("uid", "")
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    for name, text in (("controller-uid", uid), ("job-name", metadata["name"])):
        labels.setdefault(f"batch.kubernetes.io/{name}", text)
    _set(spec, selector={"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})


def _complete_service(value: Object) -> None:
    spec = value.setdefault("spec", {})
    _set(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] != "ExternalName" and not spec.get("clusterIP"):
        number = uuid.UUID(value["metadata"]["uid"]).int
        spec["clusterIP"] = f"10.96.{number % 250}.{number // 250 % 250 + 1}"
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP", targetPort=port.get("port"))
    _set(value, status={"loadBalancer": {}})


def _complete_secret(value: Object) -> None:
    _set(value, type="Opaque")
    text = value.pop("stringData", None)
    if text:
        encoded = {name: base64.b64encode(content.encode()).decode() for name, content in text.items()}
        value["data"] = value.get("data", {}) | encoded


def _complete_namespace(value: Object) -> None:
    metadata = value["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    _set(value, spec={}, status={})
    _set(value["spec"], finalizers=["kubernetes"])
    _set(value["status"], phase="Active")


def _complete_claim(value: Object) -> None:
    _set(value, status={})
    _set(value["status"], phase="Pending")


def _complete_lease(value: Object) -> None:
    """MicroTime has six digits or is refused: what a client sends without a fraction fails on the real server too."""
    spec = value.setdefault("spec", {})
    for name in ("acquireTime", "renewTime"):
        if name not in spec:
            continue
        given = str(spec[name])
        if not _MICRO_TIME.match(given):
            raise bad_request(
                'Lease in version "v1" cannot be handled as a Lease: '
                f'parsing time "{given}" as "{_LAYOUT}": cannot parse it as six digits of a second and a zone'
            )
        moment = datetime.fromisoformat(given).astimezone(UTC)
        spec[name] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_COMPLETE: Mapping[str, Callable[[Object], None]] = {
    "Deployment": _complete_deployment,
    "Job": _complete_job,
    "Lease": _complete_lease,
    "Namespace": _complete_namespace,
    "PersistentVolumeClaim": _complete_claim,
    "Pod": _complete_pod,
    "ReplicaSet": _complete_replica_set,
    "Secret": _complete_secret,
    "Service": _complete_service,
    "StatefulSet": _complete_stateful_set,
}


def complete(kind: Kind, value: Object) -> None:
    """Fill in what was left out, in place. `value` has its name and uid already."""
    fill = _COMPLETE.get(kind.kind)
    if fill is not None:
        fill(value)


def check_name(kind: Kind, name: str) -> None:
    """Raises a 422 for a name that no object may have."""
    if not name:
        raise invalid(
            kind, "", "metadata.name", "Required value: name or generateName is required", "FieldValueRequired"
        )
    if kind.plural not in _FREE_NAMES and (len(name) > 253 or not _NAME.match(name)):
        raise invalid(
            kind,
            name,
            "metadata.name",
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
            "characters, '-' or '.', and must start and end with an alphanumeric character",
        )


def check(kind: Kind, value: Object) -> None:
    """Raises a 422 for an object that is not valid, whatever it was before."""
    name, spec = value["metadata"]["name"], value.get("spec") or {}
    if kind.kind in {"Deployment", "StatefulSet", "ReplicaSet"}:
        _check_workload(kind, name, spec)
    elif kind.kind == "Pod":
        _check_containers(kind, name, spec, "spec.containers")
    elif kind.kind == "Lease" and spec.get("leaseDurationSeconds", 1) <= 0:
        given = spec["leaseDurationSeconds"]
        raise invalid(kind, name, "spec.leaseDurationSeconds", f"Invalid value: {given}: must be greater than 0")
    elif kind.kind == "PodDisruptionBudget" and {"minAvailable", "maxUnavailable"} <= set(spec):
        raise invalid(
            kind, name, "spec", "Invalid value: minAvailable and maxUnavailable cannot be both set", "FieldValueInvalid"
        )


def _check_containers(kind: Kind, name: str, spec: Object, field: str) -> None:
    if not spec.get("containers"):
        raise invalid(kind, name, field, "Required value", "FieldValueRequired")


def _check_workload(kind: Kind, name: str, spec: Object) -> None:
    if spec["replicas"] < 0:
        raise invalid(
            kind, name, "spec.replicas", f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        )
    selector, template = spec.get("selector"), spec.get("template") or {}
    if not selector:
        raise invalid(kind, name, "spec.selector", "Required value", "FieldValueRequired")
    labels = template.get("metadata", {}).get("labels")
    if not selects(requirements_of(selector), labels):
        raise invalid(
            kind,
            name,
            "spec.template.metadata.labels",
            f"Invalid value: {labels}: `selector` does not match template `labels`",
        )
    _check_containers(kind, name, template.get("spec", {}), "spec.template.spec.containers")


def check_change(kind: Kind, before: Object, after: Object) -> None:
    """Raises a 422 for a change that may not be made to an object that exists."""
    name, old, new = after["metadata"]["name"], before.get("spec") or {}, after.get("spec") or {}
    if kind.kind in {"Deployment", "ReplicaSet"} and old.get("selector") != new.get("selector"):
        raise invalid(kind, name, "spec.selector", f"Invalid value: {new.get('selector')}: field is immutable")
    if kind.kind == "StatefulSet" and _differing(old, new) - _STATEFUL_SET_MUTABLE:
        allowed = "', '".join(sorted(_STATEFUL_SET_MUTABLE))
        message = f"Forbidden: updates to statefulset spec for fields other than '{allowed}' are forbidden"
        raise invalid(kind, name, "spec", message, "FieldValueForbidden")
    if kind.kind == "Pod" and _differing(_without_images(old), _without_images(new)) - _POD_MUTABLE:
        raise _pod_forbidden(kind, name)


def _pod_forbidden(kind: Kind, name: str) -> ApiError:
    message = (
        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
        "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
    )
    return invalid(kind, name, "spec", message, "FieldValueForbidden")


def _differing(old: Object, new: Object) -> set[str]:
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _without_images(spec: Object) -> Object:
    return spec | {
        name: [{field: text for field, text in container.items() if field != "image"} for container in spec[name]]
        for name in ("containers", "initContainers")
        if name in spec
    }
