"""How much memory there is for versions: what was promised, or less where the machine does not have it.

Placement counts on the job's memory per replica. If the container is smaller, the kernel would kill it in the middle of
a load, with everything that it serves. So the worker looks, holds less, and says so.
"""

from __future__ import annotations

import ctypes
from typing import Any

import structlog

from berth.footprint import PROCESS
from berth.settings import SettingsError

log = structlog.get_logger(__name__)


def versions_limit(wanted: int, headroom: int, *, container: int | None, device: int | None) -> int:
    """Bytes that versions may take. `container` and `device` are what the cgroup and the GPU have; None: no matter.

    Raises `SettingsError` where nothing is left for versions at all.
    """
    limit = wanted
    for name, size, own in (("container", container, PROCESS), ("GPU", device, 0)):
        if size is None or size - headroom - own >= limit:
            continue
        limit = size - headroom - own
        if limit <= 0:
            raise SettingsError(
                f"BERTH_MEMORY_LIMIT: the {name} has {_mib(size)}, which is less than what loads "
                f"({_mib(headroom)}, BERTH_LOAD_HEADROOM) and the process ({_mib(own)}) take without any version"
            )
        log.warning(
            "versions get less memory than BERTH_MEMORY_LIMIT says: what was placed here may not fit",
            because=f"the {name} has {_mib(size)}; {_mib(headroom)} are for loads and {_mib(own)} for the process",
            asked=wanted,
            given=limit,
            needed=wanted + headroom + own,
        )
    return limit


def device_memory() -> int | None:
    """Bytes of the first GPU that this process sees (of its part, where it is divided); None where there is none.

    Asked of the driver: `nvidia-smi` and its library would name the whole GPU to who has a part of it.
    """
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
        return None
    return size.value


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
