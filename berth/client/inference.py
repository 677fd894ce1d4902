"""Inference over OIP v2 REST with binary tensors, as a dialogue. numpy is loaded with the first call, not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel

from berth.api.schemas import Tensor
from berth.client.calls import ApiCall, Dialogue, HttpReply, Server, read_json
from berth.client.operations import Scope
from berth.errors import Internal, InvalidArgument
from berth.headers import INFERENCE_HEADER_LENGTH_TEXT, REPLICA_TEXT, REQUEST_ID_TEXT, TIMEOUT_MS_TEXT

if TYPE_CHECKING:
    import numpy.typing as npt

    from berth.oip.datatypes import Array

# The client waits this much longer than the deadline it gives the server, so that the server's own answer wins.
_GRACE_S = 2.0


class _Metadata(BaseModel):
    inputs: list[Tensor]


class Inference(NamedTuple):
    """An answer and where it came from."""

    outputs: dict[str, Array]
    version: str
    replica: str
    request_id: str


def infer(
    scope: Scope,
    model: str,
    inputs: Mapping[str, npt.ArrayLike],
    version: int | str | None = None,
    *,
    outputs: Sequence[str] = (),
    timeout: float | None = None,
    request_id: str = "",
) -> Dialogue[dict[str, Array]]:
    """Run a model on arrays. `version` is a number or a label, None the model's target; no `outputs` means all.

    Text arrays are sent as UTF-8 BYTES, which come back as object arrays of bytes. `timeout` in seconds is passed on
    to the worker. Raises `InvalidArgument` if the model does not take these inputs, `NotFound`, `Unavailable` while
    nothing serves it, `DeadlineExceeded`.
    """
    answer = yield from infer_traced(
        scope, model, inputs, version, outputs=outputs, timeout=timeout, request_id=request_id
    )
    return answer.outputs


def infer_traced(
    _: Scope,
    model: str,
    inputs: Mapping[str, npt.ArrayLike],
    version: int | str | None = None,
    *,
    outputs: Sequence[str] = (),
    timeout: float | None = None,
    request_id: str = "",
) -> Dialogue[Inference]:
    """Like `infer`; says too which version and which replica answered."""
    from berth.oip.request import InferRequest, OutputWish
    from berth.oip.rest import encode_request

    arrays = {name: _as_array(value) for name, value in inputs.items()}
    request = InferRequest(arrays, tuple(OutputWish(name) for name in outputs), id=request_id, binary_outputs=True)
    body = encode_request(request, binary=True)
    headers = dict(body.headers)
    if request_id:
        headers[REQUEST_ID_TEXT] = request_id
    if timeout is not None:
        headers[TIMEOUT_MS_TEXT] = str(max(1, round(timeout * 1000)))
    of_version = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    answer: Inference = yield ApiCall(
        server=Server.ROUTER,
        method="POST",
        path=f"/v2/models/{quote(model, safe='')}{of_version}/infer",
        headers=headers,
        body=body.content,
        parse=_read_answer,
        # A model computes; asking it twice changes nothing.
        repeatable=True,
        timeout_s=None if timeout is None else timeout + _GRACE_S,
    )
    return answer


def _read_answer(reply: HttpReply) -> Inference:
    from berth.oip.rest import decode_response

    try:
        response = decode_response(reply.body, reply.headers.get(INFERENCE_HEADER_LENGTH_TEXT))
    except InvalidArgument as error:
        raise Internal(f"the answer is not OIP: {error.detail}") from None
    return Inference(
        dict(response.outputs),
        response.version,
        reply.headers.get(REPLICA_TEXT, ""),
        reply.headers.get(REQUEST_ID_TEXT, ""),
    )


def _as_array(value: Any) -> Array:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "UST":
        return array
    # Fixed-width text: OIP knows only byte strings of any length.
    texts = array.ravel().tolist()
    elements = np.empty(len(texts), dtype=object)
    elements[:] = [text.encode() if isinstance(text, str) else text for text in texts]
    return elements.reshape(array.shape)


def input_datatypes(_: Scope, model: str, version: int | str | None = None) -> Dialogue[dict[str, str]]:
    """The OIP datatype of each input, from the model's metadata at the router."""
    of_version = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    metadata: _Metadata = yield ApiCall(
        server=Server.ROUTER,
        method="GET",
        path=f"/v2/models/{quote(model, safe='')}{of_version}",
        parse=read_json(_Metadata),
        repeatable=True,
    )
    return {tensor.name: tensor.datatype for tensor in metadata.inputs}
