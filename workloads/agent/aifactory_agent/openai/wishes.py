"""What a client asks for, checked: the bodies of `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aifactory_agent.openai.errors import bad
from aifactory_agent.openai.fields import Fields
from aifactory_agent.openai.structures import Structure
from aifactory_contract.userjson import parse_json

MAX_CHOICES = 128
"""Of one request; every choice is a sequence in the engine."""
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 256
_MAX_SCHEMA = 32 * 1024
_MAX_INT = 2**31 - 1
_MAX_SEED = 2**63 - 1
_COMPLETION_TOKENS = 16
"""OpenAI's default for `/v1/completions`."""
_MAX_TOOLS = 128
_ROLES = ("system", "developer", "user", "assistant", "tool")
_NO_FUNCTIONS = "is not supported: write it as tools, as OpenAI's API has them since 2023"


@dataclass(frozen=True)
class Wish:
    """What both kinds of requests have in common."""

    model: str
    sampling: Mapping[str, Any]
    """By the names of vLLM's sampling parameters; what is not said is not there."""
    max_tokens: int | None
    """None: as many as fit."""
    choices: int
    """For each prompt."""
    stream: bool
    include_usage: bool
    logprobs: int | None
    """Alternatives to tell for each token; None: no log probabilities."""


@dataclass(frozen=True)
class Tools:
    """What the answer may call."""

    given: tuple[Mapping[str, Any], ...]
    """As the client has written them; templates take them so."""
    must: tuple[Mapping[str, Any], ...]
    """The functions of which one must be called; none: the model decides."""
    several: bool
    """Whether more than one call may come."""


@dataclass(frozen=True)
class ChatWish:
    """An answer to a conversation."""

    wish: Wish
    messages: tuple[Mapping[str, Any], ...]
    arguments: Mapping[str, Any]
    """For the chat template."""
    tools: Tools | None
    """None: there are none, or none is to be called."""
    structure: Structure | None
    """What the answer is to keep to, unless it calls tools."""

    @property
    def speaks_of_calls(self) -> bool:
        """Whether the chat template must know calls."""
        return self.tools is not None or any(
            message["role"] == "tool" or "tool_calls" in message for message in self.messages
        )


@dataclass(frozen=True)
class CompletionWish:
    """Texts to go on with."""

    wish: Wish
    prompts: tuple[str, ...]
    echo: bool


def read_chat(body: Mapping[str, Any]) -> ChatWish:
    """Raises ApiError that names the field."""
    fields = Fields(body)
    messages = _messages(fields.take("messages"))
    for name in ("functions", "function_call"):
        fields.refuse(name, _NO_FUNCTIONS)
    tools = _tools(fields)
    structure = _structure(fields.mapping("response_format"))
    fields.refuse("modalities", 'must be ["text"]: nothing else is made here', ["text"])
    arguments = dict(fields.mapping("chat_template_kwargs"))
    if (effort := fields.text("reasoning_effort")) is not None:
        arguments["reasoning_effort"] = effort
    old, new = (fields.integer(name, 1, _MAX_INT) for name in ("max_tokens", "max_completion_tokens"))
    wanted, alternatives = fields.flag("logprobs"), fields.integer("top_logprobs", 0, 20)
    if alternatives is not None and not wanted:
        raise bad("top_logprobs", "needs logprobs to be true")
    wish = _wish(fields, new if new is not None else old, (alternatives or 0) if wanted else None, prompts=1)
    return ChatWish(wish, messages, arguments, tools, structure)


def read_completion(body: Mapping[str, Any]) -> CompletionWish:
    """Raises ApiError that names the field."""
    fields = Fields(body)
    prompts = _prompts(fields.take("prompt"))
    echo = fields.flag("echo")
    fields.refuse("suffix", "is not supported: the engines only go on from a prompt")
    max_tokens = fields.integer("max_tokens", 1, _MAX_INT)
    logprobs = fields.integer("logprobs", 0, 5)
    if echo and logprobs is not None:
        raise bad("logprobs", "can not be had of the prompt: leave out echo, or logprobs")
    choices, best = body.get("n") or 1, fields.integer("best_of", 1, MAX_CHOICES)
    if best is not None and best != choices:
        raise bad("best_of", "must be n: every choice that is made is told", "unsupported_parameter")
    wish = _wish(fields, max_tokens or _COMPLETION_TOKENS, logprobs, prompts=len(prompts))
    return CompletionWish(wish, prompts, echo)


def _tools(fields: Fields) -> Tools | None:
    value, choice = fields.take("tools"), fields.take("tool_choice")
    several = fields.take("parallel_tool_calls")
    if several is not None and not isinstance(several, bool):
        raise bad("parallel_tool_calls", "must be true or false")
    tools = _tool_list(value)
    named = _named(choice)
    if not tools and (named is not None or choice == "required"):
        raise bad("tool_choice", "needs tools: there are none that could be called")
    if named is None and choice not in (None, "none", "auto", "required"):
        raise bad(
            "tool_choice", 'must be "none", "auto", "required", or {"type": "function", "function": {"name": "f"}}'
        )
    if not tools or choice == "none":
        return None
    functions = [tool["function"] for tool in tools]
    must = functions if choice == "required" else [one for one in functions if one["name"] == named]
    if named is not None and not must:
        raise bad("tool_choice", f"names {named!r}, which is none of tools")
    return Tools(tuple(tools), tuple(must), several is not False)


def _tool_list(value: Any) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MAX_TOOLS:
        raise bad("tools", f"must be a list of up to {_MAX_TOOLS}")
    for place, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise bad(
                f"tools[{place}]", 'must be like {"type": "function", "function": {"name": "f", "parameters": {}}}'
            )
        if not isinstance(function.get("parameters") or {}, dict):
            raise bad(f"tools[{place}].function.parameters", "must be a JSON schema")
    return value


def _named(choice: Any) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _structure(given: Mapping[str, Any]) -> Structure | None:
    """Of `response_format`."""
    if not given:
        return None
    fields = Fields(given, "response_format.")
    kind, named = fields.text("type"), fields.mapping("json_schema")
    fields.end()
    if kind not in ("text", "json_object", "json_schema"):
        raise bad("response_format.type", "must be one of text, json_object, json_schema")
    if kind != "json_schema":
        return {"json_object": True} if kind == "json_object" else None
    inner = Fields(named, "response_format.json_schema.")
    # Kept to strictly in any case; the rest is for people.
    inner.flag("strict")
    inner.ignore("name", "description")
    schema = inner.mapping("schema")
    inner.end()
    if not schema:
        raise bad("response_format.json_schema.schema", 'is missing: give a JSON schema, such as {"type": "object"}')
    try:
        length = len(json.dumps(schema))
    except RecursionError as error:
        raise bad("response_format.json_schema.schema", "is nested too deep") from error
    if length > _MAX_SCHEMA:
        raise bad("response_format.json_schema.schema", f"has {length} characters; {_MAX_SCHEMA} at most are read")
    return {"json": schema}


def _wish(fields: Fields, max_tokens: int | None, logprobs: int | None, *, prompts: int) -> Wish:
    """The fields that both kinds have; there must be no others left."""
    model = fields.text("model")
    if not model:
        raise bad("model", "is missing: name one of those that /v1/models lists")
    choices = fields.integer("n", 1, MAX_CHOICES) or 1
    if choices * prompts > MAX_CHOICES:
        raise bad("n", f"times the prompts must be at most {MAX_CHOICES}, it is {choices * prompts}")
    stream, options = fields.flag("stream"), Fields(fields.mapping("stream_options"), "stream_options.")
    include_usage = options.flag("include_usage")
    options.ignore("include_obfuscation")
    options.end()
    if include_usage and not stream:
        raise bad("stream_options", "needs stream to be true")
    fields.refuse("logit_bias", "is not supported; leave it out")
    fields.refuse("store", "is not supported: nothing is kept here; leave it out")
    fields.ignore("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
    sampling = _sampling(fields)
    fields.end()
    return Wish(model, sampling, max_tokens, choices, stream, include_usage, logprobs)


def _sampling(fields: Fields) -> dict[str, Any]:
    found = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": _positive("top_p", fields.number("top_p", 0, 1)),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "seed": fields.integer("seed", -_MAX_SEED - 1, _MAX_SEED),
        "stop": _stops(fields.take("stop")),
        # What OpenAI does not know and vLLM's clients use.
        "top_k": fields.integer("top_k", -1, _MAX_INT),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": _positive("repetition_penalty", fields.number("repetition_penalty", 0, 10)),
        "min_tokens": fields.integer("min_tokens", 0, _MAX_INT),
        "ignore_eos": fields.flag("ignore_eos") or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _positive(name: str, value: float | None) -> float | None:
    if value == 0:
        raise bad(name, "must be more than 0")
    return value


def _stops(value: Any) -> list[str] | None:
    stops = [value] if isinstance(value, str) else value
    if stops is None or stops == []:
        return None
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise bad("stop", f"must be a string or a list of up to {_MAX_STOPS}")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= _MAX_STOP_LENGTH:
            raise bad("stop", f"must be strings of 1 to {_MAX_STOP_LENGTH} characters")
    return stops


def _prompts(value: Any) -> tuple[str, ...]:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts or len(prompts) > MAX_CHOICES:
        raise bad("prompt", f"must be a string or a list of up to {MAX_CHOICES}")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise bad("prompt", "must be text: the engines take no lists of token numbers", "unsupported_parameter")
    return tuple(prompts)


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise bad("messages", 'must be a list like [{"role": "user", "content": "Hello"}]')
    return tuple(_message(f"messages[{place}]", message) for place, message in enumerate(value))


def _message(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad(place, 'must be an object like {"role": "user", "content": "Hello"}')
    fields = Fields(value, f"{place}.")
    role = fields.text("role")
    if role not in _ROLES:
        raise bad(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    content = _content(f"{place}.content", fields.take("content"))
    calls = _calls(f"{place}.tool_calls", fields.take("tool_calls")) if role == "assistant" else []
    if content is None and not calls:
        raise bad(f"{place}.content", "is missing")
    # Templates know no developers: to them it is the system's message, as it was called before.
    message: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content or ""}
    if calls:
        message["tool_calls"] = calls
    for name in ("name", "reasoning_content", "tool_call_id"):
        if (text := fields.text(name)) is not None:
            message[name] = text
    fields.refuse("function_call", _NO_FUNCTIONS)
    fields.refuse("audio", "is not supported: only text is taken")
    # An answer of before, as the `openai` package writes it down.
    fields.ignore("refusal", "annotations")
    fields.end()
    return message


def _calls(place: str, value: Any) -> list[Mapping[str, Any]]:
    """Calls of an answer of before, their arguments as objects, which templates write as they need them."""
    if not isinstance(value or [], list):
        raise bad(place, "must be a list")
    found: list[Mapping[str, Any]] = []
    for number, call in enumerate(value or []):
        function = call.get("function") if isinstance(call, dict) else None
        name, text = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
        try:
            arguments = parse_json(text or "{}") if isinstance(text, str) else None
        except ValueError as error:
            raise bad(f"{place}[{number}].function.arguments", f"is not JSON: {error}") from error
        if not isinstance(name, str) or not isinstance(arguments, dict):
            example = '{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}'
            raise bad(f"{place}[{number}]", f"must be like {example}")
        function = {"name": name, "arguments": arguments}
        found.append({"id": call.get("id"), "type": "function", "function": function})
    return found


def _content(place: str, value: Any) -> str | None:
    """One text; the parts of a list each on a line of its own."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad(place, "must be a string or a list of parts")
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise bad(place, 'takes parts like {"type": "text", "text": "Hello"} only', "unsupported_parameter")
        texts.append(part["text"])
    return "\n".join(texts)
