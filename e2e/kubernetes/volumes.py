"""A pod's volumes as folders: config maps, secrets, the downward API, service account tokens, scratch space.

Files are written beside and renamed, so that a reader finds an old file or a new one, never a half.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from e2e.kubernetes.api import Object
from e2e.kubernetes.pod_spec import NotYet, Sources, field_of

TokenFor = Callable[[str], Awaitable[str]]
"""Asks for a token of the pod's service account, for an audience ("" is the API server's)."""


async def materialise(
    pod: Object, folder: Path, claims: Path, sources: Sources, token_for: TokenFor
) -> dict[str, Path]:
    """Make every volume of the pod below `folder`, claims below `claims`, and return them by name. Raises `NotYet`."""
    made = {}
    for volume in pod["spec"].get("volumes") or ():
        path = folder / volume["name"]
        if claim := volume.get("persistentVolumeClaim"):
            path = claims / claim["claimName"]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in (await _files_of(volume, pod, sources, token_for)).items():
            _write(path / name, content)
        made[volume["name"]] = path
    return made


def refresh(pod: Object, folder: Path, sources: Sources) -> None:
    """Bring files of config maps and secrets up to date in a running pod; what has vanished stays as it was."""
    for volume in pod["spec"].get("volumes") or ():
        try:
            files = _from_source(volume, sources)
            for source in (volume.get("projected") or {}).get("sources") or ():
                files |= _from_source(source, sources)
        except NotYet:
            continue
        for name, content in files.items():
            _write(folder / volume["name"] / name, content)


async def _files_of(volume: Object, pod: Object, sources: Sources, token_for: TokenFor) -> dict[str, bytes]:
    files = _from_source(volume, sources) | _from_fields(volume, pod)
    for source in (volume.get("projected") or {}).get("sources") or ():
        files |= _from_source(source, sources) | _from_fields(source, pod)
        if token := source.get("serviceAccountToken"):
            files[token["path"]] = (await token_for(token.get("audience", ""))).encode()
    return files


def _from_source(source: Object, sources: Sources) -> dict[str, bytes]:
    """The files of a config map or secret; a volume calls a secret by `secretName`, a projection by `name`."""
    for kind, field in (("ConfigMap", "configMap"), ("Secret", "secret")):
        if reference := source.get(field):
            name = reference.get("secretName") or reference["name"]
            data = sources.named(kind, name, optional=reference.get("optional", False))
            return _chosen(data, reference)
    return {}


def _chosen(data: Mapping[str, bytes], reference: Object) -> dict[str, bytes]:
    items = reference.get("items")
    if items is None:
        return dict(data)
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and not reference.get("optional", False):
        raise NotYet(f"keys {missing} are not there")
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}


def _from_fields(source: Object, pod: Object) -> dict[str, bytes]:
    items = (source.get("downwardAPI") or {}).get("items") or ()
    return {item["path"]: field_of(pod, item["fieldRef"]["fieldPath"]).encode() for item in items if "fieldRef" in item}


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_bytes(content)
    draft.chmod(0o600)
    draft.replace(path)


def data_of(item: Object, *, encoded: bool) -> dict[str, bytes]:
    """The values of a config map, or of a secret (`encoded`), as bytes."""
    if encoded:
        return {key: base64.b64decode(value) for key, value in (item.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (item.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}
