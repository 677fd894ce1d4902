"""Real models are read; everything else is refused by name, and nothing but a refusal comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from berth.errors import UnsupportedArtifact
from berth.model import Signature, TensorSpec
from controller.core.intake import InspectedModel
from controller.intake import onnx_wire
from controller.intake.onnx_artifact import MAX_IR_VERSION, MAX_OPSETS, inspect
from doubles.onnx_session import open_session

FLOAT = TensorProto.FLOAT
Value = onnx.ValueInfoProto


def value(name: str, elem_type: int = FLOAT, shape: list[int | str | None] | None = None) -> Value:
    return helper.make_tensor_value_info(name, elem_type, [None, 2] if shape is None else shape)


def linear() -> onnx.ModelProto:
    """y = x @ w + b, with x of [batch, 4] and y of [batch, 3]."""
    weights = [
        numpy_helper.from_array(np.ones((4, 3), np.float32), "w"),
        helper.make_tensor("b", FLOAT, [3], [1.0, 2.0, 3.0]),  # typed data rather than raw
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
        "linear",
        [value("x", FLOAT, ["batch", 4])],
        [value("y", FLOAT, ["batch", 3])],
        weights,
    )
    return stamped(helper.make_model(graph))


def stamped(model: onnx.ModelProto, **domains: int) -> onnx.ModelProto:
    model.ir_version = 10
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 21))
    for domain, version in domains.items():
        model.opset_import.append(helper.make_opsetid(domain.replace("_", "."), version))
    return model


def identity(x: Value, y: Value | None = None, **domains: int) -> onnx.ModelProto:
    graph = helper.make_graph([helper.make_node("Identity", [x.name], ["y"])], "g", [x], [y or value("y")])
    return stamped(helper.make_model(graph), **domains)


def read(tmp_path: Path, model: onnx.ModelProto | bytes) -> InspectedModel:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return inspect(path)


def test_reads_signature_and_weights(tmp_path: Path) -> None:
    assert read(tmp_path, linear()) == InspectedModel(
        Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),)), 4 * 3 * 4 + 3 * 4
    )


def test_a_real_classifier(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(5, random_state=0).fit(x, y)
    model = to_onnx(forest, x[:1].astype(np.float32), options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    assert read(tmp_path, model).signature == Signature(
        (TensorSpec("X", "FP32", (-1, 64)),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 10))),
    )


def test_initializers_listed_as_inputs_are_not_inputs(tmp_path: Path) -> None:
    model = linear()
    model.ir_version = 3
    model.graph.input.extend([value("w", FLOAT, [4, 3]), value("b", FLOAT, [3])])
    assert [spec.name for spec in read(tmp_path, model).signature.inputs] == ["x"]


@pytest.mark.parametrize(
    ("elem_type", "datatype"),
    [
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.BFLOAT16, "BF16"),
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.STRING, "BYTES"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.INT16, "INT16"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.UINT16, "UINT16"),
        (TensorProto.UINT32, "UINT32"),
        (TensorProto.UINT64, "UINT64"),
    ],
)
def test_datatypes(tmp_path: Path, elem_type: int, datatype: str) -> None:
    model = identity(value("x", elem_type), value("y", elem_type))
    assert read(tmp_path, model).signature.inputs == (TensorSpec("x", datatype, (-1, 2)),)


def test_shapes(tmp_path: Path) -> None:
    scalar = read(tmp_path, identity(value("x", FLOAT, []), value("y", FLOAT, []))).signature
    assert scalar.inputs[0].shape == ()
    free = identity(value("x", FLOAT, ["n", None, 0, 7]), helper.make_tensor_value_info("y", FLOAT, None))
    signature = read(tmp_path, free).signature
    assert signature.inputs[0].shape == (-1, -1, 0, 7)
    assert signature.outputs[0].shape == (-1,)


def test_tensors_in_attributes_and_subgraphs_count_as_weights(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros((1, 2), np.float64), "k"))
    inner = helper.make_graph([constant], "then", [], [value("k", TensorProto.DOUBLE, [1, 2])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([node], "g", [value("c", TensorProto.BOOL, [])], [value("y", TensorProto.DOUBLE)])
    assert read(tmp_path, stamped(helper.make_model(graph))).initializer_bytes == 2 * 16


def test_sub_byte_and_string_weights(tmp_path: Path) -> None:
    model = linear()
    model.graph.initializer.append(helper.make_tensor("q", TensorProto.INT4, [5], [1, 2, 3, 4, 5]))
    words: list[Any] = [b"ab", b""]
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], words))
    assert read(tmp_path, model).initializer_bytes == 60 + 3 + (4 + 2 + 2 * 32)


def with_functions(*functions: onnx.FunctionProto, call: str = "f0") -> onnx.ModelProto:
    graph = helper.make_graph([helper.make_node(call, ["x"], ["y"], domain="local")], "g", [value("x")], [value("y")])
    model = stamped(helper.make_model(graph), local=1)
    model.functions.extend(functions)
    return model


def function(name: str, *calls: tuple[str, str]) -> onnx.FunctionProto:
    nodes = [
        helper.make_node(
            op, ["a" if at == 0 else f"v{at}"], ["b" if at == len(calls) - 1 else f"v{at + 1}"], domain=dom
        )
        for at, (op, dom) in enumerate(calls)
    ]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports)


def test_local_functions_are_accepted(tmp_path: Path) -> None:
    model = with_functions(function("f0", ("f1", "local"), ("Relu", "")), function("f1", ("Relu", "")))
    assert read(tmp_path, model).signature.inputs[0].name == "x"


def external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def raw(shape: tuple[int, ...] = (2,), name: str = "k") -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = linear()
    change(model)
    return model


def with_node(node: onnx.NodeProto, **domains: int) -> onnx.ModelProto:
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    return stamped(helper.make_model(graph), **domains)


def with_subgraph_tensor() -> onnx.ModelProto:
    inner = helper.make_graph([], "then", [], [value("k")], [external(raw())])
    return with_node(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))


def with_function_tensor(*, as_default: bool) -> onnx.ModelProto:
    made = function("f0", ("Relu", ""))
    attribute = helper.make_attribute("value", external(raw()))
    if as_default:
        made.attribute_proto.append(attribute)
    else:
        made.node[0].attribute.append(attribute)
    return with_functions(made)


def with_sparse(tensor: TensorProto, *, initializer: bool) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.zeros(2, np.int64), "i")
    sparse = helper.make_sparse_tensor(tensor, indices, [4])
    if initializer:
        return changed(lambda model: model.graph.sparse_initializer.append(sparse))
    return with_node(helper.make_node("Constant", [], ["y"], sparse_value=sparse))


def delimited(tag: int, body: bytes) -> bytes:
    head, length = bytearray([tag]), len(body)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + body


def nested(levels: int) -> bytes:
    """An If in an If in an If, put together from bytes: protobuf would not build the deepest ones."""
    leaf = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [value("y")])
    other = helper.make_attribute("else_branch", leaf)
    graph = leaf.SerializeToString()
    for _ in range(levels):
        then = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
        branches = delimited(0x2A, then + delimited(0x32, graph)) + delimited(0x2A, other.SerializeToString())
        node = helper.make_node("If", ["x"], ["y"]).SerializeToString() + branches
        graph = onnx.GraphProto(name="g", output=[value("y")]).SerializeToString() + delimited(0x0A, node)
    graph += onnx.GraphProto(input=[value("x", TensorProto.BOOL, [])]).SerializeToString()
    shell = stamped(onnx.ModelProto()).SerializeToString()
    return shell + delimited(0x3A, graph)


def doubling(levels: int) -> onnx.ModelProto:
    """The billion laughs: each function calls the next twice."""
    last = function(f"f{levels}", ("Relu", ""))
    calls = [function(f"f{at}", (f"f{at + 1}", "local"), (f"f{at + 1}", "local")) for at in range(levels)]
    return with_functions(*calls, last)


def sequence_input() -> onnx.ModelProto:
    return identity(helper.make_tensor_sequence_value_info("x", FLOAT, [2]))


def map_output() -> onnx.ModelProto:
    value_type = helper.make_tensor_type_proto(FLOAT, [])
    return identity(value("x"), helper.make_value_info("y", helper.make_map_type_proto(TensorProto.INT64, value_type)))


def optional_input() -> onnx.ModelProto:
    inner = helper.make_tensor_type_proto(FLOAT, [2])
    return identity(helper.make_value_info("x", helper.make_optional_type_proto(inner)))


def no_dims(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]


def without(field: str) -> onnx.ModelProto:
    return changed(lambda model: model.graph.ClearField(field))


RELU = ("Relu", ["x"], ["y"])

REFUSALS: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"hello, this is not a model at all", "not an ONNX model"),
    "html": (lambda: b"<!doctype html><html></html>", "not an ONNX model"),
    "zeros": (lambda: bytes(1_000), "not an ONNX model"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), "zip archive"),
    "pickle": (lambda: b"\x80\x04\x95" + bytes(100), "pickle"),
    "ort": (lambda: b"\x24\x00\x00\x00ORTM" + bytes(100), "upload the .onnx file"),
    "cut": (lambda: linear().SerializeToString()[:-20], "truncated"),
    "doubled tail": (lambda: linear().SerializeToString() + b"\x0a", "truncated"),
    "no graph": (lambda: changed(lambda model: model.ClearField("graph")), "no operators"),
    "no nodes": (lambda: without("node"), "no operators"),
    "no inputs": (lambda: without("input"), "no inputs"),
    "no outputs": (lambda: without("output"), "no outputs"),
    "only constants as inputs": (lambda: changed(lambda m: setattr(m.graph.input[0], "name", "w")), "no inputs"),
    "external initializer": (
        lambda: changed(lambda m: external(m.graph.initializer[0])),
        "'w' has its data in another",
    ),
    "external by its location only": (
        lambda: changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")),
        "'w' has its data in another",
    ),
    "external sparse initializer": (lambda: with_sparse(external(raw()), initializer=True), "in another file"),
    "external sparse attribute": (lambda: with_sparse(external(raw()), initializer=False), "in another file"),
    "external attribute": (
        lambda: with_node(helper.make_node("Constant", [], ["y"], value=external(raw()))),
        "in another file",
    ),
    "external in a list of tensors": (
        lambda: with_node(helper.make_node(*RELU, many=[raw(), external(raw())])),
        "in another file",
    ),
    "external in a subgraph": (with_subgraph_tensor, "in another file"),
    "external in a function": (lambda: with_function_tensor(as_default=False), "in another file"),
    "external in a function's default": (lambda: with_function_tensor(as_default=True), "in another file"),
    "training": (lambda: changed(lambda m: m.training_info.add()), "training information"),
    "foreign domain": (lambda: with_node(helper.make_node(*RELU, domain="evil.ops"), evil_ops=1), "'evil.ops'"),
    "training domain": (
        lambda: with_node(helper.make_node("Adam", ["x"], ["y"], domain="ai.onnx.preview.training")),
        "'ai.onnx.preview.training'",
    ),
    "foreign domain in a function": (lambda: with_functions(function("f0", ("Relu", "evil"))), "'evil'"),
    "compiled elsewhere": (
        lambda: with_node(helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft"), com_microsoft=1),
        "'EPContext'",
    ),
    "missing function": (lambda: with_functions(call="f9"), "'f9'"),
    "function calls itself": (lambda: with_functions(function("f0", ("f0", "local"))), "call themselves"),
    "functions in a circle": (
        lambda: with_functions(function("f0", ("f1", "local")), function("f1", ("f0", "local"))),
        "call themselves",
    ),
    "functions that explode": (lambda: doubling(25), "expand to more than"),
    "functions of one name": (
        lambda: with_functions(function("f0", ("Relu", "")), function("f0", ("Relu", ""))),
        "same",
    ),
    "opset of the future": (
        lambda: changed(lambda m: setattr(m.opset_import[0], "version", 27)),
        "opset 27 of ai.onnx",
    ),
    "opset zero": (lambda: changed(lambda m: setattr(m.opset_import[0], "version", 0)), "opset 0"),
    "ml opset of the future": (lambda: identity(value("x"), ai_onnx_ml=6), "opset 6 of ai.onnx.ml"),
    "no opset": (lambda: changed(lambda m: m.ClearField("opset_import")), "no operator set"),
    "IR of the future": (lambda: changed(lambda m: setattr(m, "ir_version", 14)), "IR version 14"),
    "IR of the past": (lambda: changed(lambda m: setattr(m, "ir_version", 2)), "IR version 2"),
    "sequence input": (sequence_input, "'x' is declared as sequence"),
    "map output": (map_output, "'y' is declared as map"),
    "optional input": (optional_input, "'x' is declared as optional"),
    "input without a type": (lambda: changed(lambda m: m.graph.input[0].ClearField("type")), "declared as nothing"),
    "input without a shape": (lambda: identity(helper.make_tensor_value_info("x", FLOAT, None)), "no shape"),
    "complex input": (lambda: identity(value("x", TensorProto.COMPLEX64)), "data type 14"),
    "float8 output": (lambda: identity(value("x"), value("y", TensorProto.FLOAT8E5M2)), "data type 19"),
    "undefined input": (lambda: identity(value("x", 0)), "data type 0"),
    "input without a name": (lambda: changed(lambda m: setattr(m.graph.input[0], "name", "")), "without a name"),
    "two inputs of one name": (lambda: changed(lambda m: m.graph.input.append(value("x"))), "several inputs named 'x'"),
    "two outputs of one name": (lambda: changed(lambda m: m.graph.output.append(value("y"))), "several outputs named"),
    "negative dimension": (lambda: identity(value("x", FLOAT, [-5])), "make no sense"),
    "absurd dimension": (lambda: identity(value("x", FLOAT, [2**40])), "make no sense"),
    "absurd rank": (lambda: identity(value("x", FLOAT, [1] * 33)), "33 dimensions"),
    "negative weights": (lambda: changed(lambda m: m.graph.initializer[0].dims.append(-1)), "make no sense"),
    "absurd weights": (lambda: changed(lambda m: m.graph.initializer[0].dims.append(2**62)), "make no sense"),
    "weights of a rank": (lambda: changed(lambda m: m.graph.initializer[0].dims.extend([1] * 31)), "make no sense"),
    "too few weights": (lambda: changed(lambda m: m.graph.initializer[0].dims.append(1_000)), "does not fill"),
    "too many weights": (lambda: changed(no_dims), "does not fill"),
    "too few typed weights": (lambda: changed(lambda m: m.graph.initializer[1].dims.append(1_000)), "does not fill"),
    "weights of no type": (lambda: changed(lambda m: setattr(m.graph.initializer[0], "data_type", 99)), "data type 99"),
    "unknown operator": (lambda: with_node(helper.make_node("Nonsense", ["x"], ["y"])), "not valid ONNX"),
    "undefined edge": (lambda: with_node(helper.make_node("Relu", ["nowhere"], ["y"])), "not valid ONNX"),
    "edge defined twice": (lambda: changed(lambda m: m.graph.node.append(m.graph.node[0])), "not valid ONNX"),
    "weights named twice": (lambda: changed(lambda m: m.graph.initializer.append(raw(name="w"))), "not valid ONNX"),
    "weights without a name": (lambda: changed(lambda m: m.graph.initializer.append(raw(name=""))), "not valid ONNX"),
    "too deep": (lambda: nested(31), "nested more than"),
    "far too deep": (lambda: nested(2_000), "nested more than"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(tmp_path: Path, case: str) -> None:
    build, said = REFUSALS[case]
    with pytest.raises(UnsupportedArtifact) as error:
        read(tmp_path, build())
    assert said in error.value.detail
    assert len(error.value.detail) < 500


def test_what_is_barely_allowed(tmp_path: Path) -> None:
    read(tmp_path, nested(29))
    read(tmp_path, doubling(10))
    read(tmp_path, identity(value("x", FLOAT, [2**31 - 1])))
    # Exporters import domains that they do not use.
    read(tmp_path, identity(value("x"), ai_onnx_training=1, org_pytorch_aten=1))


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    data = linear().SerializeToString().replace(b"MatMul", b"Mat\xff\xfel")
    with pytest.raises(UnsupportedArtifact, match="UTF-8"):
        read(tmp_path, data)


def test_a_file_beyond_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # sparse: takes no room
    with pytest.raises(UnsupportedArtifact, match="2 GiB"):
        inspect(path)


@pytest.mark.parametrize("entry", [b"\x0a\x00", b"\x2a\x00", b"\x5a\x00", delimited(0x0A, b"\x2a\x00" * 50)])
def test_small_files_that_are_large_in_memory(tmp_path: Path, entry: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_wire, "MAX_MESSAGES", 10_000)
    bomb = delimited(0x3A, entry * (20_000 // (len(entry) // 2)))
    with pytest.raises(UnsupportedArtifact, match="too complex"):
        read(tmp_path, bomb)


def test_structure_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_wire, "MAX_STRUCTURE_BYTES", 10_000)
    heavy = linear()
    heavy.graph.initializer.append(raw((100_000,)))
    read(tmp_path, heavy)  # weights do not count
    with pytest.raises(UnsupportedArtifact, match="exceeds"):
        read(tmp_path, changed(lambda model: setattr(model.graph, "doc_string", "x" * 10_001)))
    with pytest.raises(UnsupportedArtifact, match="exceeds"):
        read(tmp_path, changed(lambda model: setattr(model, "doc_string", "x" * 10_001)))
    with pytest.raises(UnsupportedArtifact, match="exceeds"):
        read(tmp_path, changed(lambda model: setattr(model.graph.initializer[0], "doc_string", "x" * 10_001)))


@given(st.lists(st.floats(width=32), max_size=40), st.booleans())
@example([0.5] * (2**16 - 1), True)  # they are passed over 2**16 at a time
@example([0.5] * 2**16, True)
@example([0.5] * (2**17 + 1), False)
def test_floats_of_attributes_are_passed_over_exactly(floats: list[float], then: bool) -> None:
    node = helper.make_node("N", ["x"], ["y"])
    node.attribute.add(name="a").floats.extend(floats)
    node.attribute[0].ints.extend([1, 300] if then else [])
    node.attribute.add(name="b").f = 1.0
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert onnx.ModelProto.FromString(onnx_wire.strip(model.SerializeToString()).model) == model


def damaged(data: bytes, flips: list[tuple[int, int]], keep: int) -> bytes:
    copy = bytearray(data)
    for at, mask in flips:
        copy[at % len(copy)] ^= mask
    return bytes(copy[:keep]) if keep < len(copy) else bytes(copy)


SUBJECTS = [
    linear().SerializeToString(),
    with_functions(function("f0", ("f1", "local"), ("Relu", "")), function("f1", ("Relu", ""))).SerializeToString(),
    nested(3),
    with_sparse(raw(), initializer=True).SerializeToString(),
]


@settings(max_examples=1_500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SUBJECTS),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 255)), max_size=4),
    st.integers(0, 2_000),
)
@example(
    SUBJECTS[3], [(458, 112)], 242
)  # a shape that its data do not fill: an error of the checker's of another class
def test_damage_gives_a_refusal_or_a_model(
    tmp_path: Path, data: bytes, flips: list[tuple[int, int]], keep: int
) -> None:
    inspected = None
    with contextlib.suppress(UnsupportedArtifact):
        inspected = read(tmp_path, damaged(data, flips, keep))
    if inspected is not None:
        assert inspected.signature.inputs
        assert inspected.signature.outputs
        assert 0 <= inspected.initializer_bytes < 1_000


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnsupportedArtifact):
        read(tmp_path, data)


def loads(ir_version: int, domain: str, version: int) -> bool:
    model = identity(value("x"))
    model.ir_version = ir_version
    if domain == "ai.onnx":
        model.opset_import[0].version = version
    else:
        model.opset_import.append(helper.make_opsetid(domain, version))
    try:
        open_session(model.SerializeToString())
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


def test_the_limits_are_those_of_the_installed_runtime() -> None:
    assert loads(MAX_IR_VERSION, "ai.onnx", 21)
    assert not loads(MAX_IR_VERSION + 1, "ai.onnx", 21)
    for domain, version in MAX_OPSETS.items():
        assert loads(MAX_IR_VERSION, domain, version)
        assert not loads(MAX_IR_VERSION, domain, version + 1)
