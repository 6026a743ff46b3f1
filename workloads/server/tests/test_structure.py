"""Answers that keep to a JSON schema, of models that would say anything else."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import llguidance.hf
import pytest
import torch
from hf_models import write_llama
from kept import Kept
from transformers import AutoTokenizer

from aifactory_server.engines import tags
from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import BadRequest
from aifactory_server.engines.sampling import Sampling
from aifactory_server.engines.structure import Structure

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


def call(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    begin, end = f'<tool_call>\n{{"name": "{name}", "arguments": ', "}\n</tool_call>"
    return {"begin": begin, "content": {"type": "json_schema", "json_schema": schema}, "end": end}


def calls(*tags: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "tags": list(tags), "separator": "\n", "at_least_one": True, **more}


def tagged(form: dict[str, Any]) -> dict[str, Any]:
    return {"type": "structural_tag", "format": form}


FLAG = {
    "type": "object",
    "properties": {"on": {"$ref": "#/$defs/b"}},
    "required": ["on"],
    "additionalProperties": False,
}
FLAG["$defs"] = {"b": {"type": "boolean"}}
ROOM = {"enum": ["größer", 7]}
_CALL = re.compile(r'<tool_call>\n\{"name": "(switch|room)", "arguments": (.*?)\}\n</tool_call>(?:\n|$)', re.DOTALL)


def test_calls_keep_to_the_schema_of_what_they_call(engine: Engine) -> None:
    form = tagged(calls(call("switch", FLAG), call("room", ROOM)))
    answers = [kept(engine, form, seed, temperature=100.0).wait() for seed in range(6)]
    found = [_CALL.findall(answer.text) for answer in answers]
    assert {name for each in found for name, _ in each} == {"switch", "room"}
    for each in found:
        for name, arguments in each:
            jsonschema.validate(json.loads(arguments), {"switch": FLAG, "room": ROOM}[name])
    for answer in answers:
        assert not _CALL.sub("", answer.text) or answer.reason == "length"
    once = kept(engine, tagged(calls(call("switch", FLAG), stop_after_first=True))).wait()
    assert (once.reason, len(_CALL.findall(once.text))) == ("stop", 1)


def test_an_answer_keeps_to_one_of_several_forms(engine: Engine) -> None:
    form = tagged({"type": "or", "elements": [{"type": "json_schema", "json_schema": FLAG}, calls(call("room", ROOM))]})
    texts = [kept(engine, form, seed, temperature=100.0, max_tokens=100).wait().text for seed in range(8)]
    told = [text for text in texts if text.startswith("{")]
    called = [text for text in texts if text.startswith("<tool_call>\n{")]
    assert len(told) + len(called) == len(texts)
    assert told
    assert called
    for text in told:
        jsonschema.validate(json.loads(text), FLAG)


def test_a_mark_that_is_a_token_of_its_own_may_be_that_token(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</tool_call>"]})
    words = llguidance.hf.from_tokenizer(tokenizer)
    structure = Structure(words, json.dumps(tagged(calls(call("room", {"const": 1})))), {tokenizer.eos_token_id})
    end = tokenizer.convert_tokens_to_ids("</tool_call>")
    for token in tokenizer.encode('<tool_call>\n{"name": "room", "arguments": 1}\n', add_special_tokens=False):
        assert structure.allowed()[token]
        structure.take(token)
    allowed = structure.allowed()
    assert allowed[end]
    assert allowed[tokenizer.encode("<", add_special_tokens=False)[-1]], "or as it is spelled"
    structure.take(end)
    assert structure.allowed()[tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (None, "format of type None; json_schema, or, tag and tags_with_separator are known"),
        ({"type": "regex", "pattern": "a"}, "format of type 'regex'"),
        ({"type": "json_schema", "json_schema": 7}, "json_schema that is no object"),
        ({"type": "json_schema", "json_schema": {"type": "nothing"}}, "Invalid type: nothing"),
        ({"type": "or", "elements": []}, "no list of elements"),
        (calls(), "no list of tags"),
        (calls("x"), "tags that are no objects"),  # type: ignore[arg-type]
        (calls({**call("f", {}), "end": ""}), "a tag without text in begin and end"),
        (calls(call("f", {}), at_least_one=False), "must have at_least_one"),
        (calls(call("f", {}), separator=""), "tags_with_separator without text in separator"),
        (calls(call("f" * tags.MAX_LENGTH, {})), f"{tags.MAX_LENGTH} at most are read"),
    ],
)
def test_a_structural_tag_that_is_not_known_is_refused(form: Any, told: str, engine: Engine) -> None:
    with pytest.raises(BadRequest, match=f"structured_outputs has a .*{re.escape(told)}"):
        kept(engine, tagged(form))


def test_a_structural_tag_that_is_nested_without_end_is_refused(engine: Engine) -> None:
    form: dict[str, Any] = {"type": "json_schema", "json_schema": {}}
    for _ in range(50):
        form = {"type": "or", "elements": [form]}
    with pytest.raises(BadRequest, match="is nested deeper than 8"):
        kept(engine, tagged(form))


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
