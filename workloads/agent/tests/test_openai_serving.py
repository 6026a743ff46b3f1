"""The OpenAI port with nothing stood in for: what only the server's own engine can show."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from endpoint import Endpoint
from harness import WORKLOADS, wait_for

sys.path.append(str(WORKLOADS / "server" / "testing"))

from hf_models import write_llama

TEMPLATE = """{{ bos_token }}{% if tools %}<tool_call></tool_call>{{ tools | tojson }}{% endif %}
{%- for m in messages %}<{{ m.role }}> {{ m.content }}
{% endfor %}<assistant>"""
HELLO: Any = [{"role": "user", "content": "hi"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One that computes one sequence at a time."""
    root = tmp_path_factory.mktemp("serving")
    folder = write_llama(root / "model", max_position_embeddings=1024)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    pod = Endpoint(root, AIFACTORY_ENGINE_SLOTS="1")
    try:
        pod.open()
        pod.load("tiny", folder)
        yield pod
    finally:
        pod.close()


@pytest.fixture(scope="module")
def client(pod: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_an_answer_keeps_to_a_schema(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "response_format": FORMAT, "max_tokens": 300}
    whole = client.chat.completions.create(**asked, n=3, seed=1)
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, seed=1, stream=True)
    )
    assert text == whole.choices[0].message.content


def test_a_schema_that_can_not_be_kept_is_refused_by_the_client_s_field(client: openai.OpenAI) -> None:
    wrong: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": {"type": "nothing"}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"response_format .* Invalid type: nothing") as error:
            client.chat.completions.create(model="tiny", messages=HELLO, response_format=wrong, stream=stream)
        assert error.value.param == "response_format"


def test_a_schema_binds_the_answer_and_the_arguments_of_the_tools_that_may_be_called(client: openai.OpenAI) -> None:
    inner = {"$defs": {"thing": SCHEMA}, "type": "object", "properties": {"thing": {"$ref": "#/$defs/thing"}}}
    inner |= {"required": ["thing"], "additionalProperties": False}
    tools: Any = [{"type": "function", "function": {"name": "paint", "parameters": inner}}]
    asked: Any = {"model": "tiny", "messages": HELLO, "tools": tools, "response_format": FORMAT, "max_tokens": 150}
    told = called = 0
    for seed in range(6):
        (choice,) = client.chat.completions.create(**asked, seed=seed, temperature=2, parallel_tool_calls=False).choices
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
            told += 1
        elif choice.finish_reason == "tool_calls":
            (call,) = choice.message.tool_calls or ()
            assert call.type == "function"
            jsonschema.validate(json.loads(call.function.arguments), inner)
            called += 1
    assert told + called > 0


def test_a_forced_call_has_arguments_by_its_schema(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}]
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, tools=tools, tool_choice="required", max_tokens=300, seed=2
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "paint"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_sequence_within_200_ms(
    pod: Endpoint, client: openai.OpenAI, stream: bool
) -> None:
    """When the next one, which waits for its place, has its answer. The best of three: others use this machine too."""
    body = {"model": "tiny", "prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": stream}

    def load() -> list[float]:
        return [pod.real.metric(f"aifactory_requests_{what}", model="tiny") for what in ("running", "waiting")]

    def next_one() -> float:
        client.completions.create(model="tiny", prompt="y", max_tokens=1)
        return time.monotonic()

    def seconds() -> float:
        wait_for("nothing is computed", lambda: load() == [0, 0], 10, pod.tail)
        connection = http.client.HTTPConnection("127.0.0.1", pod.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        wait_for("it is computed", lambda: load() == [1, 0], 10, pod.tail)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next_one)
            wait_for("another one waits", lambda: load() == [1, 1], 10, pod.tail)
            left = time.monotonic()
            connection.close()
            return following.result() - left

    found = [seconds() for _ in range(3)]
    assert 0 < min(found) < 0.2, found
