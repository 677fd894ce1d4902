"""One request's way there and back: JSON to OIP's binary tensors, and the answer's tensors to JSON. Does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from berth.model import Signature
from berth.oip import rest
from berth.oip.request import InferRequest, check_request
from router.core.tfserving import Verb
from router.tfserving.documents import load
from router.tfserving.examples import read_examples, write_results
from router.tfserving.predict import read_inputs, write_outputs


class WorkerBody(NamedTuple):
    """A body for a worker and the headers that describe it."""

    content: bytes
    headers: Mapping[str, str]


def write_default(verb: Verb, body: bytes, answer: bytes) -> bytes:
    """An OIP answer that comes from no replica, in the format that `body` asks for. Raises `InvalidArgument`."""
    document = load(body)
    outputs = rest.decode_response(answer, None).outputs
    if verb is Verb.PREDICT:
        return write_outputs(outputs, rows="instances" in document)
    examples = document.get("examples")
    return write_results(verb, outputs, len(examples) if isinstance(examples, list) else 0)


class Translation:
    """For one request with a body. `to_worker` comes first: it learns in which format the answer is wanted."""

    def __init__(self, verb: Verb, signature: Signature) -> None:
        self._verb = verb
        self._signature = signature
        self._rows = False
        self._examples = 0

    def to_worker(self, body: bytes) -> WorkerBody:
        """Raises `InvalidArgument`, and nothing else, for a body that the model cannot take."""
        document = load(body)
        if self._verb is Verb.PREDICT:
            inputs, self._rows = read_inputs(document, self._signature)
        else:
            inputs, self._examples = read_examples(document, self._signature)
        # The worker would say the same; here it costs no request, and the names are the client's.
        check_request(self._signature, inputs, ())
        return WorkerBody(*rest.encode_request(InferRequest(inputs, binary_outputs=True), binary=True))

    def to_client(self, body: bytes, header_length: str | None) -> bytes:
        """Raises `InvalidArgument` for outputs that the format has no room for."""
        outputs = rest.decode_response(body, header_length).outputs
        if self._verb is Verb.PREDICT:
            return write_outputs(outputs, rows=self._rows)
        return write_results(self._verb, outputs, self._examples)
