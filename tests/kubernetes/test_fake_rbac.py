"""What a service account may do, by the Roles that are in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from doubles.kubernetes.rbac import Asked, allowed_by
from doubles.kubernetes.server import FakeKubernetes

RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["mine"], "verbs": ["update"]},
]


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    async with FakeKubernetes(enforce_rbac=True) as fake:
        token = fake.grant("berth", "synchronizer", RULES)
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=fake.url, headers=headers) as client:
            yield client


async def test_what_a_role_allows_is_done(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/namespaces/berth/pods")).status_code == 200
    assert (await http.get("/api/v1/namespaces/berth/pods/none")).status_code == 404


async def test_what_no_role_allows_is_refused_in_the_words_of_the_real_one(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/api/v1/namespaces/berth/pods/one")
    assert answer.status_code == 403
    assert answer.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "one" is forbidden: User "system:serviceaccount:berth:synchronizer" cannot delete resource '
        '"pods" in API group "" in the namespace "berth"',
        "reason": "Forbidden",
        "details": {"name": "one", "kind": "pods"},
        "code": 403,
    }
    everywhere = await http.get("/api/v1/pods")
    assert everywhere.json()["message"].endswith('cannot list resource "pods" in API group "" at the cluster scope')
    whole = await http.patch("/apis/apps/v1/namespaces/berth/deployments/web", json={})
    assert whole.status_code == 403


async def test_a_token_that_nobody_gave_out_is_nobody(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/namespaces/berth/pods", headers={"authorization": "Bearer guess"})
    assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")


@pytest.mark.parametrize(
    ("rule", "asked", "allowed"),
    [
        (RULES[2], ("update", "coordination.k8s.io", "leases", "", "mine"), True),
        (RULES[2], ("update", "coordination.k8s.io", "leases", "", "other"), False),
        (RULES[2], ("create", "coordination.k8s.io", "leases", "", ""), False),
        (RULES[1], ("patch", "apps", "deployments", "", "web"), False),
        (
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            ("patch", "apps", "deployments", "scale", "w"),
            True,
        ),
        ({"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["get"]}, ("get", "apps", "a", "scale", "w"), True),
        ({"apiGroups": ["apps"], "resources": ["pods"], "verbs": ["get"]}, ("get", "", "pods", "", "w"), False),
    ],
)
def test_rules(rule: Any, asked: tuple[str, str, str, str, str], allowed: bool) -> None:
    verb, group, resource, subresource, name = asked
    assert allowed_by(rule, Asked("u", verb, group, resource, subresource, "ns", name)) is allowed


async def test_cluster_roles_and_groups() -> None:
    async with FakeKubernetes(enforce_rbac=True) as fake:
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "nodes"}}
        rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
        fake.put(rbac | {"kind": "ClusterRole", "rules": rules})
        subjects = [{"kind": "Group", "name": "system:serviceaccounts:berth"}]
        reference = {"kind": "ClusterRole", "name": "nodes"}
        fake.put(rbac | {"kind": "ClusterRoleBinding", "roleRef": reference, "subjects": subjects})
        for namespace, status in (("berth", 200), ("other", 403)):
            headers = {"authorization": f"Bearer {fake.access.token(namespace, 'any')}"}
            async with httpx.AsyncClient(base_url=fake.url, headers=headers) as client:
                assert (await client.get("/api/v1/nodes")).status_code == status
