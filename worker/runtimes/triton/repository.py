"""The model repository on disk: one folder per servable, so that loading one version never restarts another.

Triton checks names little, and a version folder without its model makes it hang: folders appear complete, by rename.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from berth.model import Signature, TensorSpec

_SCRIPT = Path(__file__).with_name("onnx_model.py")
# A draft's name cannot be a servable's.
_DRAFT = ".draft-"


class Repository:
    """The folder at `path`, which nobody else writes to.

    `native_onnx` may be changed while nothing is loaded. `linked`: Triton sees the same files at the same paths, so
    that a link to the artifact will do; else it gets a file of its own.
    """

    def __init__(self, path: Path, *, native_onnx: bool, threads: int, linked: bool = True) -> None:
        self.path = path.absolute()
        self.native_onnx = native_onnx
        self._threads = threads
        self._linked = linked

    def clear(self) -> None:
        """Begin with an empty repository. The folder itself stays: something may be mounted there."""
        self.path.mkdir(parents=True, exist_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()

    def write(self, name: str, signature: Signature, model: Path) -> None:
        """Add the model file under `name`; it must stay where it is until `remove`."""
        draft = self.path / f"{_DRAFT}{name}"
        shutil.rmtree(draft, ignore_errors=True)
        version = draft / "1"
        version.mkdir(parents=True)
        (draft / "config.pbtxt").write_text(self._config(name, signature))
        self._place(model.resolve(), version / "model.onnx")
        if not self.native_onnx:
            shutil.copyfile(_SCRIPT, version / "model.py")
        self.remove(name)
        draft.rename(self.path / name)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.path / name, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """Where a file may lie for a moment that Triton takes for no model."""
        return self.path / f"{_DRAFT}{name}"

    def script(self, name: str) -> Path:
        """What the process that runs `name` was started with."""
        return self.path / name / "1/model.py"

    def _place(self, model: Path, path: Path) -> None:
        if self._linked:
            path.symlink_to(model)
            return
        try:
            os.link(model, path)
        except OSError:
            shutil.copyfile(model, path)  # on another file system, or one without links

    def _config(self, name: str, signature: Signature) -> str:
        config = model_config_pb2.ModelConfig(
            name=name,
            backend="onnxruntime" if self.native_onnx else "python",
            input=[self._tensor(model_config_pb2.ModelInput, spec) for spec in signature.inputs],
            output=[self._tensor(model_config_pb2.ModelOutput, spec) for spec in signature.outputs],
        )
        if not self.native_onnx:
            config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
            config.parameters["threads"].string_value = str(self._threads)
        text: str = text_format.MessageToString(config)
        return text

    def _tensor(self, kind: Any, spec: TensorSpec) -> Any:
        # The Python backend knows no bfloat16; its bits travel to our script as integers.
        datatype = "UINT16" if spec.datatype == "BF16" and not self.native_onnx else spec.datatype
        tensor = kind(
            name=spec.name,
            data_type=model_config_pb2.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"),
            # Triton has no tensors without dimensions: a scalar travels as a list of one.
            dims=spec.shape or (1,),
        )
        if not spec.shape and self.native_onnx:
            tensor.reshape.SetInParent()
        return tensor
