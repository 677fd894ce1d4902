"""One version in Triton, as the keeper and the inference server see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import ml_dtypes
import numpy as np

from berth.errors import Internal, InvalidArgument
from berth.model import Signature
from berth.oip.request import InferRequest, InferResponse, OutputWish
from worker.runtime import Array, NotHeld, nobody
from worker.triton.stubs import Stub, Watch

# Sends a request to the model of a name and returns its answer.
Ask = Callable[[str, InferRequest], Awaitable[InferResponse]]


class TritonServable:
    """Implements `worker.runtime.Loaded`. `available` is set and cleared by the runtime, which repairs it."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        *,
        ask: Ask,
        let_go: Callable[[str], Awaitable[None]],
        bfloat16_as_bits: bool = True,
    ) -> None:
        self.name = name
        self.signature = signature
        self.measured_bytes = 1
        self.available = asyncio.Event()
        self.stub: Stub | None = None
        self.watch: Watch | None = None
        # Loading, repairing and unloading one servable exclude each other; answering takes no lock.
        self.lock = asyncio.Lock()
        self._ask = ask
        self._let_go = let_go
        self._bfloat16_as_bits = bfloat16_as_bits
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}

    def __repr__(self) -> str:
        return f"<TritonServable {self.name} {'available' if self.available.is_set() else 'away'} {self.stub}>"

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Never: the answer comes from another process."""

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        """Raises `NotHeld` while its process is being started again."""
        if not self.available.is_set():
            raise NotHeld(self.name)
        names = list(outputs or self._outputs)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise InvalidArgument(f"the model has no output {unknown[0]!r}")
        request = InferRequest(
            {name: self._to_triton(array) for name, array in inputs.items()}, tuple(map(OutputWish, names))
        )
        # Whether it waits or computes in there is not known.
        started()
        answers = (await self._ask(self.name, request)).outputs
        if not answers.keys() >= set(names):
            raise Internal("the model did not give what it promised")
        return {name: self._from_triton(name, answers[name]) for name in names}

    async def unload(self) -> None:
        await self._let_go(self.name)

    # As `worker.triton.repository` told Triton: a scalar as a list of one, bfloat16 as bits where it is not known.

    def _to_triton(self, array: Array) -> Array:
        if self._bfloat16_as_bits and array.dtype == ml_dtypes.bfloat16:
            array = np.ascontiguousarray(array).view(np.uint16)
        return array if array.shape else array.reshape(1)

    def _from_triton(self, name: str, array: Array) -> Array:
        spec = self._outputs[name]
        if spec.datatype == "BF16" and self._bfloat16_as_bits:
            array = array.view(ml_dtypes.bfloat16)
        return array.reshape(()) if not spec.shape and array.size == 1 else array
