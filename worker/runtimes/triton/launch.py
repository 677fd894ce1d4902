"""Becomes another program that dies with the process which started it: `python launch.py PARENT PROGRAM ARGUMENTS…`.

Run as a script, without Berth's packages: a worker that is killed outright must not leave a Triton behind, and only
the child itself can ask the kernel for that.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execv(program[0], program)  # noqa: S606 - the worker gives the absolute path of its tritonserver
