"""Processes that do not outlive the tests: the kernel kills them when the process that started them is gone (Linux)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Run by the child before it becomes the program: PR_SET_PDEATHSIG (1) survives the exec. A parent that died before the
# call is noticed by its changed id. Done here and not in a preexec_fn, which is unsafe where threads run.
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def tethered(argv: Sequence[str]) -> list[str]:
    """The command `argv`, to be started by this process's main thread (the kernel watches the thread that forks)."""
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *argv]
