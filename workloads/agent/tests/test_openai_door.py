"""The OpenAI door, by the `openai` package, in front of a stand-in for Triton."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from harness import WORKLOADS, wait_for
from pod import CONTEXT, Pod, running_pod, write_files
from stand_in import Answer, Asked, Lost, Refusal, count_up

from aifactory_contract import refusals
from aifactory_contract.files import write_atomically

HELLO: Any = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello there"}]
PROMPT = "<system> be short\n<user> hello there\n<assistant>"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod for tests that leave it as it is."""
    with running_pod(tmp_path_factory.mktemp("pod")) as pod:
        yield pod


@pytest.fixture
def pod(shared: Pod) -> Iterator[Pod]:
    shared.triton.script = count_up
    shared.triton.asked.clear()
    yield shared
    shared.triton.tells_kinds = True


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pod]:
    """A pod for one test."""
    with running_pod(tmp_path) as pod:
        yield pod


def client(pod: Pod, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 20, **options})


def words(*texts: str, finish: str = "stop") -> Any:
    """An engine that says this and ends."""

    def script(_: Asked) -> Iterator[Answer]:
        for place, text in enumerate(texts):
            yield Answer(text, finish if place == len(texts) - 1 else "None")

    return script


def test_a_chat_is_answered(pod: Pod) -> None:
    answer = client(pod).chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=3)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "w0 w1 w2 ", "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.object == "chat.completion"
    assert answer.model == "tiny@1"
    assert answer.id.startswith("chatcmpl-")
    assert str(answer._request_id).startswith("req_")
    (asked,) = pod.triton.asked
    assert asked.prompt == PROMPT
    assert asked.sampling == {"temperature": 1.0, "max_tokens": 3}
    assert "exclude_input_in_output" in asked.flags
    assert "stream" not in asked.flags


def test_a_stream_comes_in_chunks(pod: Pod) -> None:
    options: Any = {"include_usage": True}
    with client(pod).chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=3, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks[:-2]] == ["", "w0 ", "w1 ", "w2 "]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, None, "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 3)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert "stream" in pod.triton.asked[0].flags


def test_a_stream_without_usage_has_none(pod: Pod) -> None:
    chunks = list(client(pod).chat.completions.create(model="tiny", messages=HELLO, max_tokens=1, stream=True))
    assert "usage" not in chunks[-1].model_dump(exclude_unset=True)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_pieces_come_when_the_engine_has_them(pod: Pod) -> None:
    go_on = threading.Event()

    def script(_: Asked) -> Iterator[Answer]:
        yield Answer("first")
        assert go_on.wait(20)
        yield Answer("second", "stop")

    pod.triton.script = script
    texts = []
    with client(pod).completions.create(model="tiny", prompt="x", stream=True) as stream:
        for chunk in stream:
            texts.append(chunk.choices[0].text)
            go_on.set()
    assert texts == ["first", "second"]


def test_the_asynchronous_client_is_answered(pod: Pod) -> None:
    async def ask() -> tuple[str | None, list[str | None]]:
        async with openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=20) as asked:
            whole = await asked.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)
            stream = await asked.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2, stream=True)
            return whole.choices[0].message.content, [one.choices[0].delta.content async for one in stream]

    whole, streamed = asyncio.run(ask())
    assert whole == "w0 w1 "
    assert streamed == ["", "w0 ", "w1 ", None]


def test_prompts_are_completed(pod: Pod) -> None:
    pod.triton.script = lambda asked: [Answer(f" {asked.prompt}-{asked.sampling['seed']}", "stop")]
    answer = client(pod).completions.create(model="tiny", prompt=["one", "two"], n=2, seed=7, echo=True)
    assert [choice.text for choice in answer.choices] == ["one one-7", "one one-8", "two two-7", "two two-8"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    assert answer.object == "text_completion"
    assert {asked.sampling["max_tokens"] for asked in pod.triton.asked} == {16}


def test_choices_are_streamed_side_by_side(pod: Pod) -> None:
    texts = ["", "", ""]
    finished = []
    for chunk in client(pod).chat.completions.create(model="tiny", messages=HELLO, max_tokens=20, n=3, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        finished += [choice.index] if choice.finish_reason else []
    assert texts == ["".join(f"w{number} " for number in range(20))] * 3
    assert sorted(finished) == [0, 1, 2]


def test_sampling_is_handed_on(pod: Pod) -> None:
    client(pod).chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=11,
        stop=["\n", "end"],
        user="somebody",
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 2, "ignore_eos": True},
    )
    assert pod.triton.asked[0].sampling == {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "seed": 11,
        "stop": ["\n", "end"],
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "min_tokens": 2,
        "ignore_eos": True,
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    ("asked", "handed_on"),
    [
        ({"type": "json_object"}, {"json_object": True}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "integer"}}},
            {"json": {"type": "integer"}},
        ),
    ],
)
def test_a_schema_is_handed_on(pod: Pod, asked: Any, handed_on: Any) -> None:
    client(pod).chat.completions.create(model="tiny", messages=HELLO, response_format=asked)
    # A string of JSON is the one form that Triton's vLLM back end takes.
    assert json.loads(pod.triton.asked[0].sampling["structured_outputs"]) == handed_on


def test_an_engine_that_keeps_to_no_schema_is_told_by_the_field_of_the_client(pod: Pod) -> None:
    def script(_: Asked) -> list[Answer]:
        raise Refusal(refusals.INVALID, "structured_outputs is not known to the engine of this model")

    pod.triton.script = script
    with pytest.raises(openai.BadRequestError, match=r"response_format \(or tools .*\) is not") as error:
        client(pod).chat.completions.create(model="tiny", messages=HELLO, response_format={"type": "json_object"})
    assert error.value.param == "response_format"


def test_an_answer_may_fill_the_context(pod: Pod) -> None:
    client(pod).chat.completions.create(model="tiny", messages=HELLO)
    assert pod.triton.asked[0].sampling["max_tokens"] == CONTEXT - 7


LIKELY = [
    {"5": {"logprob": -0.5, "rank": 2, "decoded_token": "é"}, "9": {"logprob": -0.25, "rank": 1, "decoded_token": "a"}},
    {"6": {"logprob": float("-inf"), "rank": 1, "decoded_token": "b"}},
]


def likely(_: Asked) -> Iterator[Answer]:
    yield Answer("é", logprobs=LIKELY[:1])
    yield Answer("b", "stop", logprobs=LIKELY[1:])


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_chat(pod: Pod, stream: bool) -> None:
    pod.triton.script = likely
    if not stream:
        pod.triton.script = lambda _: [Answer("éb", "stop", 2, LIKELY)]
    answer: Any = client(pod).chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, top_logprobs=1, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [(token.token, token.logprob, token.bytes) for token in tokens] == [
        ("é", -0.5, [195, 169]),
        ("b", -9999.0, [98]),
    ]
    assert [[one.token for one in token.top_logprobs] for token in tokens] == [["a"], ["b"]]
    assert pod.triton.asked[0].sampling["logprobs"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_completion(pod: Pod, stream: bool) -> None:
    pod.triton.script = likely
    if not stream:
        pod.triton.script = lambda _: [Answer("éb", "stop", 2, LIKELY)]
    answer: Any = client(pod).completions.create(model="tiny", prompt="x", logprobs=2, stream=stream)
    found = [chunk.choices[0].logprobs for chunk in answer] if stream else [answer.choices[0].logprobs]
    assert [token for one in found for token in one.tokens] == ["é", "b"]
    assert [offset for one in found for offset in one.text_offset] == [0, 1]
    assert [top for one in found for top in one.top_logprobs] == [{"a": -0.25, "é": -0.5}, {"b": -9999.0}]


def test_an_engine_without_log_probabilities_is_told_so(own: Pod) -> None:
    own.triton.without_outputs = {"logprobs"}
    own.serve("plain")
    wait_for("it is offered", lambda: "plain" in own.listed())
    with pytest.raises(openai.BadRequestError, match="plain@1 tells no log probabilities"):
        client(own).chat.completions.create(model="plain", messages=HELLO, logprobs=True)


def test_reasoning_is_told_apart(own: Pod) -> None:
    own.serve("thinker", template="{# <think> #}{% for m in messages %}{{ m.content }}{% endfor %}{{ opening }}")
    wait_for("it is offered", lambda: "thinker" in own.listed())
    own.triton.script = words("<thi", "nk>\nhm", "m \n</th", "ink>\n\n", "42", " it is")
    asked = client(own).chat.completions
    whole: Any = asked.create(model="thinker", messages=HELLO).choices[0].message
    assert (whole.reasoning_content, whole.content) == ("hmm", "42 it is")
    deltas = [chunk.choices[0].delta for chunk in asked.create(model="thinker", messages=HELLO, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "hmm"
    assert [delta.content for delta in deltas if delta.content] == ["42", " it is"]
    # A template may open the reasoning itself.
    own.triton.script = words("hmm</think>42")
    extra = {"chat_template_kwargs": {"opening": "<think>\n"}}
    opened: Any = asked.create(model="thinker", messages=HELLO, extra_body=extra).choices[0].message
    assert (opened.reasoning_content, opened.content) == ("hmm", "42")
    # A schema is for the answer: what the template has opened is closed before it.
    own.triton.script = words('{"a": 1}')
    extra["response_format"] = {"type": "json_object"}
    kept: Any = asked.create(model="thinker", messages=HELLO, extra_body=extra).choices[0].message
    assert (kept.reasoning_content, kept.content) == (None, '{"a": 1}')
    assert own.triton.asked[-1].prompt.endswith("hello there<think>\n\n</think>\n\n")
    own.triton.script = words("no thought")
    plain: Any = asked.create(model="thinker", messages=HELLO).choices[0].message
    assert (plain.reasoning_content, plain.content) == (None, "no thought")


def test_a_model_that_does_not_think_may_say_so(pod: Pod) -> None:
    pod.triton.script = words("<think>no</think>")
    message = client(pod).chat.completions.create(model="tiny", messages=HELLO).choices[0].message
    assert message.content == "<think>no</think>"
    assert not hasattr(message, "reasoning_content")


CALLING = """{{ tools | tojson if tools else "no tools" }}
{%- for m in messages %}<{{ m.role }}> {{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function.arguments.city }}</tool_call>{% endfor -%}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.fixture
def caller(own: Pod) -> Pod:
    own.serve("caller", template=CALLING)
    wait_for("it is offered", lambda: "caller" in own.listed())
    return own


def test_tools_are_called(caller: Pod) -> None:
    caller.triton.script = words("Let me see. \n<tool", CALL[5:20], CALL[20:], f"\n{CALL}\n")
    asked = client(caller).chat.completions
    choice: Any = asked.create(model="caller", messages=HELLO, tools=[WEATHER]).choices[0]
    assert caller.triton.asked[0].prompt.startswith('[{"type": "function", "function": {"name": "weather"')
    assert caller.triton.asked[0].sampling["skip_special_tokens"] is False
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    calls = [(call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [("function", "weather", '{"city": "Zürich"}')] * 2
    assert len({call.id for call in choice.message.tool_calls}) == 2
    # What was called goes back to the model, with what came of it.
    answer = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny"}
    caller.triton.script = words("Sunny.")
    asked.create(model="caller", messages=[*HELLO, choice.message, answer], tools=[WEATHER])
    history = "<assistant> Let me see.<tool_call>Zürich</tool_call><tool_call>Zürich</tool_call><tool> sunny<assistant>"
    assert caller.triton.asked[1].prompt.endswith(history)


def test_calls_are_streamed_whole(caller: Pod) -> None:
    caller.triton.script = words("See: ", CALL[:30], CALL[30:], "\n", CALL)
    stream = client(caller).chat.completions.create(model="caller", messages=HELLO, tools=[WEATHER], stream=True)
    chunks: Any = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "See:"
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert [(call.index, call.function.name, call.function.arguments) for call in calls] == [
        (0, "weather", '{"city": "Zürich"}'),
        (1, "weather", '{"city": "Zürich"}'),
    ]
    assert chunks[-1].finish_reason == "tool_calls"


def test_one_call_and_no_more(caller: Pod) -> None:
    caller.triton.script = words(CALL, CALL)
    message: Any = client(caller).chat.completions.create(
        model="caller", messages=HELLO, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(message.choices[0].message.tool_calls) == 1


def test_no_tool_is_called_where_none_is_to_be(caller: Pod) -> None:
    caller.triton.script = words("plain")
    client(caller).chat.completions.create(model="caller", messages=HELLO, tools=[WEATHER], tool_choice="none")
    assert caller.triton.asked[0].prompt.startswith("no tools<system>")
    assert "skip_special_tokens" not in caller.triton.asked[0].sampling


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_can_be_forced(caller: Pod, choice: Any) -> None:
    caller.triton.script = words('{"name": "weather", ', '"arguments": {"city": "Ulm"}}')
    answer: Any = client(caller).chat.completions.create(
        model="caller", messages=HELLO, tools=[WEATHER, TOOL], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Ulm"}')
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (None, "tool_calls")
    assert caller.triton.asked[0].prompt.endswith("<assistant><tool_call>\n")
    tags = structural_tag(caller)["elements"]
    assert tags[0] == {
        "type": "tag",
        "begin": '{"name": "weather", "arguments": ',
        "content": {"type": "json_schema", "json_schema": WEATHER["function"]["parameters"]},
        "end": "}",
    }
    assert len(tags) == (2 if choice == "required" else 1)


def structural_tag(pod: Pod) -> Any:
    """The format that the engine was asked for; vLLM takes a string of JSON in a string of JSON."""
    tag = json.loads(json.loads(pod.triton.asked[0].sampling["structured_outputs"])["structural_tag"])
    assert tag["type"] == "structural_tag"
    return tag["format"]


SHAPE: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "integer"}}}


@pytest.mark.parametrize("several", [True, False])
def test_a_schema_binds_the_answer_where_tools_may_be_called_instead(caller: Pod, several: bool) -> None:
    def ask(*pieces: str) -> Any:
        caller.triton.script = words(*pieces)
        return client(caller).chat.completions.create(
            model="caller", messages=HELLO, tools=[WEATHER], response_format=SHAPE, parallel_tool_calls=several
        )

    choice = ask(CALL[:9], CALL[9:]).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["weather"]
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    schema, calls = structural_tag(caller)["elements"]
    assert schema == {"type": "json_schema", "json_schema": {"type": "integer"}}
    assert calls["tags"][0]["begin"] == '<tool_call>\n{"name": "weather", "arguments": '
    assert calls["tags"][0]["end"] == "}\n</tool_call>"
    assert calls["stop_after_first"] is not several
    # What is no call is the answer, to the letter.
    said = '{"a": "b  <tool_call>{}</tool_call> "} '
    choice = ask(*said).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (said, None, "stop")


def test_a_schema_is_not_asked_of_an_answer_that_must_be_a_call(caller: Pod) -> None:
    caller.triton.script = words('{"name": "weather", "arguments": {}}')
    asked: Any = {"tools": [WEATHER], "tool_choice": "required", "response_format": SHAPE}
    answer: Any = client(caller).chat.completions.create(model="caller", messages=HELLO, **asked)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather"]
    assert [tag["type"] for tag in structural_tag(caller)["elements"]] == ["tag"]


def test_models_are_called_by_name_and_version(own: Pod) -> None:
    own.serve("tiny", 12)
    own.serve("tiny", 3)
    wait_for("all are offered", lambda: len(own.listed()) == 4)
    assert own.listed() == ["tiny", "tiny@1", "tiny@3", "tiny@12"]
    for name, version in {"tiny": 12, "tiny@3": 3, "tiny@12": 12}.items():
        answer = client(own).completions.create(model=name, prompt="x", max_tokens=1)
        assert (answer.model, own.triton.asked[-1].version) == (f"tiny@{version}", version)
        assert client(own).models.retrieve(name).id == name
    card = client(own).models.list().data[0]
    assert (card.object, card.owned_by, card.created > 0) == ("model", "aifactory", True)
    with pytest.raises(openai.NotFoundError, match=r"'tiny@2' does not exist; this pod serves tiny@1, tiny@3") as error:
        client(own).completions.create(model="tiny@2", prompt="x")
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"


def test_what_the_agent_notes_counts_for_the_next_request(own: Pod) -> None:
    """Both versions go on running, so no request that is late would fail: it would be answered by the wrong one."""
    own.write("tiny", 2)
    for versions in [[1, 2], [1]] * 10:
        own.triton.models["tiny"] = versions
        write_atomically(own.repository / "serving.json", json.dumps({"tiny": versions}))
        answer = client(own).completions.create(model="tiny", prompt="x", max_tokens=1)
        assert answer.model == f"tiny@{versions[-1]}"


def test_a_version_that_goes_is_made_up_for_by_another(own: Pod) -> None:
    own.serve("tiny", 2)
    own.triton.models["tiny"] = [2]  # at this moment, and the door may not know yet
    answer = client(own).completions.create(model="tiny", prompt="x", max_tokens=1)
    assert answer.model == "tiny@2"


def test_a_model_that_is_not_there_yet_is_worth_another_try(own: Pod) -> None:
    write_files(own.models, "later")
    with pytest.raises(openai.InternalServerError, match="later is being loaded") as error:
        client(own).completions.create(model="later", prompt="x")
    assert (error.value.status_code, error.value.response.headers["retry-after"]) == (503, "1")
    own.triton.models["later"] = [1]
    assert client(own).completions.create(model="later", prompt="x", max_tokens=1).model == "later@1"


def test_a_model_of_tensors_is_not_spoken_to(own: Pod) -> None:
    own.triton.tensors.add("classifier")
    own.serve("classifier")
    own.triton.script = count_up
    with pytest.raises(openai.BadRequestError, match="classifier takes tensors, not text; ask Triton's own ports"):
        client(own).completions.create(model="classifier", prompt="x")


def test_a_model_with_broken_files_is_left_out_with_words(own: Pod) -> None:
    write_files(own.models, "broken")
    (own.models / "broken" / "1" / "tokenizer.json").write_text("{}")
    own.triton.models["broken"] = [1]
    with pytest.raises(openai.InternalServerError, match=r"tokenizer\.json can not be read"):
        client(own).completions.create(model="broken", prompt="x")
    assert "broken" not in own.listed()
    assert "tiny" in own.listed()


def test_makers_of_a_model_say_how_it_is_sampled(own: Pod) -> None:
    own.serve("made", generation_config={"temperature": 0.6, "top_k": 20, "do_sample": True, "max_length": 9})
    wait_for("it is offered", lambda: "made" in own.listed())
    client(own).completions.create(model="made", prompt="x", temperature=0.1)
    assert own.triton.asked[0].sampling == {"temperature": 0.1, "top_k": 20, "max_tokens": 16}


def test_the_first_token_is_not_there_twice(own: Pod) -> None:
    own.serve("begins", template="{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}", bos="<s>")
    wait_for("it is offered", lambda: "begins" in own.listed())
    client(own).chat.completions.create(model="begins", messages=HELLO)
    assert own.triton.asked[0].prompt == " be short hello there"
    assert own.triton.asked[0].sampling["max_tokens"] == CONTEXT - 5


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "tiny", "messages": HELLO, **fields}


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": "tiny", "prompt": "x", **fields}


SCHEMA = "response_format.json_schema"


def schema(given: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": given, **more}})


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def called(arguments: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{**TOOL, "id": "1", "function": {"name": "f", "arguments": arguments}}]}


IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]


@pytest.mark.parametrize(
    ("asked", "param", "told"),
    [
        (chat(model=None), "model", "is missing"),
        (chat(messages=[]), "messages", "must be a list like"),
        (chat(messages=[7]), "messages[0]", "must be an object like"),
        (chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "must be one of system, developer"),
        (chat(messages=[{"role": "user"}]), "messages[0].content", "is missing"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "tools", "has no calls in the form of Hermes and Qwen"),
        (chat(messages=[called("[]")]), "messages[0].tool_calls[0]", "must be like"),
        (chat(messages=[called("{")]), "messages[0].tool_calls[0].function.arguments", "is not JSON"),
        (chat(messages=[{"role": "user", "content": IMAGE}]), "messages[0].content", "takes parts like"),
        (chat(messages=[{"role": "user", "content": "x", "colour": 1}]), "messages[0].colour", "is not known"),
        (chat(messages=[{"role": "user", "content": "\ud800"}]), "messages", "half of a surrogate pair"),
        (chat(messages=[{"role": "user", "content": "x " * CONTEXT}]), "messages", "maximum context length is 1000"),
        (chat(max_tokens=CONTEXT - 6), "messages", "has 7 and 994 are asked for"),
        (chat(max_tokens=0), "max_tokens", "must be a whole number from 1"),
        (chat(max_tokens=10**6), "max_tokens", "must be at most 32768 here"),
        (chat(tools=[TOOL]), "tools", "tiny@1: its chat template has no calls in the form of Hermes and Qwen"),
        (chat(tools=[7]), "tools[0]", "must be like"),
        (chat(tools=[TOOL], tool_choice="f"), "tool_choice", "must be"),
        (
            chat(tools=[TOOL], tool_choice={**TOOL, "function": {"name": "g"}}),
            "tool_choice",
            "names 'g', which is none",
        ),
        (chat(tools=[TOOL], parallel_tool_calls="no"), "parallel_tool_calls", "must be true or false"),
        (chat(functions=[TOOL["function"]]), "functions", "write it as tools"),
        (chat(tool_choice="required"), "tool_choice", "needs tools"),
        (chat(response_format="json"), "response_format", "must be an object"),
        (
            chat(response_format={"type": "yaml"}),
            "response_format.type",
            "must be one of text, json_object, json_schema",
        ),
        (chat(response_format={"type": "json_schema"}), f"{SCHEMA}.schema", "is missing: give a JSON schema"),
        (schema({"enum": ["x" * 40_000]}), f"{SCHEMA}.schema", "has 40014 characters; 32768 at most are read"),
        (schema({}, colour=1), f"{SCHEMA}.colour", "is not known"),
        (chat(logit_bias={"5": 1}), "logit_bias", "is not supported"),
        (chat(temperature=2.5), "temperature", "must be a number from 0 to 2, it is 2.5"),
        (chat(temperature="hot"), "temperature", "must be a number from 0 to 2, it is 'hot'"),
        (chat(top_p=0), "top_p", "must be more than 0"),
        (chat(seed=1.5), "seed", "must be a whole number"),
        (chat(stop=[""]), "stop", "must be strings of 1 to 256 characters"),
        (chat(stream=1), "stream", "must be true or false"),
        (chat(stream_options={"include_usage": True}), "stream_options", "needs stream to be true"),
        (chat(n=129), "n", "must be a whole number from 1 to 128"),
        (chat(top_logprobs=2), "top_logprobs", "needs logprobs to be true"),
        (chat(frobnicate=1), "frobnicate", "is not known here; leave it out"),
        (completion(prompt=[1, 2]), "prompt", "take no lists of token numbers"),
        (completion(prompt=""), "prompt", "is empty"),
        (completion(prompt=["x"] * 2, n=100), "n", "times the prompts must be at most 128, it is 200"),
        (completion(suffix="y"), "suffix", "only go on from a prompt"),
        (completion(best_of=3), "best_of", "must be n"),
        (completion(echo=True, logprobs=1), "logprobs", "leave out echo"),
    ],
)
def test_what_can_not_be_is_refused_by_name(pod: Pod, asked: tuple[str, dict[str, Any]], param: str, told: str) -> None:
    status, body = pod.post(*asked)
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert told in error["message"]
    assert pod.triton.asked == []


def test_what_asks_for_nothing_is_no_harm(pod: Pod) -> None:
    path, body = chat(
        tools=[], tool_choice="none", response_format={"type": "text"}, logit_bias={}, stop=None, n=1, store=False
    )
    reply = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "tool_calls": None}
    part = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body["messages"] = [{"role": "developer", "content": "short"}, reply, {"role": "user", "content": part}]
    assert pod.post(path, body)[0] == 200
    assert pod.triton.asked[0].prompt == "<system> short\n<assistant> hi\n<user> a\nb\n<assistant>"


def test_a_template_refuses_in_its_own_words(own: Pod) -> None:
    own.serve("strict", template="{{ raise_exception('roles must alternate') }}")
    own.serve("silent", template=None)
    wait_for("both are offered", lambda: {"strict", "silent"} <= set(own.listed()))
    with pytest.raises(openai.BadRequestError, match="does not take these messages: roles must alternate"):
        client(own).chat.completions.create(model="strict", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="no chat template, so it can not chat; ask it by /v1/completions"):
        client(own).chat.completions.create(model="silent", messages=HELLO)


def test_a_stream_serves_one_sequence_after_the_other_and_ends_soon(pod: Pod) -> None:
    before, own = pod.triton.opened, client(pod)
    for number in range(20):
        answer = own.completions.create(model="tiny", prompt="x", max_tokens=2, stream=number % 2 == 0)
        texts = [chunk.choices[0].text for chunk in answer] if number % 2 == 0 else [answer.choices[0].text]
        assert "".join(texts) == "w0 w1 "
    assert pod.triton.opened - before < 20
    wait_for("none is kept open", lambda: not pod.triton.open, 5)


def test_who_meets_a_stream_that_has_ended_unseen_is_asked_for_again(pod: Pod) -> None:
    asked = []

    def script(one: Asked) -> Iterator[Answer]:
        asked.append(one)
        if len(asked) % 2 == 0:
            raise Lost("Socket closed")
        yield from count_up(one)

    pod.triton.script = script
    own, answered = client(pod), 0
    deadline = time.monotonic() + 30
    while len(asked) < 4 or answered < 3:
        assert time.monotonic() < deadline
        opened = pod.triton.opened
        try:
            own.completions.create(model="tiny", prompt="x", max_tokens=2)
            answered += 1
        except openai.InternalServerError:
            assert pod.triton.opened > opened, "told only where the stream was a new one"


@pytest.mark.parametrize("tells_kinds", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_an_engines_refusal_is_handed_on(pod: Pod, tells_kinds: bool, stream: bool) -> None:
    def script(_: Asked) -> list[Answer]:
        raise Refusal(refusals.INVALID, "top_k is not known")

    pod.triton.script, pod.triton.tells_kinds = script, tells_kinds
    with pytest.raises(openai.APIStatusError, match="top_k is not known") as error:
        client(pod).chat.completions.create(model="tiny", messages=HELLO, stream=stream)
    assert error.value.status_code == (400 if tells_kinds else 500)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("texts", [[], ["half an"]])
def test_half_an_answer_is_an_error(pod: Pod, texts: list[str], stream: bool) -> None:
    pod.triton.script = lambda _: [Answer(text) for text in texts]
    with pytest.raises(openai.APIError, match="dropped the sequence before its end"):
        list(client(pod).completions.create(model="tiny", prompt="x", stream=stream))


def test_an_engine_with_too_much_to_do_is_worth_another_try(pod: Pod) -> None:
    tries = []

    def script(asked: Asked) -> Iterator[Answer]:
        tries.append(asked)
        if len(tries) == 1:
            raise Refusal(refusals.UNAVAILABLE, "256 requests wait already; ask again later")
        yield from count_up(asked)

    pod.triton.script = script
    with pytest.raises(openai.InternalServerError, match="256 requests wait already") as error:
        client(pod).chat.completions.create(model="tiny", messages=HELLO)
    assert (error.value.status_code, error.value.code) == (503, "overloaded")
    tries.clear()
    # What the package does by itself.
    answer = client(pod, max_retries=1).chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
    assert answer.choices[0].message.content == "w0 "


def test_what_grpc_says_of_a_lost_connection_is_not_triton_s(own: Pod) -> None:
    def script(_: Asked) -> Iterator[Answer]:
        raise Lost("Stream removed (Socket closed)")

    own.triton.script = script
    with pytest.raises(openai.InternalServerError, match="engine of this pod is starting again") as error:
        client(own).completions.create(model="tiny", prompt="x")
    assert (error.value.status_code, error.value.code) == (503, "engine_restarting")


def test_triton_may_restart(own: Pod) -> None:
    asked = client(own).chat.completions
    own.triton.script = lambda _: [Answer("before"), Answer("never", "stop", after=30)]
    stream = iter(asked.create(model="tiny", messages=HELLO, stream=True))
    assert next(stream).choices[0].delta.content == ""
    assert next(stream).choices[0].delta.content == "before"
    own.triton.stop()
    with pytest.raises(openai.APIError, match="engine of this pod is starting again"):
        list(stream)
    for _ in range(5):
        started = time.monotonic()
        with pytest.raises(openai.InternalServerError, match="engine of this pod is starting again") as error:
            asked.create(model="tiny", messages=HELLO)
        assert (error.value.status_code, error.value.response.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - started < 1
    assert own.get("/health")[0] == 503
    assert own.get("/healthz")[0] == 200
    assert "tiny" in own.listed()
    own.triton.script = count_up
    own.triton.models["tiny"] = []  # up, and the agent has yet to load the model
    own.triton.start()
    wait_for("Triton is seen", lambda: own.get("/health")[0] == 200, 5)
    with pytest.raises(openai.InternalServerError, match="tiny is being loaded"):
        asked.create(model="tiny", messages=HELLO)
    own.triton.models["tiny"] = [1]
    # Clients with retries need not notice.
    assert client(own, max_retries=2).chat.completions.create(model="tiny", messages=HELLO, max_tokens=1).choices


def test_a_door_may_come_before_triton(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    pod.serve("tiny")
    try:
        pod.start()
        with pytest.raises(openai.InternalServerError, match="tiny is being loaded"):
            client(pod).completions.create(model="tiny", prompt="x")
        pod.triton.start()
        wait_for("the model is offered", lambda: "tiny" in pod.listed(), 10, pod.tail)
    finally:
        assert pod.end() == 0
        pod.triton.stop()


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_sequences_at_once(pod: Pod, stream: bool, choices: int) -> None:
    pod.triton.script = lambda _: [Answer("a"), Answer("b", "stop", after=30)]
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": stream, "n": choices}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", pod.port)) as connection:
        connection.sendall(head + body)
        wait_for("the engine works", lambda: len(pod.triton.asked) == choices)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    left = time.monotonic()
    wait_for("all are freed", lambda: all(asked.gone.is_set() for asked in pod.triton.asked), 5)
    assert max(asked.gone_at for asked in pod.triton.asked) - left < 0.2


def test_many_are_answered_at_once(pod: Pod) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=60) as asked:

            async def one(number: int) -> str:
                prompt = f"{number} " * (number * 40)  # the long ones are made in threads
                answer = await asked.completions.create(model="tiny", prompt=prompt or "0", max_tokens=5)
                return answer.choices[0].text + str(answer.usage.prompt_tokens if answer.usage else None)

            return await asyncio.gather(*(one(number) for number in range(24)))

    assert asyncio.run(ask()) == [f"w0 w1 w2 w3 w4 {max(1, number * 40)}" for number in range(24)]


def round_trips() -> float:
    """Of a few bytes between two coroutines over a socket, a second of CPU time."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def ask(count: int) -> float:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            began = time.process_time()
            for _ in range(count):
                writer.write(b"x" * 200)
                await reader.read(4096)
            taken = time.process_time() - began
            writer.close()
            await writer.wait_closed()
        return count / taken

    return asyncio.run(ask(5000))


def test_a_token_costs_what_a_few_round_trips_do() -> None:
    """By the port's own CPU time, in front of an engine that answers at once. Sockets cost several times as much on one
    machine as on another; on a slow one a token took the time of three round trips (4,020 and 12,343 a CPU second)."""
    program = WORKLOADS / "agent/testing/door_throughput.py"
    told = subprocess.run([sys.executable, program, "8", "1000"], check=True, capture_output=True, text=True).stdout
    speed = re.search(r"(\d+) tokens per CPU second", told)
    assert speed is not None, told
    plain = round_trips()
    print(f"{told}{plain:.0f} round trips per CPU second")
    assert int(speed[1]) >= plain / 6


def test_a_long_prompt_stalls_nobody(own: Pod) -> None:
    loops = "{% for a in range(2000) %}{% for b in range(2000) %}{% endfor %}{% endfor %}"
    own.serve("slow", template=loops + "{% for m in messages %}{{ m.content }}{% endfor %}")
    wait_for("it is offered", lambda: "slow" in own.listed())
    long: Any = [{"role": "user", "content": "x " * 10_000}]
    done = threading.Event()

    def ask() -> None:
        with pytest.raises(openai.BadRequestError, match="context"):
            client(own).chat.completions.create(model="slow", messages=long)
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    others = 0
    while not done.is_set():
        started = time.monotonic()
        assert own.get("/healthz")[0] == 200
        assert time.monotonic() - started < 1
        others += 1
    thread.join()
    assert others > 3


def test_requests_are_told_by_their_ids(pod: Pod) -> None:
    given = httpx.get(f"{pod.url}/v1/models", headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = httpx.get(f"{pod.url}/v1/models", headers={"X-Request-Id": "x" * 65})
    assert made.headers["x-request-id"].startswith("req_")
    failed = httpx.post(f"{pod.url}/v1/completions", json={})
    assert failed.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/models/..%2F..", 404, "model_not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_other_paths_are_answered_in_the_same_shape(pod: Pod, method: str, path: str, status: int, code: str) -> None:
    answer = httpx.request(method, pod.url + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_embeddings_are_refused_with_words(pod: Pod) -> None:
    with pytest.raises(openai.BadRequestError, match="tiny@1 generates text; it makes no embeddings"):
        client(pod).embeddings.create(model="tiny", input="x")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(pod: Pod, body: bytes) -> None:
    answer = httpx.post(f"{pod.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_bodies_sequences_and_connections_are_limited(tmp_path: Path) -> None:
    options = ("--max-body-bytes", "5000", "--max-sequences", "2", "--max-connections", "3", "--max-seconds", "1")
    with running_pod(tmp_path, *options) as pod:
        answer = httpx.post(f"{pod.url}/v1/completions", json={"model": "tiny", "prompt": "x" * 6000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        pod.triton.script = lambda _: [Answer("a", "stop", after=30)]
        with pytest.raises(openai.InternalServerError, match="is at work on 0 sequences") as error:
            client(pod).completions.create(model="tiny", prompt="x", n=3)
        assert (error.value.status_code, error.value.code) == (503, "overloaded")
        with client(pod) as own, pytest.raises(openai.InternalServerError, match="was not whole after 1 s") as late:
            own.completions.create(model="tiny", prompt="x", n=2)
        assert late.value.status_code == 504
        wait_for("Triton has heard of it", lambda: all(asked.gone.is_set() for asked in pod.triton.asked))
        connections = [socket.create_connection(("127.0.0.1", pod.port)) for _ in range(3)]
        wait_for("there are too many", lambda: pod.get("/healthz")[0] == 503)
        connections.pop().close()
        wait_for("one may come again", lambda: pod.get("/healthz")[0] == 200)
        for connection in connections:
            connection.close()
