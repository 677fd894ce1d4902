"""The meaning of URLs of TensorFlow Serving's REST API, and the answers that need no tensor: status and metadata.

The surface and its shapes follow TensorFlow Serving's documentation (RESTful API): its clients can be pointed at Berth
unchanged, except for the API key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import unquote

from berth.errors import InvalidArgument, NotFound
from berth.ids import MAX_VERSION, VersionKey, parse_version
from berth.model import RouteTable, Signature, TensorSpec, VersionRoute
from berth.states import VersionState
from router.core.routes import model_of, named_version

DEFAULT_SIGNATURE = "serving_default"

# As there, the fixed parts match in any case. A client may send the colon percent-encoded.
_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+?)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+?))?"
    r"(?:(?P<metadata>/metadata)|(?::|%3A)(?P<verb>predict|classify|regress))?",
    re.IGNORECASE,
)

_DTYPES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BF16": "DT_BFLOAT16",
    "BYTES": "DT_STRING",
}

# There a failed load ends in END, with a code for the cause. Our causes are text, so the code says no more.
_STATES = {
    VersionState.PENDING: ("START", "OK"),
    VersionState.LOADING: ("LOADING", "OK"),
    VersionState.AVAILABLE: ("AVAILABLE", "OK"),
    VersionState.DRAINING: ("UNLOADING", "OK"),
    VersionState.RETIRED: ("END", "OK"),
    VersionState.FAILED: ("END", "UNKNOWN"),
}


class Verb(Enum):
    STATUS = "status"
    METADATA = "metadata"
    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"

    @property
    def has_body(self) -> bool:
        return self in (Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS)


class TfQuestion(NamedTuple):
    """`version` is a number, a label, or "" for the default, as `router.core.routes` takes it."""

    verb: Verb
    model: str
    version: str


def is_tfserving(path: str) -> bool:
    """Whether the percent-encoded `path` belongs to this surface."""
    return path[:4].lower() == "/v1/"


def parse_question(method: str, path: str) -> TfQuestion:
    """What a request asks for. Raises `InvalidArgument` for one that TensorFlow Serving would not take either."""
    match = _PATH.fullmatch(path)
    verb = Verb.STATUS
    if match is not None and match["metadata"]:
        verb = Verb.METADATA
    elif match is not None and match["verb"]:
        verb = Verb(match["verb"].lower())
    if match is None or method != ("POST" if verb.has_body else "GET"):
        raise InvalidArgument(f"malformed request: {method[:20]} {path[:200]!a}")
    version = ""
    if match["version"]:
        # Compared as a number: 007 is 7. Digits without end would cost time without end.
        number = int(match["version"]) if len(match["version"]) <= 40 else 0
        if not 0 < number <= MAX_VERSION:
            raise InvalidArgument(f"{match['version'][:40]} is not the number of a version")
        version = str(number)
    elif match["label"]:
        version = _decoded(match["label"])
        if parse_version(version) is not None:
            raise InvalidArgument(f"{version} is a number and no label: ask for /versions/{version}")
    return TfQuestion(verb, _decoded(match["model"]), version)


def status_document(table: RouteTable, api_key: bytes | None, question: TfQuestion) -> bytes:
    """The state of one version or, newest first, of all. Raises what `routes.resolve` raises, but for `Unavailable`."""
    route = model_of(table, api_key, question.model)
    entries: Iterable[VersionRoute] = route.versions
    if question.version:
        entries = (named_version(route, question.version),)
    elif not route.versions:
        raise NotFound(f"model {question.model[:100]!a} serves no version")
    states = [_version_status(table, entry) for entry in sorted(entries, key=lambda entry: -entry.version)]
    return _dump({"model_version_status": states})


def metadata_document(key: VersionKey, signature: Signature) -> bytes:
    """The one signature that an ONNX model has."""
    definition = {
        "inputs": _tensor_infos(signature.inputs),
        "outputs": _tensor_infos(signature.outputs),
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return _dump(
        {
            "model_spec": {"name": key.model, "signature_name": "", "version": str(key.version)},
            "metadata": {"signature_def": {"signature_def": {DEFAULT_SIGNATURE: definition}}},
        }
    )


def read_signature(body: bytes) -> Signature:
    """The signature in a worker's OIP metadata. Raises `ValueError` for what a worker never sends."""
    try:
        document = json.loads(body)
        inputs, outputs = (
            tuple(
                TensorSpec(str(item["name"]), str(item["datatype"]), tuple(map(int, item["shape"]))) for item in group
            )
            for group in (document["inputs"], document["outputs"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the metadata of a model: {error!r}") from None
    return Signature(inputs, outputs)


def _version_status(table: RouteTable, entry: VersionRoute) -> dict[str, Any]:
    answers = any(name in table.replicas for name in entry.replicas)
    state, code = _STATES[VersionState.AVAILABLE if answers else entry.state]
    status = {"error_code": code, "error_message": "" if answers else entry.reason}
    return {"version": str(entry.version), "state": state, "status": status}


def _tensor_infos(specs: Iterable[TensorSpec]) -> dict[str, Any]:
    return {
        spec.name: {
            "dtype": _DTYPES.get(spec.datatype, "DT_INVALID"),
            "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": False},
            "name": spec.name,
        }
        for spec in specs
    }


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgument("the URL is not valid UTF-8") from None


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
