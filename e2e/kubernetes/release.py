"""Install or upgrade a release of the chart, in a process of its own: Helm's library is Go, with a runtime of its own.

`python -m e2e.kubernetes.release ACTION KUBECONFIG NAMESPACE NAME` reads the values as JSON from its input. Helm asks a
cluster for its OpenAPI description, which the fake API server has not: there the chart is only rendered by Helm, and
its objects are created here, hooks first.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from e2e.kubernetes.api import Api, Key, Mirror, Object

CHART = Path(__file__).parents[2] / "deploy/helm/berth"
_LIMIT_S = 120
_HOOK, _WEIGHT = "helm.sh/hook", "helm.sh/hook-weight"
# Helm's order, as far as pods care: what they refer to comes before them.
_LAST = ("Service", "Deployment", "StatefulSet", "Job")


async def deploy(kubeconfig: Path, namespace: str, name: str, values: Object) -> None:
    """Make the release what `values` say. Hooks have run when this returns; pods may still be starting."""
    await _helm("deploy", kubeconfig, namespace, name, values)


async def deploy_rendered(api: Api, kubeconfig: Path, namespace: str, name: str, values: Object) -> None:
    """The same without Helm's part in the cluster: no history, and nothing that is left out is removed."""
    objects: list[Object] = json.loads(await _helm("render", kubeconfig, namespace, name, values))
    hooks = [item for item in objects if _HOOK in _annotations(item)]
    for item in sorted(hooks, key=lambda item: int(_annotations(item).get(_WEIGHT, "0"))):
        await api.delete(f"{path_of(item, namespace)}/{item['metadata']['name']}")
        await api.apply(path_of(item, namespace), item)
        if item["kind"] == "Job":
            await _completed(api, path_of(item, namespace), item["metadata"]["name"])
    rest = [item for item in objects if item not in hooks]
    for item in sorted(rest, key=lambda item: _LAST.index(item["kind"]) if item["kind"] in _LAST else -1):
        await api.apply(path_of(item, namespace), item)


def path_of(item: Object, namespace: str) -> str:
    """The collection that an object belongs to."""
    plural = item["kind"].lower()
    plural = f"{plural[:-1]}ies" if plural.endswith("y") else f"{plural}s"
    root = "/api/" if "/" not in item["apiVersion"] else "/apis/"
    return f"{root}{item['apiVersion']}/namespaces/{namespace}/{plural}"


def _annotations(item: Object) -> Object:
    return item["metadata"].get("annotations") or {}


async def _completed(api: Api, collection: str, name: str) -> None:
    def outcome(jobs: Mapping[Key, Object]) -> Object | None:
        status: Object = jobs.get((namespace, name), {}).get("status") or {}
        return status if status.get("succeeded") or status.get("failed") else None

    namespace = collection.split("/")[-2]
    mirror = Mirror(api, collection)
    following = asyncio.create_task(mirror.run())
    try:
        status = await mirror.until(outcome, _LIMIT_S, f"job {name} has ended")
    finally:
        following.cancel()
        await asyncio.wait([following])
    assert status.get("succeeded"), f"job {name} failed"


async def _helm(action: str, kubeconfig: Path, namespace: str, name: str, values: Object) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "e2e.kubernetes.release", action, str(kubeconfig), namespace, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate(json.dumps(values).encode())
    assert process.returncode == 0, wrong.decode(errors="replace")[-4000:]
    return said.decode()


def _deploy(kubeconfig: str, namespace: str, name: str, values: Object) -> None:
    import helm_python as helm

    with helm.Config(kubeconfig_path=kubeconfig, namespace=namespace) as config:
        known = any(release["name"] == name for release in config.list())
        act = config.upgrade if known else config.install
        act(CHART, name, values, namespace=namespace, timeout=_LIMIT_S, wait="hookOnly")


def _render(_: str, namespace: str, name: str, values: Object) -> None:
    import helm_python as helm
    import yaml

    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace=namespace)
    texts = (files[path] for path in sorted(files) if path.endswith(".yaml"))
    json.dump([item for text in texts for item in yaml.load_all(text, yaml.CSafeLoader) if item], sys.stdout)


if __name__ == "__main__":
    _, _action, _kubeconfig, _namespace, _name = sys.argv
    _act = {"deploy": _deploy, "render": _render}[_action]
    _act(_kubeconfig, _namespace, _name, json.load(sys.stdin))
