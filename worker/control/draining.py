"""How long a worker that is asked to stop goes on serving."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from worker.control.channel import WorkerControl
from worker.keeping.keeper import Keeper

log = structlog.get_logger(__name__)

# Without a synchronizer nobody withdraws the routes; routers notice by themselves that the ports close.
_GRACE_WITHOUT_SYNCHRONIZER_S = 1.0
_LOOK_AGAIN_S = 0.1


async def until_routes_are_gone(keeper: Keeper, control: WorkerControl, grace_s: float) -> None:
    """Wait for the empty aspired set, at most `grace_s` seconds.

    A synchronizer sends it once no router sends requests here any more.
    """
    clock = asyncio.get_running_loop().time
    log.info("draining", synchronizers=control.synchronizers, at_most_s=grace_s)
    end, alone_until = clock() + grace_s, clock() + _GRACE_WITHOUT_SYNCHRONIZER_S
    while keeper.aspires:
        if control.synchronizers:
            alone_until = clock() + _GRACE_WITHOUT_SYNCHRONIZER_S
        if clock() >= min(end, alone_until):
            log.warning("stopping although routes may be left", synchronizers=control.synchronizers)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await keeper.changed(keeper.revision)
