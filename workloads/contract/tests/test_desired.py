"""What the operator may write into desired.json, and what the agent refuses to carry out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory_contract.desired import parse
from aifactory_contract.errors import FactoryError, Reason

GOOD = {
    "name": "gpt",
    "version": 3,
    "uri": "pvc://models/gpt/3",
    "digest": "sha256:" + "a" * 64,
    "format": "huggingface",
}


def test_desired_is_read() -> None:
    desired = parse(json.dumps({"pool": "p", "revision": "r", "models": [{**GOOD, "secret": None}]}))
    assert desired.revision == "r"
    assert str(desired.models[0].uri) == "pvc://models/gpt/3"
    assert desired.models[0].engine == "auto"
    (wished,) = parse(json.dumps({"models": [{**GOOD, "engine": "vllm"}]})).models
    assert wished.engine == "vllm"
    models = [{**GOOD, "traffic": "live"}, {**GOOD, "version": 2, "traffic": "warm"}]
    desired = parse(json.dumps({"models": models}))
    assert [spec.key.version for spec in desired.live] == [3]
    assert [spec.key.version for spec in desired.named("gpt", warm=True)] == [2]


def test_what_is_loaded_on_demand_has_room_and_limits() -> None:
    given = {"memoryBytes": 10, "holdSeconds": 5, "maxHeldRequests": 2}
    desired = parse(json.dumps({"models": [{**GOOD, "memoryBytes": 4}], "onDemand": given}))
    assert desired.on_demand is not None
    assert (desired.on_demand.memory_bytes, desired.on_demand.hold_seconds) == (10, 5.0)
    assert (desired.on_demand.max_held_requests, list(desired.on_demand.taken.values())) == (2, [4])
    assert parse(json.dumps({"models": [GOOD]})).on_demand is None


@pytest.mark.parametrize("bytes_", [None, "x", -1])
def test_what_nobody_has_measured_is_not_loaded_on_demand(bytes_: object) -> None:
    given = {"memoryBytes": 10, "holdSeconds": 5, "maxHeldRequests": 2}
    models = [{**GOOD, **({} if bytes_ is None else {"memoryBytes": bytes_})}]
    with pytest.raises(FactoryError) as refused:
        parse(json.dumps({"models": models, "onDemand": given}))
    assert refused.value.reason is Reason.INVALID_DESIRED


@pytest.mark.parametrize(
    "change",
    [{"name": ".."}, {"name": "a/b"}, {"version": 0}, {"version": True}, {"uri": "http://x/y"}, {"digest": None},
     {"digest": "sha256:1"}, {"format": "onnx"}, {"uri": "pvc://models/../x"}, {"engine": "bert"},
     {"traffic": "half"}],
)  # fmt: skip
def test_a_wrong_desired_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FactoryError) as caught:
        parse(json.dumps({"models": [{**GOOD, **change}]}))
    assert caught.value.reason is Reason.INVALID_DESIRED


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": [3]}', '{"models": [{}]}'])
def test_what_is_no_desired_is_refused(text: str) -> None:
    with pytest.raises(FactoryError, match=r"desired\.json"):
        parse(text)
