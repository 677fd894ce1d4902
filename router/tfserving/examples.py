"""`:classify` and `:regress`: a list of examples becomes one tensor for each input, the answer a list of results.

An ONNX model has no classify or regress signature. Its inputs are the features. Its outputs are found by the names in
those signatures (`scores`, `classes`, `outputs`). Where no output has the name, the type decides, if only one output
fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from berth.errors import InvalidArgument
from berth.model import Signature, TensorSpec
from berth.oip.datatypes import BYTES, NUMPY_DTYPES, Array
from router.core.tfserving import Verb
from router.tfserving.documents import dump_blocks
from router.tfserving.predict import check_signature_name
from router.tfserving.tensors import presentable, read_flat, width_of

_BF16 = NUMPY_DTYPES["BF16"]


def read_examples(document: Mapping[str, Any], signature: Signature) -> tuple[dict[str, Array], int]:
    """The input tensors, and the number of examples. Raises `InvalidArgument`, and nothing else."""
    check_signature_name(document)
    examples, context = document.get("examples"), document.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise InvalidArgument("'examples' is a list with at least one element")
    if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
        raise InvalidArgument("an example, and the context, is an object of features")
    for number, example in enumerate(examples):
        if context and not context.keys().isdisjoint(example):
            both = min(context.keys() & example.keys())
            raise InvalidArgument(f"feature {both[:100]!a} is in the context and in example {number}")
    inputs: dict[str, Array] = {}
    for spec in signature.inputs:
        rows = []
        for number, example in enumerate(examples):
            content = example.get(spec.name, context.get(spec.name))
            if content is None:
                raise InvalidArgument(f"example {number} lacks the feature {spec.name!r}")
            rows.append(content if isinstance(content, list) else [content])
        inputs[spec.name] = _read_feature(spec, rows)
    return inputs, len(examples)


def write_results(verb: Verb, outputs: Mapping[str, Array], count: int) -> bytes:
    """The answer for `count` examples. Raises `InvalidArgument` where the outputs are none that such an answer has."""
    results = _regressions(outputs, count) if verb is Verb.REGRESS else _classifications(outputs, count)
    return f'{{"results":{results}}}'.encode()


def _read_feature(spec: TensorSpec, rows: list[list[Any]]) -> Array:
    """One row of the tensor for each example; a feature is a flat list that fills the dimensions behind the first."""
    what = f"feature {spec.name!r}"
    if not spec.shape or spec.shape[0] not in (-1, len(rows)):
        raise InvalidArgument(f"{what}: an input of shape {list(spec.shape)} does not take {len(rows)} examples")
    size = len(rows[0])
    if any(len(row) != size for row in rows):
        raise InvalidArgument(f"{what} does not have the same number of values in every example")
    known = math.prod(dim for dim in spec.shape[1:] if dim >= 0)
    free = spec.shape[1:].count(-1)
    if free > 1 or (size != known if not free else not known or size % known):
        raise InvalidArgument(f"{what}: {size} values do not fill the shape {list(spec.shape[1:])}")
    shape = tuple(size // known if dim < 0 else dim for dim in spec.shape[1:])
    values = [value for row in rows for value in row]
    if spec.datatype == "BOOL":
        # Examples have no truth values: they travel as 0 and 1.
        values = [bool(value) if type(value) is int and value in (0, 1) else value for value in values]
    elif spec.datatype.startswith(("INT", "UINT")):
        values = [int(value) if isinstance(value, bool) else value for value in values]
    return read_flat(what, spec.datatype, (len(rows), *shape), values)


def _regressions(outputs: Mapping[str, Array], count: int) -> str:
    name, values = _pick(outputs, "outputs", _is_float, "a regression has one output of floats, or one named 'outputs'")
    if values.shape not in ((count,), (count, 1)):
        raise InvalidArgument(f"output {name!r} has shape {list(values.shape)}: a regression has one value an example")
    ready = presentable(name, values.reshape(count))
    return dump_blocks(count, 1, lambda start, end: ready[start:end].tolist())


def _classifications(outputs: Mapping[str, Array], count: int) -> str:
    name, scores = _pick(
        outputs, "scores", _is_float, "a classification has one output of floats, or one named 'scores'"
    )
    if scores.ndim != 2 or len(scores) != count:
        raise InvalidArgument(f"output {name!r} has shape {list(scores.shape)}: scores have a row an example")
    ready = presentable(name, scores)
    labels = _labels(outputs, scores.shape)

    def rows(start: int, end: int) -> list[Any]:
        block = ready[start:end].tolist()
        if labels is None:
            return [[["", score] for score in row] for row in block]
        names = labels[start:end].tolist()
        return [list(map(list, zip(*pair, strict=True))) for pair in zip(names, block, strict=True)]

    return dump_blocks(count, 2 * width_of(ready), rows)


def _labels(outputs: Mapping[str, Array], shape: tuple[int, ...]) -> Array | None:
    """The labels of the scores: `classes`, or the only strings of the same shape; None if there are none."""
    classes = outputs.get("classes")
    if classes is None:
        texts = [array for array in outputs.values() if array.dtype == NUMPY_DTYPES[BYTES] and array.shape == shape]
        classes = texts[0] if len(texts) == 1 else None
    if classes is None:
        return None
    if classes.shape != shape:
        raise InvalidArgument(f"output 'classes' has shape {list(classes.shape)}, the scores have {list(shape)}")
    return presentable("classes", classes) if classes.dtype == NUMPY_DTYPES[BYTES] else classes.astype(str)


def _pick(outputs: Mapping[str, Array], name: str, fits: Any, otherwise: str) -> tuple[str, Array]:
    if name in outputs and fits(outputs[name]):
        return name, outputs[name]
    found = [(other, array) for other, array in outputs.items() if fits(array)]
    if len(found) != 1:
        raise InvalidArgument(f"the model's outputs do not say which is meant: {otherwise}")
    return found[0]


def _is_float(array: Array) -> bool:
    return bool(array.dtype.kind == "f" or array.dtype == _BF16)
