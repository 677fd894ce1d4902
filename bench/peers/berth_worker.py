"""A worker's inference server without the worker around it: `python -m bench.peers.berth_worker FOLDER`.

Serves `FOLDER/model.onnx` as bench~identity~1 and prints its gRPC and HTTP ports. Run by its path, with PYTHONPATH on
another checkout, it measures that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from prometheus_client import CollectorRegistry

from berth.auth.peer import PeerCredential
from berth.ids import VersionKey
from berth.model import Artifact, VersionSpec
from berth.resources import Resources
from worker.runtimes.onnx.runtime import OnnxRuntime
from worker.runtimes.protocol import Loaded
from worker.scheduling.local import ScheduledRuntime
from worker.serving.server import serve_inference

TOKEN = "t" * 40
KEY = VersionKey("bench", "identity", 1)


class Held:
    """What the keeper would lend."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def held(self) -> frozenset[VersionKey]:
        return frozenset((KEY,))

    def acquire(self, _: VersionKey) -> AbstractContextManager[Loaded]:
        return contextlib.nullcontext(self._loaded)


async def serve(folder: Path) -> None:
    """Until the process is ended."""
    runtime = ScheduledRuntime(OnnxRuntime(intra_op_threads=1), threads=1)
    loaded = await runtime.load(VersionSpec(KEY, Artifact("0" * 64, 1), Resources.host(1 << 20)), folder / "model.onnx")
    await loaded.warm_up()
    async with serve_inference(
        Held(loaded),
        credential=PeerCredential.from_token(TOKEN),
        grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0",
        replica="w-1",
        registry=CollectorRegistry(),
    ) as server:
        print(server.grpc_port, server.http_port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
