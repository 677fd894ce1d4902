"""How much memory there is for versions: what was promised, or less where the machine does not have it.

Placement counts with the job's memory per replica. A container that is smaller than that would be killed by the kernel
in the middle of a load, with everything that it serves; so the worker looks, holds less, and says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from berth.settings import SettingsError

log = structlog.get_logger(__name__)

# What the worker takes without any version: interpreter, libraries, buffers.
PROCESS_BYTES = 200 * 2**20
# cgroup v1 says "no limit" with the largest multiple of a page below 2^63.
_NO_LIMIT = 2**60


def versions_limit(wanted: int, headroom: int, *, container: int | None, device: int | None) -> int:
    """Bytes that versions may take. `container` and `device` are what the cgroup and the GPU have; None: no matter.

    Raises `SettingsError` where nothing is left for versions at all.
    """
    limit = wanted
    for name, size, own in (("container", container, PROCESS_BYTES), ("GPU", device, 0)):
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


def container_limit(root: Path = Path("/")) -> int | None:
    """Bytes that this process's cgroup may take, or the least that one above it may; None: as much as there is."""
    limits = [limit for file in _limit_files(root) if (limit := _read_limit(file)) is not None]
    return min(limits, default=None)


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


def _limit_files(root: Path) -> Iterator[Path]:
    """Where the limits of this process's cgroup and of those above it are, in either version of cgroups.

    In a container the tree often begins at the container's own group, and the path that the kernel names is not there.
    """
    base = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    groups = [("memory.max", base, "")]
    groups.append(("memory.limit_in_bytes", base / "memory", ""))
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups.append(("memory.max", base, path))
        elif "memory" in controllers.split(","):
            groups.append(("memory.limit_in_bytes", base / "memory", path))
    for name, top, path in groups:
        folder = top / path.lstrip("/")
        while folder != top:
            yield folder / name
            folder = folder.parent
        yield top / name


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
