"""What the server says about itself: versions, groups, and the resources of each, from the table of kinds."""

from __future__ import annotations

from itertools import groupby

from doubles.kubernetes.kinds import KINDS, VERBS, Kind, Object

_ALL = frozenset({"pods", "services", "deployments", "statefulsets", "replicasets", "daemonsets", "jobs"})
_SUBRESOURCES = {
    "eviction": {"group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]},
    "scale": {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]},
    "binding": {"kind": "Binding", "verbs": ["create"]},
    "token": {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"]},
}
REVIEWS = ("authorization.k8s.io", "v1")
_REVIEW: Object = {
    "name": "selfsubjectaccessreviews",
    "singularName": "selfsubjectaccessreview",
    "namespaced": False,
    "kind": "SelfSubjectAccessReview",
    "verbs": ["create"],
}
VERSION: Object = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0-doubles",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}


def _resources(kind: Kind) -> list[Object]:
    base: Object = {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(VERBS),
    }
    if kind.short:
        base["shortNames"] = list(kind.short)
    if kind.plural in _ALL:
        base["categories"] = ["all"]
    status = {"kind": kind.kind, "verbs": ["get", "patch", "update"]}
    return [base] + [
        {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
        | _SUBRESOURCES.get(name, status)
        for name in kind.subresources
    ]


def _group(name: str, version: str) -> Object:
    entry = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def _resource_list(group_version: str, resources: list[Object]) -> Object:
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def documents() -> dict[str, Object]:
    """Every document by its path."""
    groups = [_group(*REVIEWS)]
    found: dict[str, Object] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        f"/apis/{'/'.join(REVIEWS)}": _resource_list("/".join(REVIEWS), [_REVIEW]),
        f"/apis/{REVIEWS[0]}": {"kind": "APIGroup", "apiVersion": "v1"} | _group(*REVIEWS),
    }
    by_group = sorted(KINDS, key=lambda kind: (kind.group, kind.version))
    for (name, version), kinds in groupby(by_group, key=lambda kind: (kind.group, kind.version)):
        resources = [resource for kind in kinds for resource in _resources(kind)]
        if not name:
            found[f"/api/{version}"] = _resource_list(version, resources)
            continue
        groups.append(_group(name, version))
        found[f"/apis/{name}"] = {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, version)
        found[f"/apis/{name}/{version}"] = _resource_list(f"{name}/{version}", resources)
    found["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return found
