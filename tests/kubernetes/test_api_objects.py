"""Objects, versions and refusals, held to what a real API server does."""

from __future__ import annotations

from typing import Any

import pytest

LEASE = {"holderIdentity": "a", "leaseDurationSeconds": 15}


async def test_a_new_object_gets_an_identity(api: Any) -> None:
    made = await api.create("configmaps", "one", data={"k": "v"})
    metadata = made["metadata"]
    assert metadata["uid"]
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["namespace"] == api.namespace
    assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {"k": "v"})
    found = await api.get("configmaps", "one")
    assert found["metadata"]["uid"] == metadata["uid"]


async def test_generated_names_differ(api: Any) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-"}}
    names = {(await api.ask("POST", api.path("configmaps"), body)).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("some-") and len(name) == 10 for name in names)


async def test_what_is_not_there_is_not_found(api: Any) -> None:
    answer = await api.ask("GET", api.path("deployments", "none"))
    assert answer.status == 404
    assert answer.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'deployments.apps "none" not found',
        "reason": "NotFound",
        "details": {"name": "none", "group": "apps", "kind": "deployments"},
        "code": 404,
    }
    core = await api.ask("GET", api.path("pods", "none"))
    assert core.body["message"] == 'pods "none" not found'
    assert core.body["details"] == {"name": "none", "kind": "pods"}


async def test_what_is_there_already_exists(api: Any) -> None:
    await api.create("configmaps", "one")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    answer = await api.ask("POST", api.path("configmaps"), body)
    assert (answer.status, answer.body["reason"]) == (409, "AlreadyExists")
    assert answer.body["message"] == 'configmaps "one" already exists'


async def test_a_stale_write_conflicts(api: Any) -> None:
    first = await api.create("configmaps", "one", data={"k": "1"})
    newer = await api.ask("PUT", api.path("configmaps", "one"), first | {"data": {"k": "2"}})
    assert newer.status == 200
    assert int(newer.body["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    stale = await api.ask("PUT", api.path("configmaps", "one"), first | {"data": {"k": "3"}})
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    assert stale.body["message"] == (
        'Operation cannot be fulfilled on configmaps "one": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    version = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}}
    patched = await api.patch("configmaps", "one", version | {"data": {"k": "4"}})
    assert (patched.status, patched.body["reason"]) == (409, "Conflict")
    assert (await api.get("configmaps", "one"))["data"] == {"k": "2"}


async def test_a_write_without_a_version_overwrites_except_where_the_kind_forbids(api: Any) -> None:
    await api.create("configmaps", "one", data={"k": "1"})
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"k": "2"}}
    assert (await api.ask("PUT", api.path("configmaps", "one"), body)).status == 200
    await api.create("leases", "one", spec=LEASE)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}, "spec": LEASE}
    answer = await api.ask("PUT", api.path("leases", "one"), lease)
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert "metadata.resourceVersion" in answer.body["message"]
    assert "must be specified for an update" in answer.body["message"]


async def test_put_creates_leases_but_not_config_maps(api: Any) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}, "spec": LEASE}
    assert (await api.ask("PUT", api.path("leases", "new"), lease)).status == 201
    deployment = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "new"}, "spec": {}}
    assert (await api.ask("PUT", api.path("poddisruptionbudgets", "new"), deployment)).status == 404


async def test_a_lease_refuses_times_without_six_digits(api: Any) -> None:
    await api.create("leases", "one", spec=LEASE)
    wrong = await api.patch("leases", "one", {"spec": {"renewTime": "2026-01-01T00:00:00Z"}})
    assert wrong.status in {400, 422}
    right = await api.patch("leases", "one", {"spec": {"renewTime": "2026-01-01T01:00:00.000000+01:00"}})
    assert right.body["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z"


async def test_a_write_that_changes_nothing_is_no_write(api: Any) -> None:
    first = await api.create("configmaps", "one", data={"k": "1"})
    same = await api.ask("PUT", api.path("configmaps", "one"), first)
    patched = await api.patch("configmaps", "one", {"data": {"k": "1"}})
    assert same.body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert patched.body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_another_uid_conflicts(api: Any) -> None:
    first = await api.create("configmaps", "one")
    first["metadata"] |= {"uid": "3f0e2a4c-1111-2222-3333-444444444444"}
    del first["metadata"]["resourceVersion"]
    answer = await api.ask("PUT", api.path("configmaps", "one"), first | {"data": {"k": "v"}})
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition" in answer.body["message"]


async def test_generation_counts_changes_of_the_spec(api: Any, workloads: Any) -> None:
    made = await api.create("deployments", "web", spec=workloads(paused=True))
    assert made["metadata"]["generation"] == 1
    labelled = await api.patch("deployments", "web", {"metadata": {"labels": {"a": "b"}}})
    assert labelled.body["metadata"]["generation"] == 1
    changed = await api.patch("deployments", "web", {"spec": {"minReadySeconds": 1}})
    assert changed.body["metadata"]["generation"] == 2


async def test_spec_and_status_are_written_apart(api: Any, pods: Any) -> None:
    made = await api.create("pods", "one", spec=pods(), status={"phase": "Running"})
    assert made["status"]["phase"] == "Pending"
    ignored = await api.patch("pods", "one", {"status": {"phase": "Running"}})
    assert ignored.body["status"]["phase"] == "Pending"
    told = await api.patch("pods", "one", {"status": {"phase": "Running", "podIP": "10.0.0.9"}}, subresource="status")
    assert (told.status, told.body["status"]["phase"]) == (200, "Running")
    both = {"spec": {"activeDeadlineSeconds": 5}, "status": {"message": "m"}}
    told = await api.patch("pods", "one", both, subresource="status")
    assert "activeDeadlineSeconds" not in told.body["spec"]
    assert told.body["status"]["message"] == "m"


async def test_an_unknown_patch_is_refused(api: Any) -> None:
    await api.create("configmaps", "one")
    answer = await api.ask("PATCH", api.path("configmaps", "one"), {}, "application/json")
    assert (answer.status, answer.body["reason"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("kind", "name", "spec", "field"),
    [
        ("pods", "one", {"containers": []}, "spec.containers"),
        ("leases", "one", {"leaseDurationSeconds": 0}, "spec.leaseDurationSeconds"),
        ("configmaps", "Not_A_Name", {}, "metadata.name"),
        (
            "deployments",
            "one",
            {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "i"}]}},
            },
            "spec.template.metadata.labels",
        ),
    ],
)
async def test_what_is_not_valid_is_refused_by_field(
    api: Any, kind: str, name: str, spec: dict[str, Any], field: str
) -> None:
    found = api.path(kind)
    answer = await api.ask("POST", found, {"metadata": {"name": name}} | ({"spec": spec} if spec else {}))
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert field in {cause["field"] for cause in answer.body["details"]["causes"]}


async def test_a_selector_is_for_ever(api: Any, workloads: Any) -> None:
    await api.create("deployments", "web", spec=workloads())
    answer = await api.ask(
        "PUT", api.path("deployments", "web"), {"metadata": {"name": "web"}, "spec": workloads(app="b")}
    )
    assert answer.status == 422
    assert "field is immutable" in answer.body["message"]


async def test_names_and_namespaces_must_agree_with_the_path(api: Any) -> None:
    await api.create("configmaps", "one")
    renamed = await api.ask("PUT", api.path("configmaps", "one"), {"metadata": {"name": "two"}})
    assert (renamed.status, renamed.body["reason"]) == (400, "BadRequest")
    moved = await api.ask("POST", api.path("configmaps"), {"metadata": {"name": "two", "namespace": "elsewhere"}})
    assert (moved.status, moved.body["reason"]) == (400, "BadRequest")


async def test_nothing_is_made_in_a_namespace_that_is_not_there(api: Any) -> None:
    answer = await api.ask("POST", "/api/v1/namespaces/berth-test-none/configmaps", {"metadata": {"name": "one"}})
    assert (answer.status, answer.body["message"]) == (404, 'namespaces "berth-test-none" not found')


async def test_the_scale_of_a_workload(api: Any, workloads: Any) -> None:
    made = await api.create("deployments", "web", spec=workloads(paused=True))
    path = api.path("deployments", "web", "scale")
    scale = (await api.ask("GET", path)).body
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] in ({}, {"replicas": 0})  # the real one leaves a zero out
    assert scale["status"]["selector"] == "app=web"
    patched = await api.ask("PATCH", path, {"spec": {"replicas": 2}}, "application/merge-patch+json")
    assert patched.body["spec"] == {"replicas": 2}
    found = await api.get("deployments", "web")
    assert found["spec"]["replicas"] == 2
    assert found["metadata"]["generation"] == made["metadata"]["generation"] + 1
    scale["spec"] = {"replicas": 3}
    stale = await api.ask("PUT", path, scale)
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    await api.ask("PATCH", path, {"spec": {"replicas": 0}}, "application/merge-patch+json")
