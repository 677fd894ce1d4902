"""What a pod's spec means for a process: its command, its environment, its files. Pure, but for the folder it names.

A process cannot have a container's mounts, so values that begin with a mount's path are rewritten to the folder that
stands for it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from e2e.kubernetes.api import Object
from e2e.kubernetes.names import Resolve

_VARIABLE = re.compile(r"\$(\$?)\(([A-Za-z_][\w.-]*)\)")
_UNITS: dict[str, Decimal | int] = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# What an image would bring: the interpreter's folder first, then the machine's programs.
_BASE = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "NO_COLOR": "1"}


class NotYet(Exception):
    """Something that the pod refers to is not there: it is tried again, as Kubernetes does."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from: `data` by name for config maps and secrets of the pod's namespace, as plain bytes."""

    config_maps: Mapping[str, Mapping[str, bytes]]
    secrets: Mapping[str, Mapping[str, bytes]]

    def named(self, kind: str, name: str, *, optional: bool) -> Mapping[str, bytes]:
        """Raises `NotYet` for what must be there and is not."""
        found = (self.config_maps if kind == "ConfigMap" else self.secrets).get(name)
        if found is None and not optional:
            raise NotYet(f'{kind} "{name}" not found')
        return found or {}


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and the whole environment of the process."""

    argv: list[str]
    environ: dict[str, str]


def command_of(
    container: Object, pod: Object, sources: Sources, mounts: Mapping[str, Path], resolve: Resolve
) -> Command:
    """What a container runs here. Raises `NotYet`."""
    declared = _environment(container, pod, sources)

    def here(text: str) -> str:
        return resolve(rewrite_paths(text, mounts))

    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not words:
        raise NotYet(f"container {container['name']} names no command, and images are not pulled")
    argv = _program([here(expand(word, declared)) for word in words])
    temporary = {"TMPDIR": str(mounts["/tmp"])} if "/tmp" in mounts else {}
    return Command(argv, _BASE | temporary | {name: here(value) for name, value in declared.items()})


def _program(words: list[str]) -> list[str]:
    """The command with its program as it is here: Python and what is installed beside it are the tests' own."""
    program = Path(words[0]).name
    if program.startswith("python"):
        return [sys.executable, *words[1:]]
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else shutil.which(words[0], path=_BASE["PATH"])
    if found is None:
        raise NotYet(f"{words[0]}: no such program here")
    return [found, *words[1:]]


def _environment(container: Object, pod: Object, sources: Sources) -> dict[str, str]:
    """The variables that the spec gives a container, as a container would see them."""
    environ: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if reference := source.get(field):
                data = sources.named(kind, reference["name"], optional=reference.get("optional", False))
                environ |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for variable in container.get("env") or ():
        value = _value_of(variable, container, pod, sources, environ)
        if value is not None:
            environ[variable["name"]] = value
    return environ


def _value_of(
    variable: Object, container: Object, pod: Object, sources: Sources, environ: Mapping[str, str]
) -> str | None:
    origin = variable.get("valueFrom") or {}
    if "fieldRef" in origin:
        return field_of(pod, origin["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in origin:
        return resource_of(container, origin["resourceFieldRef"])
    for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if reference := origin.get(field):
            optional = reference.get("optional", False)
            data = sources.named(kind, reference["name"], optional=optional)
            if reference["key"] not in data and not optional:
                raise NotYet(f'key "{reference["key"]}" not found in {kind} "{reference["name"]}"')
            return data[reference["key"]].decode() if reference["key"] in data else None
    return expand(variable.get("value", ""), environ)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`$(NAME)` is the variable if it is known, `$$(NAME)` is `$(NAME)`."""

    def replacement(found: re.Match[str]) -> str:
        return f"$({found[2]})" if found[1] else environ.get(found[2], found[0])

    return _VARIABLE.sub(replacement, text)


def field_of(pod: Object, path: str) -> str:
    """A field of the downward API, such as `metadata.labels['topology.kubernetes.io/zone']`."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    value: object = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def resource_of(container: Object, reference: Object) -> str:
    """A request or limit of the container, divided and rounded up as Kubernetes does."""
    kind, _, name = reference["resource"].partition(".")
    quantity = ((container.get("resources") or {}).get(kind) or {}).get(name, "0")
    return str(-int(-quantity_of(quantity) // quantity_of(reference.get("divisor") or "1")))


def quantity_of(text: str) -> Decimal:
    """A resource quantity: `500m`, `2Gi`, `1e3`."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text} is no quantity")
    return Decimal(found[1]) * _UNITS[found[2]]


def rewrite_paths(text: str, mounts: Mapping[str, Path]) -> str:
    """`text` with each path below a mount replaced; the longest mount counts, and nothing is replaced twice."""
    if not mounts:
        return text
    ours = {path.rstrip("/"): folder for path, folder in mounts.items()}
    known = "|".join(re.escape(path) for path in sorted(ours, key=len, reverse=True))
    pattern = rf"(^|[=:,\s\"']|//)({known})(?=$|[/,:;\s\"'])"
    return re.sub(pattern, lambda found: f"{found[1]}{ours[found[2]]}", text)


def mounts_of(container: Object, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """The folder behind each mount path of a container."""
    mounts = {}
    for mount in container.get("volumeMounts") or ():
        if mount["name"] in volumes:
            folder = volumes[mount["name"]]
            mounts[mount["mountPath"]] = folder / mount["subPath"] if mount.get("subPath") else folder
    return mounts


def port_of(containers: Iterable[Object], port: int | str) -> int | None:
    """The number of a port that is given by number or by name."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    declared = (each for container in containers for each in container.get("ports") or ())
    return next((int(each["containerPort"]) for each in declared if each.get("name") == port), None)
