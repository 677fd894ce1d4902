"""How this process deals with memory it has used: it keeps some, because the next body needs as much.

glibc's malloc gives the top of its heap back to the kernel as soon as 128 KiB of it are free. Bodies of that size would
then be mapped and zeroed anew each time, page by page: a process would answer a third fewer requests of 600 KB.
"""

from __future__ import annotations

import ctypes
import gc
import sys

# From malloc.h. Setting either also ends glibc's own guessing.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that is kept when nothing is under way. Larger blocks are mapped and given back one by one.
_KEPT = 64 * 1024 * 1024
_LARGE = 4 * 1024 * 1024


def keep_freed() -> None:
    """From now on malloc keeps up to 64 MiB of freed memory; does nothing if malloc is not glibc's."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def settle() -> None:
    """What was made so far stays: the collector need not look at it again. Requests make no cycles to speak of."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
