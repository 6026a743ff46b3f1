"""The OpenAI port beside `transformers serve`, field by field: the same requests to both, with the same model.

What differs is written down here, and why in docs/openai.md; a difference that is not written down fails the test, and
so does one that is no longer there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from endpoint import Endpoint
from harness import WORKLOADS, http
from peer import TransformersServe

sys.path.append(str(WORKLOADS / "server" / "testing"))

from hf_models import write_llama

TEMPLATE = """{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
HELLO = [{"role": "user", "content": "the quick brown fox"}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
GREEDY = {"max_tokens": 6, "temperature": 0}


@dataclass(frozen=True)
class Case:
    path: str
    body: dict[str, Any] | None = None
    ours: frozenset[str] = frozenset()
    """What only our answer has, as `field: type`."""
    theirs: frozenset[str] = frozenset()
    statuses: tuple[int, int] = (200, 200)


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, **GREEDY, **fields}


NULLS = {"choices[].logprobs: null", "system_fingerprint: null"}
STREAMED = frozenset({*NULLS, "choices[].finish_reason: null", "usage: null", "[DONE]"})
ERROR = {"error.code: str", "error.message: str", "error.type: str"}
DETAIL = frozenset({"detail: str"})
FIELD, NO_FIELD = frozenset({*ERROR, "error.param: str"}), frozenset({*ERROR, "error.param: null"})
MODELS = frozenset({f"data[].{name}: str" for name in ("id", "object", "owned_by", "root")})
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
PROMPT = {"prompt": "the quick", **GREEDY}
CASES = {
    "chat": Case(CHAT, chat(), frozenset({*NULLS, "choices[].message.refusal: null"})),
    "chat, streamed": Case(CHAT, chat(**USAGE), STREAMED, frozenset({"system_fingerprint: str"})),
    "completion": Case(COMPLETION, PROMPT, frozenset(NULLS)),
    "completion, streamed": Case(COMPLETION, {**PROMPT, **USAGE}, STREAMED),
    "models": Case("/v1/models", None, MODELS | {"data[].created: int", "data[].max_model_len: int"}),
    "health": Case("/health"),
    "another model": Case(CHAT, chat(model="other"), FIELD, DETAIL, (404, 400)),
    "an unknown field": Case(CHAT, chat(colour="red"), FIELD, DETAIL, (400, 422)),
    "an unknown route": Case("/v1/nothing", None, NO_FIELD, DETAIL, (404, 404)),
    "a wrong method": Case(CHAT, None, NO_FIELD, DETAIL, (405, 405)),
}


def fields(value: Any, place: str = "") -> Iterator[str]:
    """Every field of a JSON value, with its type."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from fields(one, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for one in value:
            yield from fields(one, f"{place}[]")
    else:
        yield f"{place}: {'null' if value is None else type(value).__name__}"


def answer(text: str) -> set[str]:
    """The fields of a whole answer, or of all the chunks of a stream together, and its last words."""
    if not text.startswith("data: "):
        return set(fields(json.loads(text)))
    found: set[str] = set()
    for event in filter(None, text.split("\n\n")):
        data = event.removeprefix("data: ")
        found |= {"[DONE]"} if data == "[DONE]" else set(fields(json.loads(data)))
    return found


def said(text: str) -> str:
    """What the model has said."""
    found = ""
    for event in text.split("\n\n"):
        data = event.removeprefix("data: ")
        for choice in json.loads(data).get("choices", []) if data.startswith("{") else []:
            found += choice.get("text") or (choice.get("message") or choice.get("delta") or {}).get("content") or ""
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, TransformersServe]]:
    root, cache = tmp_path_factory.mktemp("both"), ["--cb-block-size", "32", "--cb-num-blocks", "64"]
    folder = write_llama(root / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    pod, peer = Endpoint(root), TransformersServe(folder, root, "--dtype", "float32", *cache)
    try:
        peer.launch()
        pod.open()
        pod.load("tiny", folder)
        peer.wait()
        yield pod, peer
    finally:
        pod.close()
        peer.close()


@pytest.mark.parametrize("name", CASES)
def test_fields_are_those_of_transformers_serve(both: tuple[Endpoint, TransformersServe], name: str) -> None:
    case, (pod, peer) = CASES[name], both
    statuses, found, texts = [], [], []
    for server, model in ((pod, "tiny"), (peer, peer.name)):
        body = None if case.body is None else {"model": model, **case.body}
        status, text = http(server.url + case.path, body, 120, {"Content-Type": "application/json"})
        statuses.append(status)
        found.append(answer(text))
        texts.append(said(text))
    ours, theirs = found
    assert (ours - theirs, theirs - ours, tuple(statuses)) == (case.ours, case.theirs, case.statuses)
    # Half a character at the end is told here only.
    assert texts[0].rstrip("\N{REPLACEMENT CHARACTER}") == texts[1].rstrip("\N{REPLACEMENT CHARACTER}")


def test_what_differs_is_on_the_page() -> None:
    page = (WORKLOADS.parent / "docs/openai.md").read_text()
    told = {name for case in CASES.values() for name in case.ours | case.theirs}
    assert [name for name in sorted(told) if not re.search(rf"`{re.escape(name.split(':')[0])}`", page)] == []
