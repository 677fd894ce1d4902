"""Which version answers a request that names none, if several versions of the model divide its requests."""

from __future__ import annotations

from berth.model import Share


def version_for(shares: tuple[Share, ...], dice: float) -> int:
    """The version that `dice`, uniform in [0, 1), falls on: each with probability `weight` over the sum of all.

    0 for no shares. Only the order of `shares` decides which part of [0, 1) is whose: routers with equal `dice` choose
    equally.
    """
    total = 0
    for share in shares:
        total += share.weight
    left = dice * total
    version = 0
    for share in shares:
        version = share.version
        left -= share.weight
        if left < 0.0:
            break
    return version
