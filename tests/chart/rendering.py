"""The chart, rendered as Helm renders it, and what tests ask of the result."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import helm_python as helm
import yaml
from yaml import CSafeLoader

from berth.settings import ProcessSettings
from controller.settings import ControllerSettings, DatabaseSettings
from router.settings import RouterSettings
from synchronizer.settings import SynchronizerSettings
from worker.settings import WorkerSettings

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/berth"
SCHEMA = CHART / "values.schema.json"
EXAMPLES = {path.stem: path for path in sorted((ROOT / "deploy/helm/examples").glob("*.yaml"))}
GOLDEN = Path(__file__).parent / "golden"

# The example that golden files of the others are told against.
BASE = "minimal"

RELEASE, NAMESPACE = "berth", "serving"

SETTINGS: Mapping[str, type[ProcessSettings]] = {
    "controller": ControllerSettings,
    "synchronizer": SynchronizerSettings,
    "router": RouterSettings,
    "worker": WorkerSettings,
    "migrations": DatabaseSettings,
}

# Settings that mean nothing in a pod of this chart, and why.
NOT_IN_A_POD = {
    "BERTH_ADMIN_ADDRESS": "the controller's probes are on its REST port",
    "BERTH_CREDENTIAL_FILE": "processes on other machines need mutual TLS",
    "BERTH_KUBERNETES_CONFIG": "the pod's service account is used",
    "BERTH_PARENT_PID": "the kubelet is the supervisor",
    "BERTH_REGISTRY_DIR": "replicas are found by their pods",
    "BERTH_SHARED_PORTS": "the router sets it for its own children",
    "BERTH_TRITON_HOME": "Triton is in an image of its own",
    "BERTH_ZONE": "the pod's label says it, where it matters",
}


class Rendered(NamedTuple):
    """What a release would install, in the order of its files."""

    objects: Sequence[Object]
    notes: str

    def of(self, *kinds: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        (found,) = (item for item in self.of(kind) if item["metadata"]["name"] == name)
        return found


class Pod(NamedTuple):
    """The pod that `owner` makes."""

    owner: Object
    labels: Mapping[str, str]
    spec: Object

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def is_berth(self) -> bool:
        return self.component in SETTINGS

    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def container(self) -> Object:
        """The container that the pod is for."""
        (only,) = self.spec["containers"]
        return dict(only)


def example(name: str, changes: Mapping[str, Any] | None = None) -> Object:
    """The values of an example, with `changes` laid over them as a second -f would be."""
    values = yaml.safe_load(EXAMPLES[name].read_text())
    return lay_over(values, changes or {})


def lay_over(values: Object, changes: Mapping[str, Any]) -> Object:
    result = copy.deepcopy(values)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), dict)
        result[name] = lay_over(result[name], value) if both else copy.deepcopy(value)
    return result


def render(values: Object, *, chart: Path = CHART, release: str = RELEASE) -> Rendered:
    """As `helm template` does. Raises `HelmError` with what is wrong with the values."""
    with helm.Chart.load(chart) as loaded:
        files = loaded.render(values, name=release, namespace=NAMESPACE)
    notes = "".join(text for path, text in files.items() if path.endswith(".txt"))
    objects = [
        item
        for path in sorted(files)
        if path.endswith(".yaml")
        for item in yaml.load_all(files[path], Loader=CSafeLoader)
        if item is not None
    ]
    return Rendered(objects, notes)


@functools.cache
def rendered_example(name: str) -> Rendered:
    """Once for all tests, which only read it."""
    return render(example(name))


def pods(rendered: Rendered) -> list[Pod]:
    """All that will run, never none: what is asserted of each is asserted."""
    found = []
    for item in rendered.of("Deployment", "StatefulSet", "Job"):
        template = item["spec"]["template"]
        found.append(Pod(item, template["metadata"]["labels"], template["spec"]))
    assert found, "nothing would run"
    return found


def variables(container: Object) -> dict[str, Object]:
    """Its environment by name, as entries; the same name twice is an error."""
    entries = container.get("env", [])
    named = {entry["name"]: entry for entry in entries}
    assert len(named) == len(entries), f"a variable twice in {[entry['name'] for entry in entries]}"
    return named


def allowed_settings() -> dict[str, list[str]]:
    """By component, the variables that `settings` may name: all that the chart does not set itself."""
    owned: dict[str, set[str]] = {}
    for name in EXAMPLES:
        for pod in pods(render(_without_settings(example(name)))):
            if pod.is_berth:
                owned.setdefault(pod.component, set()).update(variables(pod.container()))
    return {
        component: sorted(
            variable.name
            for variable in SETTINGS[component].variables()
            if variable.name not in owned[component] and variable.name not in NOT_IN_A_POD
        )
        for component in ("controller", "synchronizer", "router", "worker")
    }


def _without_settings(values: Object) -> Object:
    result = copy.deepcopy(values)
    for part in (result, *result.get("workerPools", ())):
        part.pop("settings", None)
    for component in result.values():
        if isinstance(component, dict):
            component.pop("settings", None)
    return result


def schema_with(names: Mapping[str, Sequence[str]]) -> str:
    """The values' schema with these names allowed in `settings`."""
    schema = json.loads(SCHEMA.read_text())
    for component, allowed in names.items():
        schema["definitions"][f"{component}Settings"]["propertyNames"]["enum"] = list(allowed)
    return json.dumps(schema, indent=2) + "\n"


def golden(name: str) -> str:
    """What is compared with the golden file of an example: what is the same in `minimal` is only named, and what is
    random, or held by tests of its own, is left out."""
    rendered = render(example(name))
    here = {_identity(item): _stable(item) for item in rendered.objects}
    usual = {} if name == BASE else {_identity(item): _stable(item) for item in render(example(BASE)).objects}
    same = [identity for identity in here if here[identity] == usual.get(identity)]
    head = [
        *rendered.notes.strip().splitlines(),
        *(f"as in {BASE}.yaml: {identity}" for identity in same),
        *(f"not here: {identity}" for identity in usual if identity not in here),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + "".join(
        "---\n" + yaml.safe_dump(item, width=120) for identity, item in here.items() if identity not in same
    )


def _identity(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _stable(item: Object) -> Object:
    component = item["metadata"].get("labels", {}).get("app.kubernetes.io/component")
    if item["kind"] == "Secret":
        return {**item, "data": dict.fromkeys(item["data"], "(made at install)")}
    if item["kind"] == "PrometheusRule":
        return {**item, "spec": "(files/alerts.yaml)"}
    if item["kind"] == "ConfigMap" and component == "monitoring":
        return {**item, "data": {name: f"(dashboards/{name})" for name in item["data"]}}
    return item


def mebibytes(quantity: str) -> int:
    """Of a quantity as the chart writes them."""
    match = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", quantity)
    assert match is not None, quantity
    return int(match[1]) * {"Mi": 1, "Gi": 1024, "Ti": 1024**2}[match[2]]
