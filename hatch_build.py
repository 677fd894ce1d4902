"""Puts the compiled data path into wheels, where there is a C compiler. Editable installs run the sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

import build_compiled


class CompiledDataPath(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        reason = build_compiled.why_not()
        if reason is not None:
            self.app.display_warning(f"the data path is not compiled: {reason}")
            return
        build_data["force_include"].update({str(path): name for path, name in build_compiled.compile_all().items()})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
