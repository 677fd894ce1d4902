"""One version in Triton, as the keeper and the inference server see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import ml_dtypes
import numpy as np

from berth.errors import Internal, InvalidArgument
from berth.model import Signature
from berth.oip.request import InferRequest, InferResponse, OutputWish
from worker.runtimes.protocol import Array, NotHeld, nobody
from worker.runtimes.triton.link import TritonLink
from worker.runtimes.triton.stubs import ProcessWatch, Stub

# Sends a request to a model and returns its answer.
Ask = Callable[["TritonServable", InferRequest], Awaitable[InferResponse]]


class TritonServable:
    """Implements `Loaded`. The runtime says when it is lost."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        *,
        ask: Ask,
        let_go: Callable[[TritonServable], Awaitable[None]],
        bfloat16_as_bits: bool = True,
    ) -> None:
        self.name = name
        self.signature = signature
        # What it takes, in bytes; whoever loads it knows how to tell.
        self.weigh: Callable[[], int] = lambda: 1
        # Where it was loaded: another life of Triton knows nothing of it.
        self.link: TritonLink | None = None
        # Its process, if it has one that can be seen from here.
        self.stub: Stub | None = None
        self.watch: ProcessWatch | None = None
        self._ask = ask
        self._let_go = let_go
        self._bfloat16_as_bits = bfloat16_as_bits
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._gone = ""
        self._tell: Callable[[str], None] | None = None

    def __repr__(self) -> str:
        return f"<TritonServable {self.name} {self._gone or 'here'} {self.stub}>"

    async def warm_up(self) -> float:
        """Not done: whatever the first run makes, it makes in another process."""
        return float("inf")

    async def measure(self) -> int:
        return max(1, self.weigh())

    def when_lost(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        if self._gone:
            # Between the load and now. Not at once: whoever asks is in the middle of something.
            asyncio.get_running_loop().call_soon(tell, self._gone)

    def lose(self, reason: str) -> None:
        """Triton no longer has it."""
        if not self._gone:
            self.leave(reason)
            if self._tell is not None:
                self._tell(reason)

    def leave(self, reason: str = "unloaded") -> None:
        """From now on nobody is answered."""
        self._gone = self._gone or reason
        if self.watch is not None:
            self.watch.close()
            self.watch = None

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Never: the answer comes from another process."""

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        """Raises `NotHeld` once it is lost."""
        if self._gone:
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
        answers = (await self._ask(self, request)).outputs
        if not answers.keys() >= set(names):
            raise Internal("the model did not give what it promised")
        return {name: self._from_triton(name, answers[name]) for name in names}

    async def unload(self) -> None:
        await self._let_go(self)

    # As `repository` told Triton: a scalar as a list of one, bfloat16 as bits where it is not known.

    def _to_triton(self, array: Array) -> Array:
        if self._bfloat16_as_bits and array.dtype == ml_dtypes.bfloat16:
            array = np.ascontiguousarray(array).view(np.uint16)
        return array if array.shape else array.reshape(1)

    def _from_triton(self, name: str, array: Array) -> Array:
        spec = self._outputs[name]
        if spec.datatype == "BF16" and self._bfloat16_as_bits:
            array = array.view(ml_dtypes.bfloat16)
        return array.reshape(()) if not spec.shape and array.size == 1 else array
