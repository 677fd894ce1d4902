"""One inference, the same whichever protocol brought it, and its check against a model's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from berth.errors import InvalidArgument
from berth.model import Signature, TensorSpec
from berth.oip.datatypes import Array, datatype_of


class OutputWish(NamedTuple):
    """An output that the client asks for; `binary` is its encoding over REST, None: as the request says for all."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. No `outputs` means all of them; `id` is the client's, to be echoed; empty means none."""

    inputs: Mapping[str, Array]
    outputs: tuple[OutputWish, ...] = ()
    id: str = ""
    binary_outputs: bool = False

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(wish.name for wish in self.outputs)

    def wants_binary(self, output: str) -> bool:
        """Whether a REST answer carries `output` as raw bytes."""
        wish = next((wish.binary for wish in self.outputs if wish.name == output), None)
        return self.binary_outputs if wish is None else wish


@dataclass(frozen=True, slots=True)
class InferResponse:
    """An answer under the tenant's own names."""

    model: str
    version: str
    outputs: Mapping[str, Array]
    id: str = ""


def check_request(signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
    """Raise `InvalidArgument` unless the tensors are exactly those the model takes, and the outputs ones it has."""
    if not _is_right(signature, inputs, outputs):
        _complain(signature, inputs, outputs)


def _is_right(signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    """Nearly every request is right, and to see that is much cheaper than to find out what is wrong."""
    if len(inputs) != len(signature.inputs) or outputs:
        return False
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is None or datatype_of(array) != spec.datatype or len(array.shape) != len(spec.shape):
            return False
        for want, have in zip(spec.shape, array.shape, strict=True):
            if want not in (have, -1):
                return False
    return True


def _complain(signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
    expected = {spec.name: spec for spec in signature.inputs}
    for name, array in inputs.items():
        spec = expected.get(name)
        if spec is None:
            raise InvalidArgument(f"unknown input {name[:200]!r}; the model takes {_names(signature.inputs)}")
        datatype = datatype_of(array)
        if datatype != spec.datatype:
            raise InvalidArgument(f"input {name!r} is {datatype}, the model takes {spec.datatype}")
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InvalidArgument(
                f"input {name!r} has shape {list(array.shape)}, the model takes {list(spec.shape)} (-1: any)"
            )
    missing = [name for name in expected if name not in inputs]
    if missing:
        raise InvalidArgument(f"missing input {', '.join(map(repr, missing))}")
    known = {spec.name for spec in signature.outputs}
    for name in outputs:
        if name not in known:
            raise InvalidArgument(f"unknown output {name[:200]!r}; the model gives {_names(signature.outputs)}")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs) or "none"
