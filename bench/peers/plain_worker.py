"""An inference server as one writes it with the usual libraries: FastAPI, uvicorn, grpc.aio, ONNX Runtime in a thread.

`python -m bench.peers.plain_worker FOLDER` serves `FOLDER/model.onnx` and prints its gRPC and HTTP ports. It has none
of what a deployment needs (no credential, limits, deadlines, metrics): what it costs is a floor for its kind.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from tritonclient.grpc import service_pb2

from berth.headers import INFERENCE_HEADER_LENGTH_TEXT
from berth.oip import rest, rpc
from berth.oip.request import InferRequest, InferResponse


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Ask(BaseModel):
    id: str | None = None
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    model_version: str
    outputs: list[Tensor]


class Server:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    async def infer(self, inputs: Any) -> dict[str, Any]:
        answers = await asyncio.to_thread(self._session.run, self._names, dict(inputs))
        return dict(zip(self._names, answers, strict=True))

    async def rest(self, model: str, request: Request) -> Any:
        raw = await request.body()
        length = request.headers.get(INFERENCE_HEADER_LENGTH_TEXT)
        if length is not None:
            asked = rest.decode_request(raw, length)
            body = rest.encode_response(InferResponse(model, "1", await self.infer(asked.inputs)), asked)
            return Response(body.content, headers=body.headers)
        ask = Ask.model_validate_json(raw)
        outputs = await self.infer({one.name: np.array(one.data, np.float32).reshape(one.shape) for one in ask.inputs})
        answer = Answer(
            model_name=model,
            model_version="1",
            outputs=[
                Tensor(name=name, shape=list(array.shape), datatype="FP32", data=array.ravel().tolist())
                for name, array in outputs.items()
            ],
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def grpc(self, message: Any, _: Any) -> Any:
        asked: InferRequest = rpc.decode_request(message)
        return rpc.encode_response(InferResponse(message.model_name, "1", await self.infer(asked.inputs)))


async def main(folder: Path) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    server = Server(ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"]))
    handler = grpc.unary_unary_rpc_method_handler(
        server.grpc,
        request_deserializer=service_pb2.ModelInferRequest.FromString,
        response_serializer=service_pb2.ModelInferResponse.SerializeToString,
    )
    calls = grpc.aio.server()
    calls.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    app = FastAPI()
    app.post("/v2/models/{model}/infer")(server.rest)
    web = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    serving = asyncio.create_task(web.serve())
    while not web.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    print(port, web.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
