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
