"""What a worker reads from its environment."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field, model_validator

from berth.ids import NAME_PATTERN
from berth.settings import ProcessSettings
from berth.states import Runtime

_Seconds = Annotated[float, Field(gt=0, le=86_400)]


class TritonBackend(StrEnum):
    AUTO = "auto"
    PYTHON = "python"
    ONNXRUNTIME = "onnxruntime"


class WorkerSettings(ProcessSettings):
    """Sizes are bytes, or written with a unit: "2GiB". The replica's name is `instance`."""

    job: str = Field(pattern=f"^{NAME_PATTERN}$", description="Serving job that this replica belongs to.")
    runtime: Runtime = Field(default=Runtime.ONNXRUNTIME, description="onnxruntime, in process; or triton, beside it.")
    memory_limit: ByteSize = Field(
        gt=0,
        description="Bytes that versions may take here: the job's memory per replica, as placement counts it. Less, "
        "with a warning, where the container or the GPU has not as much.",
    )
    load_headroom: ByteSize = Field(
        default=ByteSize(512 * 2**20),
        ge=0,
        description="Bytes on top of memory_limit that loads may take for a moment. A container needs "
        "memory_limit + load_headroom + about 200 MiB for the process itself.",
    )
    max_loads: int = Field(default=4, ge=1, le=64, description="Loads at once, fetching included.")
    load_timeout_s: _Seconds = Field(default=300.0, description="A load that takes longer has failed, for now.")
    drain_timeout_s: _Seconds = Field(
        default=30.0, description="How long an unload waits for requests that still use the version."
    )
    drain_grace_s: float = Field(
        default=5.0,
        ge=0,
        le=3_600,
        description="How long a stopping worker keeps serving while its routes are withdrawn.",
    )
    ready_wait_s: float = Field(
        default=600.0,
        ge=0,
        le=86_400,
        description="How long a replica that has started may say that it is not ready because it still loads what it "
        "was told to hold. A rolling upgrade takes the next one away only when this one is ready.",
    )
    control_address: str = Field(default="127.0.0.1:0", description="host:port of WorkerControl (gRPC).")
    grpc_address: str = Field(default="127.0.0.1:0", description="host:port of inference over gRPC.")
    http_address: str = Field(default="127.0.0.1:0", description="host:port of inference over HTTP.")
    advertise_host: str = Field(
        default="", description="Host at which peers reach this replica, if it is not that of the addresses."
    )
    max_body_bytes: ByteSize = Field(default=ByteSize(64 * 2**20), gt=0, description="Largest inference request.")
    registry_dir: Path | None = Field(
        default=None,
        description="Folder in which the replicas of this machine announce themselves. Not where something else knows "
        "them: on Kubernetes, their pods do.",
    )
    artifact_store: str = Field(description="URL of the artifact store: file:///folder or s3://bucket/prefix.")
    cache_dir: Path = Field(description="Folder for fetched artifacts and the runtime's files; one worker's own.")
    cache_bytes: ByteSize = Field(
        default=ByteSize(20 * 2**30),
        ge=0,
        description="Bytes of artifacts kept there. What is in use is never removed.",
    )
    providers: str = Field(
        default="auto",
        pattern="^(auto|cpu|cuda)$",
        description="Where ONNX Runtime runs models; auto: on CUDA if it has it.",
    )
    inference_threads: int = Field(
        default=0, ge=0, le=1_024, description="Runs at once; 0: one per core that the process may use."
    )
    intra_op_threads: int = Field(default=0, ge=0, le=1_024, description="Threads of one run; 0: half of those cores.")
    triton_home: Path | None = Field(
        default=None,
        description="Virtual environment that holds Triton, which is then started as a child. Runtime triton needs "
        "this or triton_address.",
    )
    triton_address: str = Field(
        default="",
        description="host:port of the gRPC of a Triton that somebody else runs beside this worker, in explicit model "
        "control and for it alone: a sidecar. On loopback, for it is not asked for a certificate.",
    )
    triton_repository: Path | None = Field(
        default=None,
        description="Folder that the Triton at triton_address has as its model repository, shared with this worker, "
        "which alone writes to it.",
    )
    triton_backend: TritonBackend = Field(
        default=TritonBackend.AUTO,
        description="Triton's backend for ONNX: onnxruntime (NVIDIA's images have it), python (with onnxruntime in "
        "its Python), or auto: onnxruntime where it works.",
    )

    @model_validator(mode="after")
    def _one_triton(self) -> WorkerSettings:
        if bool(self.triton_address) != (self.triton_repository is not None):
            raise ValueError("BERTH_TRITON_ADDRESS and BERTH_TRITON_REPOSITORY go together")
        if self.runtime is not Runtime.TRITON:
            return self
        if bool(self.triton_address) == (self.triton_home is not None):
            raise ValueError("runtime triton needs BERTH_TRITON_HOME or BERTH_TRITON_ADDRESS, and not both")
        return self
