"""Which objects a request means: label selectors in both forms (text and object), and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from doubles.kubernetes.kinds import Kind, Object
from doubles.kubernetes.status import bad_request

Match = Callable[[Object], bool]

_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_KEY = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s!=,()]+)$")
_COMMA = re.compile(r",(?![^(]*\))")


class Requirement(NamedTuple):
    """One condition on one key. `operator` is In, NotIn, Exists or DoesNotExist; absent keys satisfy NotIn."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


Requirements = tuple[Requirement, ...]


def parse_labels(text: str) -> Requirements:
    """Read `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises a 400 for anything else."""
    return tuple(_parse_term(term.strip()) for term in _COMMA.split(text) if term.strip())


def _parse_term(term: str) -> Requirement:
    if found := _SET.match(term):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], "In" if found["operator"] == "in" else "NotIn", values)
    if found := _EQUAL.match(term):
        return Requirement(found["key"], "NotIn" if found["operator"] == "!=" else "In", frozenset({found["value"]}))
    if found := _KEY.match(term):
        return Requirement(found["key"], "DoesNotExist" if found["absent"] else "Exists")
    raise bad_request(f"unable to parse requirement: {term!r} is not a label selector")


def requirements_of(selector: Object | None) -> Requirements | None:
    """Read a `LabelSelector` object. None, for a selector that is absent, matches nothing; an empty one everything."""
    if selector is None:
        return None
    equal = tuple(Requirement(key, "In", frozenset({value})) for key, value in selector.get("matchLabels", {}).items())
    return equal + tuple(
        Requirement(item["key"], item["operator"], frozenset(item.get("values") or ()))
        for item in selector.get("matchExpressions") or ()
    )


def selects(requirements: Requirements | None, labels: Mapping[str, str] | None) -> bool:
    return requirements is not None and all(requirement.holds(labels or {}) for requirement in requirements)


def selector_text(selector: Object | None) -> str:
    """The text form of a `LabelSelector` object, as the scale subresource gives it."""
    terms = []
    for key, operator, values in requirements_of(selector) or ():
        match operator:
            case "In" if len(values) == 1:
                terms.append(f"{key}={next(iter(values))}")
            case "In" | "NotIn":
                terms.append(f"{key} {operator.lower()} ({','.join(sorted(values))})")
            case "Exists":
                terms.append(key)
            case _:
                terms.append(f"!{key}")
    return ",".join(sorted(terms))


_COMMON_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_FIELDS: Mapping[str, frozenset[str]] = {
    "pods": frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    ),
    "nodes": frozenset({"spec.unschedulable"}),
    "namespaces": frozenset({"status.phase"}),
    "secrets": frozenset({"type"}),
    "services": frozenset({"spec.clusterIP", "spec.type"}),
    "replicasets.apps": frozenset({"status.replicas"}),
    "jobs.batch": frozenset({"status.successful"}),
}


class FieldTerm(NamedTuple):
    path: str
    value: str
    equal: bool

    def holds(self, value: Object) -> bool:
        return (_field(value, self.path) == self.value) == self.equal


def parse_fields(kind: Kind, text: str) -> tuple[FieldTerm, ...]:
    """Read `metadata.name=x,status.phase!=Failed`. Raises a 400 for a field that the kind does not support."""
    terms = []
    supported = _COMMON_FIELDS | _FIELDS.get(kind.resource, frozenset())
    for term in filter(None, text.split(",")):
        found = _EQUAL.match(term.strip())
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        if found["key"] not in supported:
            raise bad_request(
                f'Unable to find "{kind.api_version}, Resource={kind.plural}" that match label selector "", '
                f'field selector "{text}": field label not supported: {found["key"]}'
            )
        terms.append(FieldTerm(found["key"], found["value"], found["operator"] != "!="))
    return tuple(terms)


def _field(value: Object, path: str) -> str:
    """A field as text; what is not set selects as the empty string."""
    found: Any = value
    for part in path.split("."):
        found = (found or {}).get(part, "")
    return str(found).lower() if isinstance(found, bool) else str(found or "")


def matcher(kind: Kind, labels: str, fields: str, namespace: str = "") -> Match | None:
    """Whether an object is meant by a list or watch; None: every object of the kind is."""
    requirements = parse_labels(labels)
    terms = parse_fields(kind, fields)
    if not requirements and not terms and not namespace:
        return None

    def match(value: Object) -> bool:
        metadata = value["metadata"]
        return (
            (not namespace or metadata.get("namespace") == namespace)
            and selects(requirements, metadata.get("labels"))
            and all(term.holds(value) for term in terms)
        )

    return match
