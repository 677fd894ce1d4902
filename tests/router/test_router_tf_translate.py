"""TensorFlow Serving's JSON to tensors and back: its documented formats as tables, the rest as properties."""

import base64
import contextlib
import decimal
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from berth.errors import InvalidArgument
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.model import Signature, TensorSpec
from berth.oip import rest
from berth.oip.datatypes import Array, bytes_array
from berth.oip.request import InferResponse
from router.core.tfserving import Verb
from router.tfserving.documents import BLOCK
from router.tfserving.predict import read_inputs, write_outputs
from router.tfserving.tensors import shortest
from router.tfserving.translate import Translation


def takes(**inputs: tuple[str, tuple[int, ...]]) -> Signature:
    return Signature(tuple(TensorSpec(name, *spec) for name, spec in inputs.items()), ())


def predict(signature: Signature, text: str) -> dict[str, Array]:
    """The tensors that reach the worker, by way of its own bytes."""
    sent = Translation(Verb.PREDICT, signature).to_worker(text.encode())
    request = rest.decode_request(sent.content, sent.headers[INFERENCE_HEADER_LENGTH_TEXT])
    assert request.binary_outputs
    return dict(request.inputs)


def same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tolist() == right.tolist()


TEXTS = takes(x=("BYTES", (-1,)))
FLOATS = takes(x=("FP32", (-1,)))
THREE = takes(tag=("BYTES", (-1,)), signal=("INT64", (-1, 5)), sensor=("FP32", (-1, 2, 2)))
B64 = base64.b64encode(b"\xff\x00").decode()

# signature, body, tensors. The first nine are the documentation's own.
PREDICTED: list[tuple[Signature, str, dict[str, Array]]] = [
    (TEXTS, '{"instances": ["foo", "bar", "baz"]}', {"x": bytes_array([b"foo", b"bar", b"baz"], (3,))}),
    (
        takes(x=("INT32", (-1, 1, 2))),
        '{"instances": [[[1, 2]], [[3, 4]]]}',
        {"x": np.array([[[1, 2]], [[3, 4]]], np.int32)},
    ),
    (
        THREE,
        '{"instances": [{"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},'
        ' {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}]}',
        {
            "tag": bytes_array([b"foo", b"bar"], (2,)),
            "signal": np.array([[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]]),
            "sensor": np.array([[[1, 2], [3, 4]], [[4, 5], [6, 8]]], np.float32),
        },
    ),
    (
        THREE,
        '{"inputs": {"tag": ["foo", "bar"], "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],'
        ' "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]}}',
        {
            "tag": bytes_array([b"foo", b"bar"], (2,)),
            "signal": np.array([[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]]),
            "sensor": np.array([[[1, 2], [3, 4]], [[4, 5], [6, 8]]], np.float32),
        },
    ),
    (FLOATS, '{"instances": [1.0,2.0,5.0]}', {"x": np.array([1, 2, 5], np.float32)}),
    (FLOATS, '{"signature_name": "serving_default", "instances": [1]}', {"x": np.array([1], np.float32)}),
    (FLOATS, '{"signature_name": "", "inputs": [1e2]}', {"x": np.array([100], np.float32)}),
    (FLOATS, '{"instances": [{"x": 1.5}, {"x": 2}]}', {"x": np.array([1.5, 2], np.float32)}),
    (TEXTS, f'{{"instances": [{{"b64": "{B64}"}}, "é"]}}', {"x": bytes_array([b"\xff\x00", "é".encode()], (2,))}),
    # What follows from them.
    (TEXTS, f'{{"instances": [{{"x": {{"b64": "{B64}"}}}}]}}', {"x": bytes_array([b"\xff\x00"], (1,))}),
    (TEXTS, f'{{"inputs": {{"x": [{{"b64": "{B64.rstrip("=")}"}}]}}}}', {"x": bytes_array([b"\xff\x00"], (1,))}),
    (takes(x=("BYTES", ())), f'{{"inputs": {{"b64": "{B64}"}}}}', {"x": bytes_array([b"\xff\x00"], ())}),
    (takes(x=("FP32", ())), '{"inputs": 3}', {"x": np.array(3, np.float32)}),
    (takes(x=("BOOL", (-1,))), '{"instances": [true, false]}', {"x": np.array([True, False])}),
    (takes(x=("UINT64", (-1,))), '{"instances": [18446744073709551615]}', {"x": np.array([2**64 - 1], np.uint64)}),
    (takes(x=("FP16", (-1,))), '{"instances": [0.5, 7]}', {"x": np.array([0.5, 7], np.float16)}),
    (takes(x=("BF16", (-1,))), '{"instances": [0.5]}', {"x": np.array([0.5], ml_dtypes.bfloat16)}),
    (takes(x=("FP32", (-1, 0))), '{"instances": [[], []]}', {"x": np.zeros((2, 0), np.float32)}),
    (takes(a=("FP32", (-1,)), b=("INT8", ())), '{"inputs": {"a": [], "b": 1, "extra": "ignored"}}',
     {"a": np.zeros(0, np.float32), "b": np.array(1, np.int8)}),
    (FLOATS, f'{{"instances": [{2**24 - 1}, -{2**24 - 1}]}}', {"x": np.array([2**24 - 1, 1 - 2**24], np.float32)}),
    (FLOATS, '{"instances": [16777217.0]}', {"x": np.array([16777216], np.float32)}),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "body", "tensors"), PREDICTED)
def test_what_predict_sends(signature: Signature, body: str, tensors: dict[str, Array]) -> None:
    sent = predict(signature, body)
    assert sent.keys() == tensors.keys()
    assert all(same(sent[name], tensor) for name, tensor in tensors.items()), sent


def test_numbers_that_json_has_no_word_for() -> None:
    x = predict(FLOATS, '{"instances": [NaN, Infinity, -Infinity]}')["x"]
    assert math.isnan(x[0])
    assert x[1:].tolist() == [math.inf, -math.inf]


REFUSED = [
    (FLOATS, "", "not JSON"),
    (FLOATS, "[1]", "not a JSON object"),
    (FLOATS, '{"instances": [1', "not JSON"),
    (FLOATS, "{}", "exactly one of"),
    (FLOATS, '{"instances": [1], "inputs": [1]}', "exactly one of"),
    (FLOATS, '{"instances": 1}', "at least one element"),
    (FLOATS, '{"instances": []}', "at least one element"),
    (FLOATS, '{"instances": {"x": 1}}', "at least one element"),
    (FLOATS, '{"signature_name": "other", "instances": [1]}', "'other' not found"),
    (FLOATS, '{"signature_name": 1, "instances": [1]}', "is a string"),
    (FLOATS, '{"instances": [true]}', "a boolean"),
    (FLOATS, '{"instances": [null]}', "null"),
    (FLOATS, '{"instances": ["1"]}', "a string"),
    (FLOATS, '{"instances": [{"b64": "AA=="}]}', "an object"),
    (FLOATS, '{"instances": [1e39]}', "out of the range"),
    (FLOATS, f'{{"instances": [{2**24}]}}', "without loss"),
    (takes(x=("FP64", (-1,))), f'{{"instances": [{2**53}]}}', "without loss"),
    (FLOATS, '{"instances": [1, [2]]}', "not a tensor"),
    (FLOATS, '{"instances": [[1], 2]}', "not a tensor"),
    (takes(x=("FP32", (-1, -1))), '{"instances": [[1, 2], [3]]}', "not a tensor"),
    (FLOATS, '{"instances": [[1], [2]]}', "has shape"),
    (takes(x=("FP32", (-1, 3))), '{"instances": [[1, 2]]}', "has shape"),
    (takes(x=("INT32", (-1,))), '{"instances": [1.0]}', "a fraction"),
    (takes(x=("INT8", (-1,))), '{"instances": [128]}', "out of the range"),
    (takes(x=("UINT8", (-1,))), '{"instances": [-1]}', "out of the range"),
    (takes(x=("BOOL", (-1,))), '{"instances": [1]}', "an integer"),
    (TEXTS, '{"instances": [1]}', "an integer"),
    (TEXTS, '{"instances": [{"b64": "not base64!"}]}', "not base64"),
    (TEXTS, '{"instances": ["a", {"b64": 1}]}', "not both"),
    (TEXTS, '{"inputs": [["a"]]}', "has shape"),
    (TEXTS, '{"inputs": ["a", ["b"]]}', "a list"),
    (THREE, '{"instances": [1]}', "several inputs"),
    (THREE, '{"inputs": [1]}', "several inputs"),
    (THREE, '{"inputs": {"tag": []}}', "missing input 'signal', 'sensor'"),
    (THREE, '{"instances": [{"tag": "a"}]}', "other keys"),
    (FLOATS, '{"instances": [{"x": 1, "y": 2}]}', "other keys"),
    (FLOATS, '{"instances": [{"x": 1}, 2]}', "not both"),
    (FLOATS, '{"instances": [1, {"x": 2}]}', "not both"),
    (takes(), '{"inputs": {}}', "takes no input"),
    (FLOATS, '{"inputs": ' + "[" * 40 + "]" * 40 + "}", "nested deeper"),
    (FLOATS, '{"inputs": ' + "[" * 50_000, "nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "body", "says"), REFUSED)
def test_what_predict_refuses(signature: Signature, body: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        predict(signature, body)


def test_a_body_that_is_no_text() -> None:
    with pytest.raises(InvalidArgument, match="UTF-8"):
        Translation(Verb.PREDICT, FLOATS).to_worker(b'{"instances": ["\xff"]}')


ONE = {"y": np.array([3.5, 4.0, 5.5], np.float32)}
TWO = {"y": np.array([[1, 2], [3, 4]]), "name": bytes_array([b"a", b"b"], (2,))}
ANSWERED: list[tuple[dict[str, Array], str, str]] = [
    # outputs, the answer in rows, the answer in columns
    (ONE, '{"predictions":[3.5,4.0,5.5]}', '{"outputs":[3.5,4.0,5.5]}'),
    (
        TWO,
        '{"predictions":[{"y":[1,2],"name":"a"},{"y":[3,4],"name":"b"}]}',
        '{"outputs":{"y":[[1,2],[3,4]],"name":["a","b"]}}',
    ),
    ({"y": np.array([0.2, 1e-7, 3e38, 16777216], np.float32)}, "[0.2,1e-07,3e+38,16777216.0]", ""),
    ({"y": np.array([0.1, 1 / 3])}, "[0.1,0.3333333333333333]", ""),
    ({"y": np.array([0.1, -2], np.float16)}, "[0.1,-2.0]", ""),
    ({"y": np.array([0.1], ml_dtypes.bfloat16)}, "[0.1]", ""),
    ({"y": np.array([math.nan, math.inf, -math.inf], np.float32)}, "[NaN,Infinity,-Infinity]", ""),
    ({"y": np.array([True])}, "[true]", ""),
    ({"y": np.array([2**64 - 1], np.uint64)}, "[18446744073709551615]", ""),
    ({"y_bytes": bytes_array([b"a"], (1,))}, '[{"b64":"YQ=="}]', ""),
    ({"y": bytes_array([b"a", b"\xff"], (2,))}, '[{"b64":"YQ=="},{"b64":"/w=="}]', ""),
    ({"y": np.zeros((0, 3), np.float32)}, "[]", ""),
    ({"y": np.zeros((2, 0), np.float32)}, "[[],[]]", ""),
]


@pytest.mark.parametrize(("outputs", "rows", "columns"), ANSWERED)
def test_what_predict_answers(outputs: dict[str, Array], rows: str, columns: str) -> None:
    whole = rows if rows.startswith("{") else f'{{"predictions":{rows}}}'
    assert write_outputs(outputs, rows=True).decode() == whole
    whole = columns or f'{{"outputs":{rows}}}'
    assert write_outputs(outputs, rows=False).decode() == whole


def test_a_scalar_output_has_columns_only() -> None:
    outputs = {"y": np.array(2.5, np.float32)}
    assert write_outputs(outputs, rows=False) == b'{"outputs":2.5}'
    with pytest.raises(InvalidArgument, match="no row for each instance"):
        write_outputs(outputs, rows=True)
    with pytest.raises(InvalidArgument, match="no row for each instance"):
        write_outputs({"y": np.zeros(2), "z": np.zeros(3)}, rows=True)
    with pytest.raises(InvalidArgument, match="no output"):
        write_outputs({}, rows=False)


def examples(verb: Verb, signature: Signature, body: str, outputs: dict[str, Array]) -> tuple[dict[str, Array], Any]:
    """The tensors that reach the worker, and the answer made of `outputs`."""
    translation = Translation(verb, signature)
    sent = translation.to_worker(body.encode())
    inputs = rest.decode_request(sent.content, sent.headers[INFERENCE_HEADER_LENGTH_TEXT]).inputs
    request = rest.decode_request(sent.content, sent.headers[INFERENCE_HEADER_LENGTH_TEXT])
    reply = rest.encode_response(InferResponse("m", "1", outputs), request)
    return dict(inputs), json.loads(
        translation.to_client(reply.content, reply.headers.get(INFERENCE_HEADER_LENGTH_TEXT))
    )


FEATURES = takes(image=("BYTES", (-1,)), size=("INT64", (-1, 1)), pixels=("FP32", (-1, 2, 2)))


def test_classify_as_documented() -> None:
    body = {
        "signature_name": "serving_default",
        "context": {"size": [7]},
        "examples": [
            {"image": {"b64": "aW1hZ2UgYnl0ZXM="}, "pixels": [1.0, 2.0, 3, 4], "unknown": "ignored"},
            {"image": "seaside", "pixels": [0.5, 0.5, 0.5, 0.5]},
        ],
    }
    outputs = {
        "classes": bytes_array([b"cat", b"dog", b"cat", b"dog"], (2, 2)),
        "scores": np.array([[0.9, 0.1], [0.25, 0.75]], np.float32),
    }
    sent, answer = examples(Verb.CLASSIFY, FEATURES, json.dumps(body), outputs)
    assert same(sent["image"], bytes_array([b"image bytes", b"seaside"], (2,)))
    assert same(sent["size"], np.array([[7], [7]]))
    assert same(sent["pixels"], np.array([[[1, 2], [3, 4]], [[0.5, 0.5], [0.5, 0.5]]], np.float32))
    assert answer == {"results": [[["cat", 0.9], ["dog", 0.1]], [["cat", 0.25], ["dog", 0.75]]]}


X = takes(x=("FP32", (-1,)))
LABELLED = '{"examples": [{"x": 1.0}, {"x": [2.0]}]}'


def test_regress_as_documented() -> None:
    for y in (np.array([3.5, 4.0], np.float32), np.array([[3.5], [4.0]])):
        sent, answer = examples(Verb.REGRESS, X, LABELLED, {"y": y})
        assert same(sent["x"], np.array([1, 2], np.float32))
        assert answer == {"results": [3.5, 4.0]}
    outputs = {"outputs": np.array([1.0, 2.0]), "variance": np.array([0.1, 0.1])}
    assert examples(Verb.REGRESS, X, LABELLED, outputs)[1] == {"results": [1.0, 2.0]}


def test_classes_by_name_by_type_or_not_at_all() -> None:
    scores = np.array([[0.5, 0.5], [1, 0]], np.float32)
    assert examples(Verb.CLASSIFY, X, LABELLED, {"p": scores})[1] == {
        "results": [[["", 0.5], ["", 0.5]], [["", 1.0], ["", 0.0]]]
    }
    # A label of one row each is not one of each score.
    assert examples(Verb.CLASSIFY, X, LABELLED, {"p": scores, "label": np.array([3, 4])})[1]["results"][0][0] == [
        "",
        0.5,
    ]
    numbered = {"scores": scores, "classes": np.array([[7, 8], [7, 8]]), "other": np.zeros(2)}
    assert examples(Verb.CLASSIFY, X, LABELLED, numbered)[1]["results"][1] == [["7", 1.0], ["8", 0.0]]
    texts = {"p": scores, "names": bytes_array([b"a", b"b", b"a", b"b"], (2, 2))}
    assert examples(Verb.CLASSIFY, X, LABELLED, texts)[1]["results"][1] == [["a", 1.0], ["b", 0.0]]


@pytest.mark.parametrize(
    ("verb", "outputs", "says"),
    [
        (Verb.CLASSIFY, {"y": np.array([1, 2])}, "do not say which"),
        (Verb.CLASSIFY, {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "do not say which"),
        (Verb.CLASSIFY, {"p": np.zeros(2)}, "a row an example"),
        (Verb.CLASSIFY, {"p": np.zeros((3, 2))}, "a row an example"),
        (Verb.CLASSIFY, {"scores": np.zeros((2, 2)), "classes": np.array([1, 2])}, "the scores have"),
        (Verb.REGRESS, {"y": np.zeros((2, 2))}, "one value an example"),
        (Verb.REGRESS, {"y": np.zeros(3)}, "one value an example"),
        (Verb.REGRESS, {"a": np.zeros(2), "b": np.zeros(2)}, "do not say which"),
    ],
)
def test_outputs_that_are_no_results(verb: Verb, outputs: dict[str, Array], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        examples(verb, X, LABELLED, outputs)


@pytest.mark.parametrize(
    ("signature", "body", "says"),
    [
        (X, "{}", "at least one element"),
        (X, '{"examples": []}', "at least one element"),
        (X, '{"examples": {}}', "at least one element"),
        (X, '{"examples": [1]}', "an object of features"),
        (X, '{"examples": [{"x": 1}], "context": []}', "an object of features"),
        (X, '{"examples": [{"x": 1}], "context": {"x": 1}}', "in the context and in example 0"),
        (X, '{"examples": [{"x": 1}, {}]}', "example 1 lacks the feature 'x'"),
        (X, '{"examples": [{"x": null}]}', "lacks the feature"),
        (X, '{"examples": [{"x": [1, 2]}]}', "do not fill"),
        (X, '{"examples": [{"x": []}]}', "do not fill"),
        (X, '{"examples": [{"x": [[1]]}]}', "not a tensor"),
        (X, '{"examples": [{"x": "1"}]}', "a string"),
        (X, '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1}]}', "not found"),
        (takes(x=("FP32", (-1, -1))), '{"examples": [{"x": [1, 2]}, {"x": [1]}]}', "same number of values"),
        (takes(x=("FP32", ())), '{"examples": [{"x": 1}]}', "does not take 1 examples"),
        (takes(x=("FP32", (2, 1))), '{"examples": [{"x": 1}]}', "does not take 1 examples"),
        (takes(x=("FP32", (-1, -1, -1))), '{"examples": [{"x": 1}]}', "do not fill"),
        (takes(x=("FP32", (-1, -1, 0))), '{"examples": [{"x": 1}]}', "do not fill"),
    ],
)
def test_examples_that_are_refused(signature: Signature, body: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        Translation(Verb.REGRESS, signature).to_worker(body.encode())


def test_examples_have_no_truth_values() -> None:
    flags = takes(flag=("BOOL", (-1,)), count=("INT32", (-1,)))
    sent, _ = examples(Verb.REGRESS, flags, '{"examples": [{"flag": 1, "count": true}]}', {"y": np.zeros(1)})
    assert same(sent["flag"], np.array([True]))
    assert same(sent["count"], np.array([1], np.int32))


# Properties

NUMBERS = {"FP32": "<f4", "FP64": "<f8", "INT8": "i1", "INT64": "<i8", "UINT16": "<u2", "UINT64": "<u8", "BOOL": "?"}
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Array]:
    datatype = draw(st.sampled_from([*NUMBERS, "BYTES"]))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = math.prod(shape)
        return datatype, bytes_array(draw(st.lists(st.binary(max_size=4), min_size=count, max_size=count)), shape)
    array = draw(hnp.arrays(NUMBERS[datatype], shape, elements={"allow_nan": False} if datatype[0] == "F" else None))
    return datatype, array


@given(st.lists(tensors(), min_size=1, max_size=3))
def test_what_is_written_in_columns_can_be_read(given_tensors: list[tuple[str, Array]]) -> None:
    arrays = {f"x{number}_bytes": array for number, (_, array) in enumerate(given_tensors)}
    signature = takes(**{f"x{number}_bytes": (kind, array.shape) for number, (kind, array) in enumerate(given_tensors)})
    document = {"inputs": json.loads(write_outputs(arrays, rows=False))["outputs"]}
    read, rows = read_inputs(document, signature)
    assert not rows
    assert all(same(read[name], array) for name, array in arrays.items())


@given(st.lists(tensors(), min_size=1, max_size=3))
def test_what_is_written_in_rows_can_be_read(given_tensors: list[tuple[str, Array]]) -> None:
    size = min(len(array) for _, array in given_tensors)
    arrays = {f"x{number}_bytes": array[:size] for number, (_, array) in enumerate(given_tensors)}
    signature = takes(
        **{name: (kind, arrays[name].shape) for name, (kind, _) in zip(arrays, given_tensors, strict=True)}
    )
    document = {"instances": json.loads(write_outputs(arrays, rows=True))["predictions"]}
    read, rows = read_inputs(document, signature)
    assert rows
    assert all(same(read[name], array) for name, array in arrays.items())


@example(np.array([3.6600347e30, 1e-45, 3.4028235e38, 1e22, 1e23, 9.999999e-16], np.float32))
@given(hnp.arrays("<f4", hnp.array_shapes(min_dims=0, max_dims=2, min_side=0)))
def test_few_digits_are_the_same_number(array: Array) -> None:
    short = shortest(array)
    assert short.dtype == np.float64
    assert np.array_equal(short.astype(np.float32), array, equal_nan=True)
    for few, one in zip(short.ravel().tolist(), array.ravel(), strict=True):
        if math.isfinite(few):
            assert digits_of(repr(few)) <= max(6, digits_of(str(one)))


def digits_of(number: str) -> int:
    return len(decimal.Decimal(number).normalize().as_tuple().digits)


@given(st.text(), st.sampled_from(list(Verb)[2:]))
def test_no_text_is_more_than_refused(text: str, verb: Verb) -> None:
    with pytest.raises(InvalidArgument):
        Translation(verb, THREE).to_worker(text.encode("utf-8", "surrogatepass"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "tag", "b64", "instances"]), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["instances", "inputs", "examples"]), JSON, st.sampled_from([FLOATS, TEXTS, THREE]))
def test_no_document_is_more_than_refused(member: str, value: Any, signature: Signature) -> None:
    verb = Verb.REGRESS if member == "examples" else Verb.PREDICT
    with contextlib.suppress(InvalidArgument):
        Translation(verb, signature).to_worker(json.dumps({member: value}).encode())


def test_blocks_join_without_a_seam() -> None:
    count = 3 * BLOCK + 5
    array = np.arange(count, dtype=np.int64)
    written = json.loads(write_outputs({"y": array}, rows=True))
    assert written == {"predictions": list(range(count))}
    wide = np.arange(2 * count, dtype=np.int64).reshape(2, count)
    assert json.loads(write_outputs({"y": wide, "z": wide}, rows=True))["predictions"][1]["z"] == wide[1].tolist()
    text = json.dumps({"instances": array.tolist()})
    assert same(predict(takes(x=("INT64", (-1,))), text)["x"], array)


@pytest.mark.parametrize("part", ["[]", "{}", '""', "[1]"])
def test_a_document_of_too_many_parts_is_refused_before_it_is_read(part: str) -> None:
    with pytest.raises(InvalidArgument, match="more than 100000 lists"):
        predict(FLOATS, '{"instances": [' + ",".join([part] * 100_001) + "]}")
