"""What a runtime in this process gives: it loads versions, prepares runs of them, and frees them.

Where and when a prepared run is computed is decided in `worker.scheduling`, which makes a `ModelRuntime` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from berth.model import Signature, VersionSpec
from worker.runtimes.protocol import Array


class RunStopped(Exception):
    """A run was ended before it had an answer, because `PreparedRun.stop` was called."""


class PreparedRun(Protocol):
    """One run, its inputs converted. It is computed once, in any thread."""

    def compute(self) -> dict[str, Array]:
        """The outputs that were asked for. Blocks. Raises `RunStopped`, and `BerthError` for every other failure."""

    def stop(self) -> None:
        """Have `compute` end within a millisecond, except inside a single operator. May be called in any thread."""


class LocalVersion(Protocol):
    """A version in this process. `prepare` and `compute` are on the path of every request."""

    @property
    def signature(self) -> Signature: ...

    def prepare(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> PreparedRun:
        """A run for `outputs`, or for all of them if none is named. Raises `BerthError`."""

    async def warm_up(self) -> float:
        """As `worker.runtimes.protocol.Loaded.warm_up`."""

    async def measure(self) -> int:
        """As `worker.runtimes.protocol.Loaded.measure`."""

    async def unload(self) -> None:
        """Free everything. Never raises for a version that is already gone."""


class LocalRuntime(Protocol):
    @property
    def on_gpu(self) -> bool:
        """Whether versions take memory of the GPU that this process sees."""

    def turn(self, spec: VersionSpec) -> AbstractAsyncContextManager[None]:
        """As `worker.runtimes.protocol.ModelRuntime.turn`."""

    async def load(self, spec: VersionSpec, path: Path) -> LocalVersion:
        """As `worker.runtimes.protocol.ModelRuntime.load`."""

    async def close(self) -> None:
        """End its threads. Runs under way are waited for."""
