"""Answers that keep to a JSON schema, of models that would say anything else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hf_models import write_llama
from kept import Kept

from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import BadRequest
from aifactory_server.engines.sampling import Sampling

from .test_paged import GIB, ask, reference

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", "größer", None, 7]},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "references": {
        "$defs": {"point": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "choice": {"anyOf": [{"const": "no"}, {"type": "integer", "minimum": 10, "maximum": 99}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    made = Engine(PagedModel(folder, torch.device("cpu"), lambda: 4 * GIB, slots=4), Limits(slots=4))
    made.start()
    yield made
    made.stop(0)


def kept(engine: Engine, schema: dict[str, Any], seed: int = 0, **more: Any) -> Kept:
    sampling = Sampling(temperature=more.pop("temperature", 1.0))
    more = {"max_tokens": 200, **more}
    return ask(engine, "x", sampling=sampling, seed=seed, structured_outputs=json.dumps(schema), **more)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_that_ends_is_whole_and_by_the_schema(name: str, engine: Engine) -> None:
    answers = [kept(engine, SCHEMAS[name], seed).wait() for seed in range(6)]
    ended = [answer for answer in answers if answer.reason == "stop"]
    assert ended, [answer.text for answer in answers]
    for answer in ended:
        jsonschema.validate(json.loads(answer.text), SCHEMAS[name])
    again = kept(engine, SCHEMAS[name], 3).wait()
    assert again.text == answers[3].text


def test_whoever_asks_beside_it_gets_the_model_s_own_answer(folder: Path, engine: Engine) -> None:
    expected = reference(folder, "the quick", 40)
    beside = kept(engine, SCHEMAS["object"], max_tokens=40)
    free = ask(engine, "the quick", max_tokens=40)
    assert free.wait().text == expected
    assert beside.wait().text.startswith("{")


def test_an_answer_cut_by_its_length_is_the_beginning_of_one(engine: Engine) -> None:
    answer = kept(engine, {"type": "array", "items": {"const": 1}, "minItems": 50}, max_tokens=9).wait()
    assert (answer.reason, answer.tokens) == ("length", 9)
    assert set(answer.text) <= set("[1, \n\t\r")


def test_it_ends_though_the_end_of_a_text_is_ignored(engine: Engine) -> None:
    answer = kept(engine, {"const": {"a": 1}}, ignore_eos=True, min_tokens=100).wait()
    assert (answer.reason, json.loads(answer.text)) == ("stop", {"a": 1})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nothing"}, "Invalid type"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "string", "pattern": "(?=look)ahead"}, "look"),
        ({"type": "string", "format": "colour"}, "Unknown format"),
        ({"enum": []}, "Unsatisfiable"),
        ({"not": {"type": "string"}}, "not"),
    ],
)
def test_a_schema_that_can_not_be_kept_is_refused(schema: dict[str, Any], told: str, engine: Engine) -> None:
    started = time.monotonic()
    with pytest.raises(BadRequest, match=f"structured_outputs has a schema that can not be kept: .*{told}"):
        kept(engine, schema)
    assert time.monotonic() - started < 2
    assert kept(engine, {"const": 1}).wait().text == "1"
