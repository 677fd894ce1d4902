"""What a worker reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field

from berth.ids import NAME_PATTERN
from berth.settings import ProcessSettings
from berth.states import Runtime

_Seconds = Annotated[float, Field(gt=0, le=86_400)]


class WorkerSettings(ProcessSettings):
    """Sizes are bytes, or written with a unit: "2GiB". The replica's name is `instance`."""

    job: str = Field(pattern=f"^{NAME_PATTERN}$", description="Serving job that this replica belongs to.")
    runtime: Runtime = Field(default=Runtime.ONNXRUNTIME, description="onnxruntime, in process; or triton, as a child.")
    memory_limit: ByteSize = Field(
        gt=0, description="Bytes that versions may take here: the job's memory per replica, as placement counts it."
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
    control_address: str = Field(default="127.0.0.1:0", description="host:port of WorkerControl (gRPC).")
    grpc_address: str = Field(default="127.0.0.1:0", description="host:port of inference over gRPC.")
    http_address: str = Field(default="127.0.0.1:0", description="host:port of inference over HTTP.")
    advertise_host: str = Field(
        default="", description="Host at which peers reach this replica, if it is not that of the addresses."
    )
    max_body_bytes: ByteSize = Field(default=ByteSize(64 * 2**20), gt=0, description="Largest inference request.")
    registry_dir: Path = Field(description="Folder in which the replicas of this machine announce themselves.")
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
    inference_threads: int = Field(default=0, ge=0, le=1_024, description="Runs at once; 0: one per core.")
    intra_op_threads: int = Field(default=0, ge=0, le=1_024, description="Threads of one run; 0: half the cores.")
    triton_home: Path | None = Field(
        default=None, description="Virtual environment that holds Triton; required for runtime triton."
    )
