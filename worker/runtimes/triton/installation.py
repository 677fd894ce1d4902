"""Where a Triton server is and what it brings: the wheel in a venv of its own, or NVIDIA's layout in their images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from berth.settings import SettingsError

# Written by `berth.local.triton_env`, which alone knows the Python that the venv was made with.
FACTS = "berth-triton.json"


@dataclass(frozen=True, slots=True)
class Installation:
    """`native_onnx`: it has the onnxruntime backend, else ONNX runs in Triton's Python backend."""

    server: Path
    backends: Path
    path: str
    library_path: str
    native_onnx: bool

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """The environment that the server sees: the GPU's variables that it needs, and nothing of Berth's."""
        passed = {name: value for name, value in ours.items() if name.startswith(("CUDA_", "NVIDIA_"))}
        return passed | {"PATH": self.path, "LD_LIBRARY_PATH": self.library_path, "LANG": "C.UTF-8"}


def locate(home: Path) -> Installation:
    """The installation at `home`. Raises `SettingsError` that says what is missing and how to get it."""
    facts = home / FACTS
    if facts.is_file():
        return _venv(home, json.loads(facts.read_text()))
    if (home / "bin/tritonserver").is_file():
        backends = home / "backends"
        return Installation(
            home / "bin/tritonserver",
            backends,
            "/usr/local/bin:/usr/bin:/bin",
            str(home / "lib"),
            (backends / "onnxruntime").is_dir(),
        )
    raise SettingsError(f"no Triton at {home}: make one with `python -m berth.local.triton_env {home}`")


def _venv(home: Path, facts: Mapping[str, str]) -> Installation:
    root = home / facts["root"]
    installation = Installation(
        root / "bin/tritonserver",
        root / "backends",
        # The Python backend finds its packages by the first python3 in PATH.
        f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        facts["library_path"],
        (root / "backends/onnxruntime").is_dir(),
    )
    for path in (installation.server, installation.backends / "python/triton_python_backend_stub"):
        if not path.is_file():
            raise SettingsError(
                f"the Triton at {home} is not complete ({path.name} is missing): remove it, make it anew"
            )
    return installation
