"""Compiles the data path with mypyc, or says why not; the sources stay what they are and run without it just the same.

`python build_compiled.py` puts extension modules beside the sources, `--remove` takes them away, and `--check` takes
them away if a source has changed since: Python prefers an extension module to a source, however old it is. Wheels get
theirs from `hatch_build.py`. BERTH_PURE=1 means: never. docs/adr/0007 says what it is worth.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WORK = ROOT / "build" / "compiled"

# What a request passes through. All of it or little: a call between compiled modules costs a tenth of one that leaves.
COMPILED = (
    "berth/headers.py",
    "berth/http/*.py",
    "berth/http/grpc/*.py",
    "berth/http/http1/*.py",
    "berth/http/http2/*.py",
    "berth/http_shell/*.py",
    "router/core/*.py",
    "router/connection/*.py",
    "router/control/board.py",
    "router/control/wishes.py",
    "router/path/*.py",
    "router/path/answering/answering.py",
    "router/path/inbound/*.py",
    "router/path/race/*.py",
    "router/path/upstream/*.py",
    "router/path/watchers/*.py",
    "worker/serving/asked.py",
    "worker/serving/conversation.py",
    "worker/serving/exchange.py",
    "worker/serving/rest.py",
    "worker/serving/rpc.py",
)
LEFT_OUT = {
    "berth/http/errors.py": "subclasses of RuntimeError, which mypyc does not have",
    "berth/http_shell/attached.py": "asyncio looks for a class of its own",
    "berth/http_shell/listening.py": "once a port",
    "router/connection/dialer.py": "a task for each connection, not for each request",
    "router/connection/strangers.py": "once a connection",
    "router/core/cache.py": "a generic dataclass with slots, which mypyc does not have; and off by default",
    "router/core/tfserving.py": "rarely used",
    "router/core/wanted.py": "not on the path of a request",
}

# A build has the compiler's packages and none of Berth's: what is not compiled may lack types there, and is not judged.
_MYPY = (
    "--config-file=",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--no-warn-unused-ignores",
    f"--cache-dir={WORK / 'mypy'}",
)
_SHARED = "berth"
"""The one library that has all the code: `berth__mypyc`, beside the packages."""
_STAMP = ROOT / "build" / "compiled.sha256"


def sources() -> list[Path]:
    """The modules to be compiled."""
    found = {path for pattern in COMPILED for path in ROOT.glob(pattern)}
    left_out = {ROOT / name for name in LEFT_OUT}
    missing = left_out - found
    if missing:
        raise SystemExit(f"left out, and not there: {sorted(map(str, missing))}")
    return sorted(path for path in found - left_out if path.name != "__init__.py")


def why_not() -> str | None:
    """What keeps this machine from compiling."""
    if os.environ.get("BERTH_PURE") == "1":
        return "BERTH_PURE=1"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header files are not installed"
    return None


def compile_all() -> dict[Path, str]:
    """Extension modules and where each belongs, relative to the packages' parent. Takes about a minute."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    os.chdir(ROOT)
    names = [str(path.relative_to(ROOT)) for path in sources()]
    extensions = mypycify(
        [*_MYPY, *names],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        group_name=_SHARED,
        target_dir=str(WORK / "c"),
    )
    command = build_ext(Distribution({"name": "berth-compiled", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(WORK / "lib"), str(WORK / "objects")
    command.parallel = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shutil.rmtree(WORK / "lib", ignore_errors=True)
    command.ensure_finalized()
    command.run()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return {path: str(path.relative_to(WORK / "lib")) for path in (WORK / "lib").rglob(f"*{suffix}")}


def put_in_place() -> None:
    """Compile, and put each extension module beside its source."""
    remove()
    for path, name in compile_all().items():
        shutil.copy2(path, ROOT / name)
    _STAMP.write_text(_digest())


def remove() -> int:
    """Back to the sources. Returns how many extension modules there were."""
    found = list(_in_place())
    for path in found:
        path.unlink()
    _STAMP.unlink(missing_ok=True)
    return len(found)


def discard_stale() -> bool:
    """Remove extension modules that are older than their sources; whether there were any."""
    fresh = _STAMP.is_file() and _STAMP.read_text() == _digest()
    return not fresh and remove() > 0


def _in_place() -> Iterator[Path]:
    for suffix in ("so", "pyd"):
        yield from ROOT.glob(f"{_SHARED}__mypyc.*{suffix}")
        for folder in {path.parent for path in sources()}:
            yield from folder.glob(f"*.{suffix}")


def _digest() -> str:
    found = hashlib.sha256(sysconfig.get_config_var("EXT_SUFFIX").encode())
    for path in sources():
        found.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        if discard_stale():
            print("a source has changed since it was compiled: running the sources; `make compile` compiles anew")
    elif given.remove:
        remove()
    elif reason := why_not():
        remove()
        sys.exit(f"not compiled: {reason}; the sources run without it, at a third of the speed")
    elif not (_STAMP.is_file() and _STAMP.read_text() == _digest()):
        print(f"compiling {len(sources())} modules …", flush=True)
        put_in_place()


if __name__ == "__main__":
    main()
