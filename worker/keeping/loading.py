"""Fetching and loading one version, and giving it back: the I/O behind the keeper's decisions.

Here is the boundary between one version and the rest: whatever a runtime or the store raises becomes a reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from berth.errors import BerthError
from berth.ids import VersionKey
from berth.model import Artifact, VersionSpec
from worker.keeping.lending import Guard
from worker.runtimes.protocol import Loaded, LoadFailed, ModelRuntime

log = structlog.get_logger(__name__)


class ArtifactLease(Protocol):
    """An artifact on disk that stays there until it is released."""

    @property
    def path(self) -> Path: ...

    def release(self) -> None: ...


class Artifacts(Protocol):
    async def obtain(self, artifact: Artifact) -> ArtifactLease:
        """The verified artifact on local disk. Raises `BerthError` or `OSError`."""


@dataclass(slots=True)
class HeldVersion:
    """What a loaded version consists of, and what must be given back for it."""

    loaded: Loaded
    lease: ArtifactLease
    guard: Guard


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a load task ended: with a version, or with a reason why not."""

    held: HeldVersion | None = None
    reason: str = ""
    permanent: bool = False
    seconds: float = 0.0


async def load(runtime: ModelRuntime, artifacts: Artifacts, spec: VersionSpec, within: float) -> LoadResult:
    """Fetch and load one version in at most `within` seconds. Never raises but when it is cancelled."""
    clock = asyncio.get_running_loop().time
    started = clock()
    lease: ArtifactLease | None = None
    held: HeldVersion | None = None
    reason, permanent = "", False
    try:
        async with asyncio.timeout(within):
            lease = await artifacts.obtain(spec.artifact)
            loaded = await runtime.load(spec, lease.path)
        held = HeldVersion(loaded, lease, Guard(spec.key, loaded))
    except LoadFailed as error:
        reason, permanent = error.reason, error.permanent
    except TimeoutError:
        reason = f"loading took longer than {within:g} s"
    except BerthError as error:
        reason = f"the artifact could not be fetched: {error.detail}"
    except OSError as error:
        reason = f"the artifact could not be stored: {error.strerror or 'I/O error'}"
    except Exception:
        # The boundary between one version and the rest: a runtime may fail in ways nobody thought of.
        log.exception("load failed unexpectedly", version=str(spec.key))
        reason = "internal error while loading; the worker's log says more"
    finally:
        if held is None and lease is not None:
            lease.release()
    return LoadResult(held, reason, permanent, clock() - started)


async def unload(key: VersionKey, held: HeldVersion, within: float) -> None:
    """Give back all that a version consists of. Never raises but when it is cancelled."""
    try:
        async with asyncio.timeout(within):
            await held.loaded.unload()
    except Exception as error:
        # The boundary again; a TimeoutError is one of its cases. What could not be freed is the runtime's to answer
        # for: keeping the version in UNLOADING for ever would only lock its memory out for good.
        log.error("unload failed", version=str(key), error=repr(error))
    finally:
        held.lease.release()
