"""A model's default answer: set over the API, checked against the newest version, carried by the desired feed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from berth.api import schemas
from berth.errors import InvalidArgument, PayloadTooLarge
from berth.model import Signature, TensorSpec
from berth.oip import rest
from controller import default_answer

SIGNATURE = Signature((), (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("label", "BYTES", ())))


def answer(**outputs: tuple[str, list[int], list[Any]]) -> list[dict[str, Any]]:
    tensors = [{"name": n, "datatype": d, "shape": s, "data": v} for n, (d, s, v) in outputs.items()]
    found: list[dict[str, Any]] = schemas.DefaultAnswer.model_validate({"outputs": tensors}).model_dump()["outputs"]
    return found


Y = ("FP32", [1, 3], [0.0, 0.5, 1])
GOOD = answer(y=Y, label=("BYTES", [], ["none"]))


def test_an_answer_is_one_that_clients_can_read() -> None:
    text = default_answer.encode("digits", GOOD)
    default_answer.check(text, SIGNATURE)
    read = rest.decode_response(text.encode(), None)
    assert read.model == "digits"
    assert read.outputs["y"].tolist() == [[0.0, 0.5, 1.0]]
    assert default_answer.outputs_of(text) == GOOD


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (answer(y=Y), "'label', 'y'"),
        (answer(y=Y, label=("BYTES", [], ["x"]), more=Y), "'label', 'y'"),
        (answer(y=("FP64", [1, 3], [0, 0, 0]), label=("BYTES", [], ["x"])), "the model gives FP32"),
        (answer(y=("FP32", [3], [0, 0, 0]), label=("BYTES", [], ["x"])), r"shape \[-1, 3\]"),
        (answer(y=("FP32", [1, 2], [0, 0]), label=("BYTES", [], ["x"])), r"shape \[-1, 3\]"),
        (answer(y=("FP32", [1, 3], [0, 0]), label=("BYTES", [], ["x"])), "asks for 3 elements"),
        (answer(y=("FP32", [1, 3], ["a", 0, 0])), "a string"),
        (answer(y=("FP99", [1], [0])), "unknown datatype"),
    ],
)
def test_what_is_no_answer_of_the_model(wrong: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        default_answer.check(default_answer.encode("m", wrong), SIGNATURE)


def test_without_a_version_any_well_formed_answer_will_do() -> None:
    default_answer.check(default_answer.encode("m", answer(z=Y)), None)


def test_bounds() -> None:
    with pytest.raises(PayloadTooLarge):
        default_answer.encode("m", answer(y=("BYTES", [1], ["x" * default_answer.MAX_BYTES])))
    with pytest.raises(InvalidArgument, match="finite"):
        default_answer.encode("m", answer(y=("FP32", [1], [float("nan")])))


async def test_from_the_api_to_the_feed_and_away_again(controller: Any) -> None:
    key = await controller.tenant("acme")
    await controller.lead()
    path = "/v1/tenants/acme/models/digits"
    await controller.api.post("/v1/tenants/acme/models", json={"name": "digits"}, headers=key)
    assert (await controller.get(path))["default_answer"] is None

    async def set_to(value: Any, status: int = 200) -> Any:
        reply = await controller.api.patch(path, json={"default_answer": value}, headers=key)
        assert reply.status_code == status, reply.text
        return reply.json()

    wanted = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [0.5]}]}
    before = (await controller.desired()).generation
    assert (await set_to(wanted))["default_answer"] == wanted
    state = await controller.desired()
    assert state.generation > before
    assert json.loads(state.models[0].default_answer) == {"model_name": "digits", **wanted}
    # Said again, it changes nothing; another member leaves it as it is.
    await set_to(wanted)
    changed = await controller.api.patch(path, json={"description": "new"}, headers=key)
    assert changed.json()["default_answer"] == wanted
    assert (await controller.desired()).generation == state.generation
    assert (await controller.desired()).models[0].default_answer == state.models[0].default_answer

    assert (await set_to(None))["default_answer"] is None
    assert (await controller.desired()).models[0].default_answer == b""
    wrongs: tuple[Any, ...] = ({}, {"outputs": []}, {"outputs": [{"name": "y"}]}, 3, {**wanted, "id": "x"})
    for wrong in wrongs:
        await set_to(wrong, 400)
    await set_to({"outputs": [{**wanted["outputs"][0], "shape": [2]}]}, 400)
    await set_to({"outputs": [{**wanted["outputs"][0], "data": ["x" * 70_000]}]}, 413)


async def test_it_has_the_outputs_of_the_newest_version(controller: Any) -> None:
    key = await controller.tenant("acme")
    assert (await controller.upload("acme/digits", **key)).status_code == 201
    for name, datatype, status in (("y", "FP32", 200), ("z", "FP32", 400), ("y", "FP64", 400)):
        body = {"default_answer": {"outputs": [{"name": name, "datatype": datatype, "shape": [1], "data": [0]}]}}
        reply = await controller.api.patch("/v1/tenants/acme/models/digits", json=body, headers=key)
        assert reply.status_code == status, reply.text


async def test_the_sum_of_a_tenants_answers_is_bounded(controller: Any) -> None:
    large = {"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": ["x" * 60_000]}]}
    for tenant in ("acme", "other"):
        key = await controller.tenant(tenant)
        statuses = []
        for number in range(18):
            await controller.api.post(f"/v1/tenants/{tenant}/models", json={"name": f"m{number}"}, headers=key)
            path = f"/v1/tenants/{tenant}/models/m{number}"
            reply = await controller.api.patch(path, json={"default_answer": large}, headers=key)
            statuses.append(reply.status_code)
        assert statuses == [200] * 17 + [403]
        # Replacing one takes the room of the one that was.
        again = await controller.api.patch(f"/v1/tenants/{tenant}/models/m3", json={"default_answer": large})
        assert again.status_code == 200
