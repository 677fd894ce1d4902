"""What a runtime is to the worker: something that loads a version and answers inference on it.

Two real ones exist: `worker.runtimes.triton`, and `worker.runtimes.onnx` with `worker.scheduling` before it. A scripted
one in `doubles` passes the same conformance suite. The keeper decides what to load; the inference server borrows what
is loaded through `Servables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from berth.ids import VersionKey
from berth.model import Signature, VersionSpec

Array = npt.NDArray[Any]
"""A tensor. BYTES tensors have dtype object and hold `bytes`; BF16 uses ml_dtypes.bfloat16."""


class LoadFailed(Exception):
    """A version could not be loaded. `permanent` says that trying again will not help; `reason` is for the tenant."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class NotHeld(Exception):
    """The replica does not hold the version, or no longer: the request has not begun and can go elsewhere."""


def nobody() -> None:
    """The `started` of a caller who does not want to know."""


class LentVersion(Protocol):
    """A version in a runtime, as who borrows it sees it."""

    @property
    def signature(self) -> Signature:
        """As the runtime sees it; authoritative for checking requests."""

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array] | None:
        """What `infer` would return, if that takes less time than waiting would. Else None: then call `infer`.

        Raises as `infer` does.
        """

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], started: Callable[[], None] = nobody
    ) -> dict[str, Array]:
        """Run once and return the named outputs, all of them if none is named.

        Inputs have been checked against `signature`. Raises `berth.errors.InvalidArgument` when the model itself
        rejects them. Cancelling the call gives up the result. A run that waits for its turn is dropped; one that
        computes is stopped, if the runtime can do that. `started` is called, in any thread, when the run's turn has
        come.
        """


class Loaded(LentVersion, Protocol):
    """A version in a runtime, as its owner, the keeper, sees it. Nobody else calls what is here.

    `unload` is called once, after the last borrower left. `worker.keeping.loading` says in which order the other
    methods are called.
    """

    async def warm_up(self) -> float:
        """Run it a few times, if this runtime does that. Seconds of the quickest run; infinity if none succeeded.

        Bounded in time. Raises nothing, since a sound model may reject what it is tried on. Cancelling stops the run.
        """

    async def measure(self) -> int:
        """Bytes of memory that loading it took, and warming it up; at least 1."""

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the reason, once and on the event loop, should the runtime lose the version by itself.

        Only what is loaded outside of this process can be lost. It is still to be unloaded then.
        """

    async def unload(self) -> None:
        """Free everything. Never raises for a version that is already gone."""


class ModelRuntime(Protocol):
    @property
    def in_container(self) -> bool:
        """Whether versions take memory of the container that this process is in."""

    @property
    def on_gpu(self) -> bool:
        """Whether they take memory of the GPU that this process sees."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be run at the moment, or None."""

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        """To be held from `load` until it is measured: versions that would be measured with each other take turns.

        Entering it raises `LoadFailed`.
        """

    async def load(self, spec: VersionSpec, path: Path) -> Loaded:
        """Load the verified artifact at `path` without disturbing requests under way. Raises `LoadFailed`.

        Cancelling it leaves nothing behind.
        """

    async def close(self) -> None:
        """End the runtime and what it started; loaded versions are gone afterwards."""


class Servables(Protocol):
    """What the inference server sees of the keeper."""

    def acquire(self, key: VersionKey) -> AbstractContextManager[LentVersion]:
        """Borrow a version: it is not unloaded while the context is open. Raises `NotHeld`. Never waits."""

    def held(self) -> frozenset[VersionKey]:
        """The versions that can be acquired now."""
