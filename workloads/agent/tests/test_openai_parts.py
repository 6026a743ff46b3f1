"""Parts of the OpenAI door that need no process: what is read, split, rendered and limited."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_agent.openai.door import Door
from aifactory_agent.openai.errors import ApiError
from aifactory_agent.openai.limits import Limits
from aifactory_agent.openai.listener import Listener
from aifactory_agent.openai.loading import Loading
from aifactory_agent.openai.reasoning import Reasoning
from aifactory_agent.openai.text import BrokenModel, read_model_text
from aifactory_agent.openai.toolcalls import Calls, speaks_of_calls
from aifactory_agent.openai.wishes import read_chat, read_completion
from aifactory_contract.files import write_atomically

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("messages", "prompt", "n", "stop", "seed", "stream", "stream_options", "logprobs", "top_logprobs", "tools")
FIELDS += ("max_tokens", "temperature", "echo", "best_of", "chat_template_kwargs", "response_format", "modalities")
FIELDS += ("tool_choice", "parallel_tool_calls")
FUNCTION = st.fixed_dictionaries({"name": ANYTHING, "arguments": ANYTHING | st.just("{}"), "parameters": ANYTHING})
TOOL = st.fixed_dictionaries({"type": ANYTHING | st.just("function"), "function": ANYTHING | FUNCTION})
ROLES = st.sampled_from(["user", "assistant", "tool"])
MESSAGE = st.fixed_dictionaries(
    {"role": ANYTHING | ROLES, "content": ANYTHING, "tool_calls": ANYTHING | st.lists(TOOL, max_size=2)}
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5), st.lists(MESSAGE, max_size=2))
def test_any_body_is_read_or_refused_with_words(body: dict[str, Any], messages: list[Any]) -> None:
    for read, field in ((read_chat, {"messages": messages}), (read_completion, {"prompt": "x"})):
        for document in (body, {**body, "model": "m", **field}):
            try:
                read(document)
                continue
            except ApiError as error:
                refusal = error
            assert refusal.status == 400
            assert refusal.message
            json.dumps(refusal.as_json())


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "</x>"}}\n</tool_call>'
TOLD = ("f", '{"a": "</x>"}')
MARKED = '<tool_call>{"name": "f", "arguments": {"a": "x \\\\\\" </tool_call> y"}}</tool_call>'
CALLED = {
    f"a b \n{CALL}\n": ("a b", [TOLD]),
    f"{CALL}\n{CALL} c  d": ("c  d", [TOLD, TOLD]),
    '<tool_call>{"name": "f", "arguments": {"a": "</x>"}}': ("", [TOLD]),
    "<tool_call>f()</tool_call>": ("<tool_call>f()</tool_call>", []),
    f"{MARKED} c {CALL}": ("c", [("f", '{"a": "x \\\\\\" </tool_call> y"}'), TOLD]),
    MARKED.removesuffix("</tool_call>"): ("", [("f", '{"a": "x \\\\\\" </tool_call> y"}')]),
    f'<tool_call>"</tool_call>{CALL}': ('<tool_call>"</tool_call>', [TOLD]),
    f'<tool_call>{{"name": "f</tool_call> b\n{CALL}\n{CALL}': ('<tool_call>{"name": "f</tool_call> b', [TOLD, TOLD]),
    '<tool_call>{"name": "f", "arg': ('<tool_call>{"name": "f", "arg', []),
    "a <tool_cal": ("a <tool_cal", []),
    "a  b \n": ("a  b \n", []),
    "": ("", []),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CALLED)), st.data())
def test_calls_are_the_same_however_the_text_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    calls = Calls()
    found = [calls.feed(text[start:end]) for start, end in pairwise([0, *cuts, len(text)])]
    found.append(calls.end())
    said = "".join(part for part, _ in found)
    assert (said, [(call.name, call.arguments) for _, told in found for call in told]) == CALLED[text]


def test_an_answer_full_of_marks_is_read_soon() -> None:
    calls, began = Calls(inside=True), time.process_time()
    for _ in range(30_000):
        calls.feed("</tool_call>")
    calls.feed('"')
    for _ in range(30_000):
        calls.feed("<tool_call>")
        calls.feed('"</tool_call>')
    calls.end()
    assert time.process_time() - began < 5


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_answer_that_may_be_calls_or_none_is_one_of_both(cut: int) -> None:
    def read(text: str) -> tuple[str, int]:
        calls, told, number = Calls(alone=True), "", 0
        for place in range(0, len(text), cut):
            said, made = calls.feed(text[place : place + cut])
            told, number = told + said, number + len(made)
        said, made = calls.end()
        return told + said, number + len(made)

    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read(f"{call}\n{call}") == ("", 2)
    assert read(f" \n{call}") == ("", 1)
    for text in (f'{{"a": "b  {call} "}} ', f' ["<tool_call>"]{call}', "<tool", "<x>", "7"):
        assert read(text) == (text, 0)


def test_which_templates_make_a_model_call_tools_as_is_understood_here() -> None:
    assert speaks_of_calls("within <tool_call></tool_call> XML tags")
    assert not speaks_of_calls("<tool_call><function=name><parameter=x></tool_call>")
    assert not speaks_of_calls("{{ tools }}")


ANSWERS = {
    "<think>a b\n</think>\n\nc d": ("a b", "c d"),
    " \n<think> a </think>c</think>": ("a", "c</think>"),
    "<think>never closed </thin": ("never closed </thin", ""),
    "<think></think>": ("", ""),
    "<thin air": ("", "<thin air"),
    " <thi": ("", " <thi"),
    "plain <think>x</think>": ("", "plain <think>x</think>"),
    "": ("", ""),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ANSWERS)), st.data())
def test_reasoning_is_the_same_however_it_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    split = Reasoning(inside=False)
    told = [split.feed(piece) for piece in pieces] + [split.end()]
    assert ("".join(one for one, _ in told), "".join(two for _, two in told)) == ANSWERS[text]


def test_reasoning_is_told_as_it_comes() -> None:
    split = Reasoning(inside=True)
    assert [split.feed(piece) for piece in ("\na", " b", " <", "c", "</think>", "\n", "d")] == [
        ("a", ""),
        (" b", ""),
        ("", ""),
        (" <c", ""),
        ("", ""),
        ("", ""),
        ("", "d"),
    ]


def rendered(folder: Path, template: str, **arguments: Any) -> str:
    write_atomically(folder / "chat_template.jinja", template)
    return read_model_text(folder).render([{"role": "user", "content": "<b>ü"}], arguments)


def test_templates_are_rendered_as_their_makers_mean_them(tmp_path: Path) -> None:
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "from the old place"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    assert rendered(tmp_path, "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}") == "<s><b>ü</s>"
    assert rendered(tmp_path, "{{ messages[0] | tojson }}") == '{"role": "user", "content": "<b>ü"}'
    assert rendered(tmp_path, "a\n{% generation %}\nb\n{%- endgeneration %}\n c") == "a\nb c"
    assert rendered(tmp_path, "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}") == "1"
    assert rendered(tmp_path, "{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert rendered(tmp_path, "{{ tools is none }} {{ enable_thinking }}", enable_thinking=False) == "True False"
    (tmp_path / "chat_template.jinja").unlink()
    assert read_model_text(tmp_path).render([], {}) == "from the old place"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_can_only_fail(tmp_path: Path, template: str) -> None:
    with pytest.raises(ApiError, match="chat template does not take these messages") as error:
        rendered(tmp_path, template)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("tokenizer.json", "[]"),
        ("chat_template.jinja", "{% if %}"),
        ("tokenizer_config.json", "\xff"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(BrokenModel, match=name.replace("chat_template.jinja", "the chat template")):
        read_model_text(tmp_path)


@pytest.mark.parametrize(
    ("files", "context"),
    [
        ({"config": {"max_position_embeddings": 100}, "tokenizer_config": {"model_max_length": 10**30}}, 100),
        ({"config": {"n_positions": 100}, "model": {"max_model_len": 50}}, 50),
        ({"config": {"text_config": {"max_position_embeddings": 70}}}, 70),
        ({"config": {"max_position_embeddings": "many"}}, None),
        ({}, None),
    ],
)
def test_the_context_is_the_smallest_that_is_stated(tmp_path: Path, files: dict[str, Any], context: int | None) -> None:
    for name, document in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert read_model_text(tmp_path).context == context


class Alone:
    """A door on a port of its own, in this process, in front of nothing."""

    def __init__(self, **limits: Any) -> None:
        nothing: Any = None
        self._limits = Limits(**limits)
        self._door = Door(nothing, nothing, self._limits, lambda one: self.listener.age(one), Loading(None))

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.listener = Listener(self._door.handle, self._limits)
        self._runner = web.ServerRunner(self.listener, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self._reader, self._writer = await asyncio.open_connection(host, port)
        return self._reader, self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._runner.cleanup()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def ask() -> bytes:
        async with Alone(body_seconds=0.2) as (reader, writer):
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            async with asyncio.timeout(5):
                return await reader.readuntil(b"\r\n\r\n")

    assert b"408" in asyncio.run(ask()).split(b"\r\n")[0]


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHo", HEALTH])
def test_a_silent_connection_is_closed(said: bytes) -> None:
    async def ask() -> bytes:
        async with Alone(idle_seconds=0.3) as (reader, writer):
            writer.write(said)
            async with asyncio.timeout(5):
                return await reader.read()

    assert asyncio.run(ask()).count(b"200 OK") == said.count(HEALTH)


def test_an_old_connection_is_given_up_with_an_answer() -> None:
    async def ask(seconds: float) -> bytes:
        async with Alone(connection_seconds=seconds) as (reader, writer):
            writer.write(HEALTH)
            async with asyncio.timeout(5):
                return await reader.readuntil(b"\r\n\r\n")

    assert b"Connection: close" in asyncio.run(ask(-1))
    assert b"Connection: close" not in asyncio.run(ask(60))


def test_the_page_tells_the_limits() -> None:
    page = (Path(__file__).parents[3] / "docs" / "openai.md").read_text()
    limits = Limits()
    for told in (
        f"| {limits.body_bytes // 2**20} MiB, whole within {limits.body_seconds:.0f} s |",
        f"| {limits.answer_tokens}, and the model's context |",
        f"| sequences at the same time | {limits.sequences} |",
        f"| connections | {limits.connections}; a silent one is closed after {limits.idle_seconds:.0f} s |",
        f"| time for an answer | {limits.seconds:.0f} s |",
        f"older than {limits.connection_seconds:.0f} s is closed",
    ):
        assert told in page
