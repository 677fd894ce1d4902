"""Bodies in Kubernetes' protobuf: what typed Go clients (kubectl drain, Helm) send where they post an object.

Only the few types that such clients post to this server; field numbers are those of the published .proto files.
Answers are always JSON, which every client accepts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from doubles.kubernetes.kinds import Object

MAGIC = b"k8s\x00"


class ProtobufError(Exception):
    """A body that is not in the format, or of a type that this server reads only as JSON."""


class F(NamedTuple):
    """One field: its JSON name, and how its bytes read: `kind` is text, number, flag, micro_time, text_map, bytes_map,
    or the name of a message."""

    name: str
    kind: str
    repeated: bool = False


_MESSAGES: Mapping[str, Mapping[int, F]] = {
    "ObjectMeta": {
        1: F("name", "text"),
        2: F("generateName", "text"),
        3: F("namespace", "text"),
        5: F("uid", "text"),
        6: F("resourceVersion", "text"),
        11: F("labels", "text_map"),
        12: F("annotations", "text_map"),
        13: F("ownerReferences", "OwnerReference", repeated=True),
        14: F("finalizers", "text", repeated=True),
    },
    "OwnerReference": {
        1: F("kind", "text"),
        3: F("name", "text"),
        4: F("uid", "text"),
        5: F("apiVersion", "text"),
        6: F("controller", "flag"),
        7: F("blockOwnerDeletion", "flag"),
    },
    "Preconditions": {1: F("uid", "text"), 2: F("resourceVersion", "text")},
    "DeleteOptions": {
        1: F("gracePeriodSeconds", "number"),
        2: F("preconditions", "Preconditions"),
        3: F("orphanDependents", "flag"),
        4: F("propagationPolicy", "text"),
        5: F("dryRun", "text", repeated=True),
    },
    "Eviction": {1: F("metadata", "ObjectMeta"), 2: F("deleteOptions", "DeleteOptions")},
    "Namespace": {1: F("metadata", "ObjectMeta")},
    "ServiceAccount": {1: F("metadata", "ObjectMeta"), 4: F("automountServiceAccountToken", "flag")},
    "ConfigMap": {
        1: F("metadata", "ObjectMeta"),
        2: F("data", "text_map"),
        3: F("binaryData", "bytes_map"),
        4: F("immutable", "flag"),
    },
    "Secret": {
        1: F("metadata", "ObjectMeta"),
        2: F("data", "bytes_map"),
        3: F("type", "text"),
        4: F("stringData", "text_map"),
        5: F("immutable", "flag"),
    },
    "Lease": {1: F("metadata", "ObjectMeta"), 2: F("spec", "LeaseSpec")},
    "LeaseSpec": {
        1: F("holderIdentity", "text"),
        2: F("leaseDurationSeconds", "number"),
        3: F("acquireTime", "micro_time"),
        4: F("renewTime", "micro_time"),
        5: F("leaseTransitions", "number"),
    },
    "TokenRequest": {1: F("metadata", "ObjectMeta")},
    "SelfSubjectAccessReview": {1: F("metadata", "ObjectMeta"), 2: F("spec", "SelfSubjectAccessReviewSpec")},
    "SelfSubjectAccessReviewSpec": {1: F("resourceAttributes", "ResourceAttributes")},
    "ResourceAttributes": {
        1: F("namespace", "text"),
        2: F("verb", "text"),
        3: F("group", "text"),
        4: F("version", "text"),
        5: F("resource", "text"),
        6: F("subresource", "text"),
        7: F("name", "text"),
    },
}


def decode(body: bytes) -> Object:
    """The object in a body. Raises `ProtobufError`."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not begin as Kubernetes' protobuf does")
    envelope = dict(_fields(body[len(MAGIC) :]))
    meta = {number: content.decode() for number, content in _fields(envelope.get(1, b"")) if isinstance(content, bytes)}
    kind = meta.get(2, "")
    if kind not in _MESSAGES:
        raise ProtobufError(f"this server reads a {kind or 'nameless type'} only as JSON")
    return {"apiVersion": meta.get(1, ""), "kind": kind} | _message(kind, envelope.get(2, b""))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and contents: numbers, or bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                number, position = _varint(data, position)
                yield tag >> 3, number
            case 2:
                length, position = _varint(data, position)
                if position + length > len(data):
                    raise ProtobufError("the body ends inside a field")
                yield tag >> 3, data[position : position + length]
                position += length
            case wire_type:
                raise ProtobufError(f"wire type {wire_type} is not in use here")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ProtobufError("the body ends inside a number")


def _message(name: str, data: bytes) -> Object:
    result: Object = {}
    for number, content in _fields(data):
        field = _MESSAGES[name].get(number)
        if field is None:
            continue
        if field.kind.endswith("_map"):
            key, value = _entry(content, field.kind)
            result.setdefault(field.name, {})[key] = value
        elif field.repeated:
            result.setdefault(field.name, []).append(_value(field.kind, content))
        else:
            result[field.name] = _value(field.kind, content)
    # Go writes every text and struct that is not a pointer: empty is the same as absent.
    return {field: value for field, value in result.items() if value not in ("", {}, [])}


def _entry(data: bytes, kind: str) -> tuple[str, str]:
    parts = dict(_fields(data))
    value: bytes = parts.get(2, b"")
    text = base64.b64encode(value).decode() if kind == "bytes_map" else value.decode()
    return parts.get(1, b"").decode(), text


def _value(kind: str, content: Any) -> Any:
    match kind:
        case "text":
            return content.decode()
        case "number":
            return content - (1 << 64) if content >> 63 else content
        case "flag":
            return bool(content)
        case "micro_time":
            parts = dict(_fields(content))
            moment = datetime.fromtimestamp(parts.get(1, 0), UTC).replace(microsecond=parts.get(2, 0) // 1000)
            return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case _:
            return _message(kind, content)
