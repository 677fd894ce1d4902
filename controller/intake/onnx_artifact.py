"""Reads an uploaded ONNX model without running it: its signature, the size of its weights, and whether Berth serves it.

Nothing of the model is executed, and no other file is opened. Tensors whose data lies in other files are refused
wherever they appear, since ONNX would look for them relative to the process's folder. What is accepted may still fail
to load; what is refused could not have been served.

The file is read twice. First on the level of bytes (`onnx_wire`): that bounds what follows. Then as a message without
its weights, which `onnx.checker` checks too. Memory does not depend on the size of the weights.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from berth.errors import UnsupportedArtifact
from berth.model import Signature, TensorSpec
from controller.core.intake import InspectedModel
from controller.intake.onnx_wire import Weights, strip

if TYPE_CHECKING:
    from onnx import ModelProto

# What ONNX Runtime 1.31 loads; a test holds these against the one that is installed. The training domain is not among
# them: its operators exist in training builds only.
MAX_IR_VERSION = 13
MAX_OPSETS: Mapping[str, int] = {"ai.onnx": 26, "ai.onnx.ml": 5, "com.microsoft": 1}
# Refers to a compiled model in a file beside the artifact.
_REFUSED_OPERATORS = frozenset({("com.microsoft", "EPContext")})

_PROTOBUF_LIMIT = (2 << 30) - 1
_MAX_RANK = 32
_MAX_DIMENSION = 2**31 - 1
_MAX_CALL_DEPTH = 32
_MAX_EXPANDED_NODES = 1_000_000
_EXTERNAL = 1
_STRING = 8
_STRING_OBJECT_BYTES = 32

# onnx.TensorProto.DataType by number: the OIP v2 name, None where the protocol has no such type, and bits per element.
_DATATYPES: Mapping[int, tuple[str | None, int]] = {
    1: ("FP32", 32),
    2: ("UINT8", 8),
    3: ("INT8", 8),
    4: ("UINT16", 16),
    5: ("INT16", 16),
    6: ("INT32", 32),
    7: ("INT64", 64),
    _STRING: ("BYTES", 0),
    9: ("BOOL", 8),
    10: ("FP16", 16),
    11: ("FP64", 64),
    12: ("UINT32", 32),
    13: ("UINT64", 64),
    14: (None, 64),  # COMPLEX64
    15: (None, 128),  # COMPLEX128
    16: ("BF16", 16),
    17: (None, 8),  # FLOAT8E4M3FN
    18: (None, 8),  # FLOAT8E4M3FNUZ
    19: (None, 8),  # FLOAT8E5M2
    20: (None, 8),  # FLOAT8E5M2FNUZ
    21: (None, 4),  # UINT4
    22: (None, 4),  # INT4
    23: (None, 4),  # FLOAT4E2M1
    24: (None, 8),  # FLOAT8E8M0
    25: (None, 2),  # UINT2
    26: (None, 2),  # INT2
}

_OTHER_FORMATS: Sequence[tuple[int, bytes, str]] = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch and Keras write such): export the model to ONNX"),
    (0, b"\x89HDF", "HDF5 (Keras): export the model to ONNX"),
    (0, b"\x80\x04", "a Python pickle: export the model to ONNX"),
    (0, b"\x80\x05", "a Python pickle: export the model to ONNX"),
    (0, b"GGUF", "GGUF"),
    (4, b"TFL3", "TensorFlow Lite"),
    (4, b"ORTM", "ONNX Runtime's own format: upload the .onnx file"),
)

# Domain, name, overload: what an operator is called by. No function may have the main graph's.
_Name = tuple[str, str, str]
_MAIN: _Name = ("", "", "")


def inspect(path: Path) -> InspectedModel:
    """Inspect the file at `path`. Raises `UnsupportedArtifact` whose text says what is wrong with it.

    Blocks for about a microsecond per field of the graph: run it in a thread.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnsupportedArtifact("the file is empty")
    if size > _PROTOBUF_LIMIT:
        raise UnsupportedArtifact(
            f"the file has {size} bytes: an ONNX file is one protobuf message, and those end at 2 GiB"
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _refuse_other_formats(data[:16])
        stripped = strip(data)
    try:
        return _inspect_model(_parse(stripped.model), stripped.weights)
    except UnicodeDecodeError:
        raise UnsupportedArtifact("a name in the model is not valid UTF-8") from None


def _refuse_other_formats(head: bytes) -> None:
    for offset, magic, name in _OTHER_FORMATS:
        if head[offset : offset + len(magic)] == magic:
            raise UnsupportedArtifact(f"the file is not an ONNX model but {name}")


def _parse(data: bytes) -> ModelProto:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        return ModelProto.FromString(data)
    except DecodeError:
        raise UnsupportedArtifact("the file is not an ONNX model: its protobuf message cannot be decoded") from None


def _inspect_model(model: ModelProto, weights: Sequence[Weights]) -> InspectedModel:
    _check_versions(model)
    if not model.HasField("graph") or not model.graph.node:
        raise UnsupportedArtifact("the file is not an ONNX model, or one without a graph: there are no operators in it")
    if model.training_info:
        raise UnsupportedArtifact(
            "the model carries training information, which is not served: export it for inference"
        )
    main = sum(_tensor_bytes(tensor, weight) for tensor, weight in zip(model.graph.initializer, weights, strict=True))
    others = sum(_tensor_bytes(tensor, None) for tensor in _tensors_beside(model))
    _check_operators(model)
    signature = _read_signature(model)
    _check_consistency(model)
    return InspectedModel(signature, main + others)


def _check_versions(model: ModelProto) -> None:
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        raise UnsupportedArtifact(f"IR version {model.ir_version} is not supported: 3 to {MAX_IR_VERSION} are")
    imported: set[str] = set()
    for entry in (*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)):
        domain = entry.domain or "ai.onnx"
        imported.add(domain)
        most = MAX_OPSETS.get(domain)
        # Exporters import domains that they then do not use; what counts is which operators appear.
        if most is not None and not 1 <= entry.version <= most:
            raise UnsupportedArtifact(f"opset {entry.version} of {domain} is not supported: 1 to {most} are")
    if not imported:
        raise UnsupportedArtifact("the file is not an ONNX model, or it imports no operator set")


def _check_operators(model: ModelProto) -> None:
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    if len(functions) < len(model.functions) or any(not function.name for function in model.functions):
        raise UnsupportedArtifact("two functions of the model have the same name, or one has none")
    calls: dict[_Name, Counter[_Name]] = {}
    for owner, bodies in ((_MAIN, [model.graph]), *((name, _bodies(function)) for name, function in functions.items())):
        calls[owner] = Counter()
        for node in (node for body in bodies for node in _nodes(body)):
            called = (node.domain, node.op_type, node.overload)
            calls[owner][called] += 1
            if called not in functions:
                _check_operator(node)
    if functions:
        _expanded_nodes(_MAIN, calls, {}, 0)


def _check_operator(node: Any) -> None:
    domain = node.domain or "ai.onnx"
    if domain not in MAX_OPSETS or (domain, node.op_type) in _REFUSED_OPERATORS:
        raise UnsupportedArtifact(
            f"operator {node.op_type[:80]!r} of domain {domain[:80]!r} is not supported: "
            f"the domains {', '.join(MAX_OPSETS)} are"
        )


def _expanded_nodes(
    name: _Name, calls: Mapping[_Name, Mapping[_Name, int]], known: dict[_Name, int], depth: int
) -> int:
    """How many operators `name` becomes when the runtime puts functions in the place of their calls."""
    if name not in calls:
        return 1
    if name not in known:
        if depth > _MAX_CALL_DEPTH:
            raise UnsupportedArtifact(f"the model's functions call themselves, or more than {_MAX_CALL_DEPTH} deep")
        known[name] = sum(
            count * _expanded_nodes(called, calls, known, depth + 1) for called, count in calls[name].items()
        )
        if known[name] > _MAX_EXPANDED_NODES:
            raise UnsupportedArtifact(f"the model's functions expand to more than {_MAX_EXPANDED_NODES} operators")
    return known[name]


def _attributes(body: Any) -> Iterator[Any]:
    """The attributes of every operator of a graph or function, through all subgraphs."""
    pending = [body]
    while pending:
        for node in pending.pop().node:
            for attribute in node.attribute:
                yield attribute
                pending.extend(_subgraphs(attribute))


def _nodes(body: Any) -> Iterator[Any]:
    yield from body.node
    for attribute in _attributes(body):
        for graph in _subgraphs(attribute):
            yield from graph.node


def _subgraphs(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _bodies(function: Any) -> list[Any]:
    """A function, and the graphs that its attributes have by default."""
    return [function, *(graph for attribute in function.attribute_proto for graph in _subgraphs(attribute))]


def _tensors_beside(model: ModelProto) -> Iterator[Any]:
    """Every tensor of the model but the initializers of the main graph."""
    yield from _sparse_parts(model.graph.sparse_initializer)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)
    for body in (model.graph, *(body for function in model.functions for body in _bodies(function))):
        for attribute in _attributes(body):
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]
    yield from _sparse_parts(sparse)
    for graph in _subgraphs(attribute):
        yield from graph.initializer
        yield from _sparse_parts(graph.sparse_initializer)


def _sparse_parts(tensors: Any) -> Iterator[Any]:
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices


def _tensor_bytes(tensor: Any, weights: Weights | None) -> int:
    """What `tensor` takes in memory. Refuses data in other files, and dimensions that its data does not fill."""
    name = f"tensor {tensor.name[:80]!r}"
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        raise UnsupportedArtifact(f"{name} has its data in another file: save the model with all its data inside")
    if tensor.data_type not in _DATATYPES:
        raise UnsupportedArtifact(f"{name} has data type {tensor.data_type}, which is not known")
    if len(tensor.dims) > _MAX_RANK or any(not 0 <= size <= _MAX_DIMENSION for size in tensor.dims):
        raise UnsupportedArtifact(f"{name} has dimensions that make no sense: {list(tensor.dims[:8])}")
    elements = 1
    for size in tensor.dims:
        elements *= size
    if weights is None:
        weights = Weights(len(tensor.raw_data) if tensor.HasField("raw_data") else None, tensor.ByteSize())
    bits = _DATATYPES[tensor.data_type][1]
    if tensor.data_type == _STRING:
        fits = 2 * elements <= weights.typed_bytes
        needed = weights.typed_bytes + elements * _STRING_OBJECT_BYTES
    else:
        needed = -(-elements * bits // 8)
        # On the wire an element of a typed field takes at least a byte, unless its type is smaller than a byte.
        fits = (
            needed == weights.raw_bytes
            if weights.raw_bytes is not None
            else (elements * min(bits, 8) <= weights.typed_bytes * 8)
        )
    if not fits:
        raise UnsupportedArtifact(f"{name} has {elements} elements by its dimensions, which its data does not fill")
    return needed


def _read_signature(model: ModelProto) -> Signature:
    # Before IR version 4 every initializer had to be listed as an input; later one that is listed is a default.
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs = tuple(_read_tensor("input", entry) for entry in model.graph.input if entry.name not in constants)
    outputs = tuple(_read_tensor("output", entry) for entry in model.graph.output)
    for kind, specs in (("input", inputs), ("output", outputs)):
        if not specs:
            raise UnsupportedArtifact(f"the model has no {kind}s")
        twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
        if twice:
            raise UnsupportedArtifact(f"the model has several {kind}s named {twice[0][:80]!r}")
    return Signature(inputs, outputs)


def _read_tensor(kind: str, entry: Any) -> TensorSpec:
    if not entry.name:
        raise UnsupportedArtifact(f"the model has an {kind} without a name")
    name = f"{kind} {entry.name[:80]!r}"
    value = entry.type.WhichOneof("value")
    if value != "tensor_type":
        said = (value or "nothing").removesuffix("_type").replace("_", " ")
        raise UnsupportedArtifact(f"{name} is declared as {said}: only tensors are supported")
    tensor = entry.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type, (None, 0))[0]
    if datatype is None:
        raise UnsupportedArtifact(f"{name} has ONNX data type {tensor.elem_type}, which clients cannot send or receive")
    if tensor.HasField("shape"):
        return TensorSpec(entry.name, datatype, _read_shape(name, tensor.shape.dim))
    if kind == "input":
        raise UnsupportedArtifact(f"{name} declares no shape: export the model with the rank of its inputs")
    # Converters leave out shapes of outputs; the runtime knows them when it runs.
    return TensorSpec(entry.name, datatype, (-1,))


def _read_shape(name: str, dims: Any) -> tuple[int, ...]:
    if len(dims) > _MAX_RANK:
        raise UnsupportedArtifact(f"{name} has {len(dims)} dimensions: at most {_MAX_RANK} are supported")
    shape = tuple(dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1 for dim in dims)
    if any(not -1 <= size <= _MAX_DIMENSION for size in shape):
        raise UnsupportedArtifact(f"{name} has dimensions that make no sense: {list(shape)}")
    return shape


def _check_consistency(model: ModelProto) -> None:
    """Let ONNX's own checker look at the graph. The weights are gone: they are shown to it as inputs.

    It opens files only for external data, of which there is none any more; it does not run shape inference here.
    """
    from onnx import checker
    from onnx.shape_inference import InferenceError

    listed = {entry.name for entry in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in listed:
            entry = model.graph.input.add(name=tensor.name)
            entry.type.tensor_type.elem_type = tensor.data_type
            entry.type.tensor_type.shape.SetInParent()
    for entry in model.graph.output:
        # The checker wants one to be declared, and the runtime does not.
        entry.type.tensor_type.shape.SetInParent()
    del model.graph.initializer[:]
    try:
        checker.check_model(model.SerializeToString(), full_check=False)
    except (checker.ValidationError, InferenceError) as error:
        # Its C++ side raises the second when a tensor's data do not fill its shape, in an attribute for instance.
        said = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise UnsupportedArtifact(f"the model is not valid ONNX: {said[:300]}") from None
