"""TensorFlow Serving's URLs, and its answers that need no tensor, by tables."""

import json

import pytest

from berth.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from berth.ids import ModelKey, VersionKey
from berth.model import ApiKey, ModelRoute, ReplicaAddress, RouteTable, Serving, Signature, TensorSpec, VersionRoute
from berth.states import Role, VersionState
from router.core.tfserving import (
    TfQuestion,
    Verb,
    is_tfserving,
    metadata_document,
    parse_question,
    read_signature,
    status_document,
)

ASKED = [
    ("GET", "/v1/models/m", TfQuestion(Verb.STATUS, "m", "")),
    ("GET", "/v1/models/m/versions/3", TfQuestion(Verb.STATUS, "m", "3")),
    ("GET", "/v1/models/m/versions/007", TfQuestion(Verb.STATUS, "m", "7")),
    ("GET", "/v1/models/m/labels/stable", TfQuestion(Verb.STATUS, "m", "stable")),
    ("GET", "/v1/models/m/metadata", TfQuestion(Verb.METADATA, "m", "")),
    ("GET", "/v1/models/m/labels/stable/metadata", TfQuestion(Verb.METADATA, "m", "stable")),
    ("POST", "/v1/models/m:predict", TfQuestion(Verb.PREDICT, "m", "")),
    ("POST", "/v1/models/m%3Apredict", TfQuestion(Verb.PREDICT, "m", "")),
    ("POST", "/V1/Models/M:Predict", TfQuestion(Verb.PREDICT, "M", "")),
    ("POST", "/v1/models/half.plus_two-1/versions/2:classify", TfQuestion(Verb.CLASSIFY, "half.plus_two-1", "2")),
    ("POST", "/v1/models/m/labels/ca%6Eary:regress", TfQuestion(Verb.REGRESS, "m", "canary")),
    ("GET", "/v1/models/..%2f..%2fetc", TfQuestion(Verb.STATUS, "../../etc", "")),
]


@pytest.mark.parametrize(("method", "path", "question"), ASKED)
def test_what_a_path_asks(method: str, path: str, question: TfQuestion) -> None:
    assert is_tfserving(path)
    assert parse_question(method, path) == question


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m:predict"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m/metadata"),
        ("PUT", "/v1/models/m:predict"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "/v1/models/m/versions/x:predict"),
        ("POST", "/v1/models/m/versions/0:predict"),
        ("POST", "/v1/models/m/versions/9223372036854775808:predict"),
        ("POST", f"/v1/models/m/versions/{'9' * 5000}:predict"),
        ("POST", "/v1/models/m/labels/2:predict"),
        ("POST", "/v1/models/m/versions/1/labels/a:predict"),
        ("GET", "/v1/models/%ff"),
        ("GET", "/v1/tenants/alice/models"),
    ],
)
def test_what_no_path_asks(method: str, path: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_question(method, path)


def test_other_surfaces_are_left_alone() -> None:
    assert not is_tfserving("/v2/models/m/infer")
    assert not is_tfserving("/v10/models/m")


ALICE, BOB, ADMIN = b"a" * 32, b"b" * 32, b"p" * 32
KEY = ModelKey("alice", "m")
REPLICA = ReplicaAddress("w1", "job", "local", "w1-1", "", "", "")
TABLE = RouteTable(
    models={
        KEY: ModelRoute(
            KEY,
            Serving.only(2, {"stable": 1, "next": 4}),
            (
                VersionRoute(1, ("w1",)),
                VersionRoute(2, ("w1",), state=VersionState.LOADING),
                VersionRoute(3, (), "loading on 1 replica", state=VersionState.LOADING),
                VersionRoute(4, (), "failed: no such operator", True, VersionState.FAILED),
                VersionRoute(5, (), "not loaded on any replica yet"),
                VersionRoute(6, ("gone",), "being unloaded", state=VersionState.DRAINING),
            ),
        ),
        ModelKey("alice", "empty"): ModelRoute(ModelKey("alice", "empty"), Serving(), ()),
        ModelKey("bob", "secret"): ModelRoute(ModelKey("bob", "secret"), Serving.only(1), (VersionRoute(1, ("w1",)),)),
    },
    replicas={"w1": REPLICA},
    keys={
        ALICE: ApiKey(ALICE, "alice", Role.DEVELOPER),
        BOB: ApiKey(BOB, "bob", Role.DEVELOPER),
        ADMIN: ApiKey(ADMIN, "", Role.ADMIN),
    },
)


def states(version: str = "") -> list[tuple[str, str, str, str]]:
    document = json.loads(status_document(TABLE, ALICE, TfQuestion(Verb.STATUS, "m", version)))
    assert list(document) == ["model_version_status"]
    return [
        (entry["version"], entry["state"], entry["status"]["error_code"], entry["status"]["error_message"])
        for entry in document["model_version_status"]
    ]


def test_the_states_of_all_versions_newest_first() -> None:
    assert states() == [
        ("6", "UNLOADING", "OK", "being unloaded"),
        ("5", "START", "OK", "not loaded on any replica yet"),
        ("4", "END", "UNKNOWN", "failed: no such operator"),
        ("3", "LOADING", "OK", "loading on 1 replica"),
        ("2", "AVAILABLE", "OK", ""),
        ("1", "AVAILABLE", "OK", ""),
    ]


def test_the_state_of_one_version() -> None:
    assert states("2") == [("2", "AVAILABLE", "OK", "")]
    assert states("next") == [("4", "END", "UNKNOWN", "failed: no such operator")]


@pytest.mark.parametrize(
    ("api_key", "model", "version", "error"),
    [
        (None, "m", "", Unauthenticated),
        (b"x" * 32, "m", "", Unauthenticated),
        (ADMIN, "m", "", PermissionDenied),
        (ALICE, "nope", "", NotFound),
        (ALICE, "secret", "", NotFound),
        (ALICE, "m", "9", NotFound),
        (ALICE, "m", "nolabel", NotFound),
        (ALICE, "empty", "", NotFound),
    ],
)
def test_no_status(api_key: bytes | None, model: str, version: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        status_document(TABLE, api_key, TfQuestion(Verb.STATUS, model, version))


def test_metadata_as_tensorflow_serving_shows_it() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("label", "BYTES", ()),))
    document = json.loads(metadata_document(VersionKey("alice", "m", 12), signature))
    assert document == {
        "model_spec": {"name": "m", "signature_name": "", "version": "12"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {
                            "x": {
                                "dtype": "DT_FLOAT",
                                "tensor_shape": {
                                    "dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}],
                                    "unknown_rank": False,
                                },
                                "name": "x",
                            }
                        },
                        "outputs": {
                            "label": {
                                "dtype": "DT_STRING",
                                "tensor_shape": {"dim": [], "unknown_rank": False},
                                "name": "label",
                            }
                        },
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    }
                }
            }
        },
    }


def test_a_workers_metadata_is_read() -> None:
    body = b'{"name":"m","inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}],"outputs":[]}'
    assert read_signature(body) == Signature((TensorSpec("x", "FP32", (-1, 4)),), ())
    for nonsense in (b"", b"[]", b"{}", b'{"inputs":[{"name":"x"}],"outputs":[]}', b'{"inputs":3,"outputs":[]}'):
        with pytest.raises(ValueError, match="metadata"):
            read_signature(nonsense)
