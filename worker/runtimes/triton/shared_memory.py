"""Triton's shared memory: one region for each model, all named with the prefix that its server was given.

Whoever is killed leaves them behind, and memory that no process maps any more is not given back by itself.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where the kernel has it, and Triton puts it


def clean_shared_memory(prefix: str) -> None:
    """Remove all regions with the prefix."""
    if _FOLDER.is_dir():
        for region in _FOLDER.glob(f"{prefix}*"):
            region.unlink(missing_ok=True)


def remove_region(prefix: str, name: str) -> None:
    """Remove one region, if it has the prefix."""
    if name.startswith(prefix):
        (_FOLDER / name).unlink(missing_ok=True)
