"""Default answers: as the API takes them, and as a router gives them, one JSON document of OIP.

A router gives the stored bytes as they are, so all checking is done here, when one is set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from berth.errors import InvalidArgument, PayloadTooLarge
from berth.model import Signature, TensorSpec

MAX_BYTES = 64 * 1024


def encode(model: str, outputs: Sequence[Mapping[str, Any]]) -> str:
    """The answer as a router gives it, with `outputs` as OIP spells them.

    Raises `InvalidArgument` for NaN and infinities, `PayloadTooLarge`.
    """
    try:
        text = json.dumps({"model_name": model, "outputs": list(outputs)}, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InvalidArgument("default_answer: JSON has no word for a number that is not finite") from None
    if len(text) > MAX_BYTES:
        raise PayloadTooLarge(f"default_answer has {len(text)} bytes as JSON, {MAX_BYTES} are allowed")
    return text


def outputs_of(text: str) -> list[dict[str, Any]]:
    """The inverse of `encode`."""
    outputs: list[dict[str, Any]] = json.loads(text)["outputs"]
    return outputs


def check(text: str, signature: Signature | None) -> None:
    """Raise `InvalidArgument` unless a client can read the answer, and it has all outputs of `signature`, if given."""
    # Brings numpy, which a controller needs for nothing else.
    from berth.oip import rest
    from berth.oip.datatypes import datatype_of

    try:
        outputs = rest.decode_response(text.encode(), None).outputs
    except InvalidArgument as error:
        raise InvalidArgument(f"default_answer: {error.detail}") from None
    if signature is None:
        return
    wanted = {spec.name: spec for spec in signature.outputs}
    if outputs.keys() != wanted.keys():
        raise InvalidArgument(f"default_answer: the model's outputs are {', '.join(map(repr, sorted(wanted)))}")
    for name, array in outputs.items():
        spec = wanted[name]
        if datatype_of(array) != spec.datatype or not _fits(spec, array.shape):
            raise InvalidArgument(
                f"default_answer: output {name!r} is {datatype_of(array)} of shape {list(array.shape)}, the model "
                f"gives {spec.datatype} of shape {list(spec.shape)} (-1: any)"
            )


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return len(shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    )
