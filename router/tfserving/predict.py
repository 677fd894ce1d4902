"""`:predict`: instances row by row, or inputs column by column, and the answer in the same format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from berth.errors import InvalidArgument
from berth.model import Signature
from berth.oip.datatypes import Array
from router.core.tfserving import DEFAULT_SIGNATURE
from router.tfserving.documents import dump, dump_blocks
from router.tfserving.tensors import is_b64, presentable, read_tensor, width_of, write_tensor


def check_signature_name(document: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` unless the only signature there is, or none, is named."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidArgument("signature_name is a string")
    if name not in ("", DEFAULT_SIGNATURE):
        raise InvalidArgument(f"signature {name[:100]!a} not found: the model has {DEFAULT_SIGNATURE!r} only")


def read_inputs(document: Mapping[str, Any], signature: Signature) -> tuple[dict[str, Array], bool]:
    """The input tensors, and whether they came in rows. Raises `InvalidArgument`, and nothing else."""
    check_signature_name(document)
    rows = "instances" in document
    if rows == ("inputs" in document):
        raise InvalidArgument("exactly one of 'instances' and 'inputs' is to be given")
    if not signature.inputs:
        raise InvalidArgument("the model takes no input")
    if rows:
        return _read_rows(document["instances"], signature), True
    return _read_columns(document["inputs"], signature), False


def write_outputs(outputs: Mapping[str, Array], *, rows: bool) -> bytes:
    """The answer. Raises `InvalidArgument` where rows were asked for and the outputs have none in common."""
    if not outputs:
        raise InvalidArgument("the model gave no output")
    return (_write_rows(outputs) if rows else _write_columns(outputs)).encode()


def _read_rows(instances: object, signature: Signature) -> dict[str, Array]:
    if not isinstance(instances, list) or not instances:
        raise InvalidArgument("'instances' is a list with at least one element")
    if not _is_named(instances[0]):
        if len(signature.inputs) > 1:
            raise InvalidArgument(f"the model has several inputs: each instance is an object of {_names(signature)}")
        if any(map(_is_named, instances)):
            raise InvalidArgument("'instances' holds values or objects, not both")
        (spec,) = signature.inputs
        return {spec.name: read_tensor(f"input {spec.name!r}", spec, instances)}
    wanted = {spec.name for spec in signature.inputs}
    for number, instance in enumerate(instances):
        if not _is_named(instance):
            raise InvalidArgument("'instances' holds values or objects, not both")
        if instance.keys() != wanted:
            raise InvalidArgument(f"instance {number} has other keys than the model's inputs {_names(signature)}")
    return {
        spec.name: read_tensor(f"input {spec.name!r}", spec, [instance[spec.name] for instance in instances])
        for spec in signature.inputs
    }


def _read_columns(inputs: object, signature: Signature) -> dict[str, Array]:
    if not isinstance(inputs, dict) or is_b64(inputs):
        if len(signature.inputs) > 1:
            raise InvalidArgument(f"the model has several inputs: 'inputs' is an object of {_names(signature)}")
        inputs = {signature.inputs[0].name: inputs}
    missing = [spec.name for spec in signature.inputs if spec.name not in inputs]
    if missing:
        raise InvalidArgument(f"missing input {', '.join(map(repr, missing))}")
    return {spec.name: read_tensor(f"input {spec.name!r}", spec, inputs[spec.name]) for spec in signature.inputs}


def _write_rows(outputs: Mapping[str, Array]) -> str:
    count: int | None = None
    for name, array in outputs.items():
        if not array.ndim or count not in (None, len(array)):
            raise InvalidArgument(
                f"output {name!r} has shape {list(array.shape)}, which is no row for each instance: use 'inputs'"
            )
        count = len(array)
    ready = {name: presentable(name, array) for name, array in outputs.items()}
    if len(ready) == 1:
        ((name, array),) = outputs.items()
        return f'{{"predictions":{write_tensor(name, array)}}}'

    def objects(start: int, end: int) -> list[Any]:
        columns = [array[start:end].tolist() for array in ready.values()]
        return [dict(zip(ready, row, strict=True)) for row in zip(*columns, strict=True)]

    rows = dump_blocks(count or 0, sum(map(width_of, ready.values())), objects)
    return f'{{"predictions":{rows}}}'


def _write_columns(outputs: Mapping[str, Array]) -> str:
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return f'{{"outputs":{write_tensor(name, array)}}}'
    members = ",".join(f"{dump(name)}:{write_tensor(name, array)}" for name, array in outputs.items())
    return f'{{"outputs":{{{members}}}}}'


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and not is_b64(value)


def _names(signature: Signature) -> str:
    return ", ".join(repr(spec.name) for spec in signature.inputs)
