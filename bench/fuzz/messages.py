"""Coverage-guided fuzzing of what reads clients' bodies: `python -m bench.fuzz.messages FOLDER -max_total_time=600`.

Needs atheris (`pip install atheris`, not among the development dependencies). `--seed FOLDER` fills FOLDER with what
clients really send. The first byte of an input chooses the reader, `--reader NAME` (one of `READERS`) tries only one. A
find is anything but an answer or a refusal: `BerthError` is what clients are told; everything else would end as an
internal error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from berth.errors import BerthError
from berth.http.grpc.status import parse_text
from berth.http.grpc.timeouts import parse_timeout
from berth.model import Signature, TensorSpec
from berth.oip import request as oip
from berth.oip import rest, rpc
from router.core.message import read_target
from router.core.paths import parse_path
from router.tfserving import documents, examples, predict

_SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), (TensorSpec("y", "INT64", (-1,)),)
)


def _oip_rest(body: bytes) -> None:
    length, _, rest_of = body.partition(b"\n")
    header = length.decode("latin-1") if length else None
    found = rest.decode_request(rest_of, header)
    oip.check_request(_SIGNATURE, found.inputs, [wish.name for wish in found.outputs])


def _oip_grpc(body: bytes) -> None:
    found = rpc.decode_request(rpc.parse_request(body))
    oip.check_request(_SIGNATURE, found.inputs, [wish.name for wish in found.outputs])


def _tfserving(body: bytes) -> None:
    document = documents.load(body)
    predict.check_signature_name(document)
    with contextlib.suppress(BerthError):
        predict.read_inputs(document, _SIGNATURE)
    examples.read_examples(document, _SIGNATURE)


def _head(body: bytes) -> None:
    with contextlib.suppress(BerthError):
        parse_path(body.decode("latin-1"))
    parse_text(body)
    with contextlib.suppress(ValueError):
        parse_timeout(body)


def _target(body: bytes) -> None:
    found = read_target(body)
    try:
        message = service_pb2.ModelInferRequest.FromString(body)
    except DecodeError:
        # What is inside a field is not looked at here; the worker refuses it.
        return
    if found != (message.model_name, message.model_version):
        raise AssertionError(f"read {found}, a parser reads {(message.model_name, message.model_version)}")


READERS: Mapping[str, Callable[[bytes], None]] = {
    "oip-rest": _oip_rest,
    "oip-grpc": _oip_grpc,
    "tfserving": _tfserving,
    "head": _head,
    "target": _target,
}


def read(reader: Callable[[bytes], None], body: bytes) -> None:
    """Raises what is to be found."""
    with contextlib.suppress(BerthError), np.errstate(all="ignore"):
        reader(body)


def _seeds() -> list[bytes]:
    """Good bodies, each behind a byte that a reader is chosen by."""
    inputs = {"x": np.ones((2, 2), np.float32), "s": np.array([b"a", b"bc"], dtype=object)}
    request = oip.InferRequest(inputs, (oip.OutputWish("y", True),), "id")
    bodies = []
    for binary in (False, True):
        body = rest.encode_request(request, binary=binary)
        bodies.append(body.headers.get("Inference-Header-Content-Length", "").encode() + b"\n" + body.content)
    bodies.append(rpc.encode_request("m", request).SerializeToString())
    rows = [{"x": [1, 2.5], "s": {"b64": "YQ=="}}, {"x": [3, 4], "s": "b"}]
    columns = {"x": [[1, 2], [3, 4]], "s": ["a", "b"]}
    example = {"x": [1.0, 2.0], "s": "a"}
    documents_of = (
        {"signature_name": "serving_default", "instances": rows},
        {"inputs": columns},
        {"context": example, "examples": [example, example]},
    )
    bodies += [json.dumps(document).encode() for document in documents_of]
    bodies += [b"/v2/models/m/versions/stable/infer", b"/v2/health/ready", b"100m", b"%E4%B8%AD"]
    return [b"\0" + body for body in bodies]


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--seed":
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for number, body in enumerate(_seeds()):
            (folder / f"seed-{number}").write_bytes(body)
        return
    only = None
    if "--reader" in sys.argv:
        at = sys.argv.index("--reader")
        only = READERS[sys.argv[at + 1]]
        del sys.argv[at : at + 2]
    readers = list(READERS.values())

    def play(data: bytes) -> None:
        if data:
            read(only or readers[data[0] % len(readers)], data[1:])

    # Imported by name: there are no types for it, and it is not installed where types are checked.
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
