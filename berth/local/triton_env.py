"""Makes the venv of NVIDIA Triton: `python -m berth.local.triton_env HOME`, or `make triton`.

A venv of its own, for two reasons: Triton's Python backend needs numpy 1.26 where Berth uses numpy 2, and most users do
not need its 300 MB. Everything is pinned by hash in `requirements-triton.lock`. A second call finds it made and returns
at once; an interrupted one leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements-triton.lock"
# `worker.runtimes.triton` reads this; it also proves that the venv was finished.
FACTS = "berth-triton.json"

_SERVER = "site-packages/pytriton/tritonserver"
_PYTHONS = ("3.11", "3.12")
_ASK_PYTHON = (
    "import json, sys, sysconfig;"
    "print(json.dumps([f'{sys.version_info[0]}.{sys.version_info[1]}', sysconfig.get_config_var('LIBDIR')]))"
)

Say = Callable[[str], None]


class TritonUnavailable(Exception):
    """Triton cannot be installed here; the text says why, and what would help."""


def ensure_triton(home: Path, say: Say = print, *, lock: Path = LOCK) -> None:
    """Make the venv at `home` from `lock` unless it is there and up to date. Raises `TritonUnavailable`."""
    if sys.platform != "linux":
        raise TritonUnavailable("NVIDIA Triton runs on Linux only; use the onnxruntime runtime elsewhere")
    if not lock.is_file():
        raise TritonUnavailable(f"{lock.name} is missing: Triton is installed from a clone of Berth's repository")
    home = home.absolute()
    with _alone(home):
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        if _made_from(home) == wanted:
            return
        shutil.rmtree(home, ignore_errors=True)
        say(f"Triton: making a venv of its own in {home} (about 300 MB)")
        python = _make_venv(home)
        say("Triton: installing nvidia-pytriton, numpy 1.26 and onnxruntime")
        _install(python, lock)
        say("Triton: preparing the Python backend")
        _finish(home, python, wanted)
        say("Triton: ready")


def _made_from(home: Path) -> str | None:
    """The digest of the lock file that the venv at `home` was made from."""
    try:
        facts = json.loads((home / FACTS).read_text())
    except (OSError, ValueError):
        return None
    return facts.get("lock") if isinstance(facts, dict) else None


def _make_venv(home: Path) -> Path:
    base = _base_python()
    uv = _uv()
    output_of([uv, "venv", "--quiet", "--python", base, str(home)] if uv else [base, "-m", "venv", str(home)])
    return home / "bin/python"


def _base_python() -> str:
    """An interpreter that Triton's Python backend and numpy 1.26 both know: this one, or one in PATH."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version in _PYTHONS:
        return sys.executable
    for candidate in _PYTHONS:
        found = shutil.which(f"python{candidate}")
        if found:
            return found
    raise TritonUnavailable(f"Triton needs Python {' or '.join(_PYTHONS)}, this is {version} and none is in PATH")


def _install(python: Path, lock: Path) -> None:
    uv = _uv()
    installer = [uv, "pip", "install", "--quiet", "--python", str(python)] if uv else [
        str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
    ]  # fmt: skip
    output_of([*installer, "--no-deps", "--require-hashes", "-r", str(lock)])


def _finish(home: Path, python: Path, digest: str) -> None:
    """Put the stub for this Python where the backend looks for it, see that it starts, and write down the facts."""
    version, library_path = json.loads(output_of([str(python), "-c", _ASK_PYTHON]))
    root = home / f"lib/python{version}/{_SERVER}"
    stub = root / "backends/python/triton_python_backend_stub"
    shutil.copy(root / f"python_backend_stubs/{version}/triton_python_backend_stub", stub)
    stub.chmod(0o755)
    # Without arguments it ends at once; what matters is that its libraries are found.
    trial = subprocess.run([stub], env={"LD_LIBRARY_PATH": library_path}, capture_output=True, timeout=60, check=False)
    if b"shared libraries" in trial.stderr:
        raise TritonUnavailable(
            f"this Python {version} has no shared library (libpython{version}.so), which Triton needs: "
            "use a distribution's Python, or one built with --enable-shared"
        )
    facts = {"lock": digest, "python": version, "root": str(root.relative_to(home)), "library_path": library_path}
    draft = home / f"{FACTS}.tmp"
    draft.write_text(json.dumps(facts))
    draft.replace(home / FACTS)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def output_of(command: list[str]) -> str:
    """What a command prints. Raises `TritonUnavailable` with the last that it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise TritonUnavailable(f"`{' '.join(command[:4])} …` failed: {last}")
    return done.stdout


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Two that want it at once: one makes it, the other waits and finds it made."""
    home.parent.mkdir(parents=True, exist_ok=True)
    # The folder around it is what is locked: a lock file would stay behind.
    folder = os.open(home.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m berth.local.triton_env HOME", file=sys.stderr)
        return 64
    try:
        ensure_triton(Path(sys.argv[1]))
    except TritonUnavailable as error:
        print(f"triton: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
