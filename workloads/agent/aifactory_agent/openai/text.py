"""What the files of a model say about its text: chat template, tokenizer, context, and how its makers sample.

A chat template is a program that came with the model. It runs in jinja2's sandbox, sees the messages and nothing else,
and its errors are the client's: most templates refuse what they were not made for in words of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer

from aifactory_agent.openai.errors import ApiError
from aifactory_agent.openai.toolcalls import speaks_of_calls
from aifactory_agent.templates import compile_template
from aifactory_contract.errors import FactoryError
from aifactory_contract.formats.sentences import recipe_of
from aifactory_contract.userjson import parse_json

THINK = "<think>"
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NO_LIMIT = 10**9
"""Tokenizers without a limit say so by an absurd number."""


class BrokenModel(Exception):
    """The files can not be used; the message names the file."""


@dataclass(frozen=True)
class ModelText:
    """How text goes into one version of a model, and what may be asked for."""

    tokenizer: Tokenizer | None = None
    """None: there is no tokenizer.json, and only the engine can count."""
    template: jinja2.Template | None = None
    special: Mapping[str, str] = field(default_factory=dict)
    """`bos_token` and its like, as templates name them."""
    context: int | None = None
    """Tokens of prompt and answer together."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What the model's makers recommend, for requests that say nothing."""
    thinks: bool = False
    """Whether answers may begin with reasoning between <think> and </think>."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that the engine was given."""
    calls: bool = False
    """Whether the template makes the model call tools, in a form that `toolcalls` understands."""
    adds_bos: bool = False
    """Whether the engine's tokenizer puts the first token before the text by itself."""

    def render(self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
        """The prompt of a conversation. Raises ApiError with the template's own words."""
        if self.template is None:
            message = "this model has no chat template, so it can not chat; ask it by /v1/completions"
            raise ApiError(400, message, code="no_chat_template")
        values = {**self.special, "tools": None, "documents": None, **arguments}
        try:
            text: str = self.template.render({**values, "messages": list(messages), "add_generation_prompt": True})
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            words = f"the model's chat template does not take these messages: {error}"
            raise ApiError(400, words[:1000], param="messages") from error
        # The template writes the first token and the tokenizer would put a second one before it.
        bos = self.special.get("bos_token", "")
        return text[len(bos) :] if bos and self.adds_bos and text.startswith(bos) else text

    def count(self, prompt: str) -> int | None:
        """Tokens of a prompt, as the engine will count them; None if that is not known here."""
        return None if self.tokenizer is None else len(self.tokenizer.encode(prompt).ids)

    def begins_thinking(self, prompt: str) -> bool:
        """Whether the prompt has opened the reasoning already, as some templates do."""
        return self.thinks and prompt.rstrip().endswith(THINK)


def read_model_text(folder: Path) -> ModelText:
    """Read a version's directory. Raises BrokenModel."""
    config = _json(folder / "config.json")
    tokens = _json(folder / "tokenizer_config.json")
    special = _special_tokens(folder, tokens)
    engine = _json(folder / "model.json")
    source = _template_source(folder, tokens)
    tokenizer = _tokenizer(folder / "tokenizer.json")
    return ModelText(
        tokenizer=tokenizer,
        template=_compiled(source),
        special=special,
        context=_context(config, tokens, engine),
        sampling=_sampling(_json(folder / "generation_config.json")),
        thinks=source is not None and THINK in source,
        adapters=tuple(sorted(_json(folder / "multi_lora.json") if engine.get("enable_lora") is True else ())),
        calls=source is not None and speaks_of_calls(source),
        adds_bos=_adds_bos(tokenizer, tokens, special.get("bos_token")),
    )


def read_encoder_text(folder: Path) -> ModelText:
    """Of an embedding model, whose engine counts the tokens. Raises BrokenModel."""
    try:
        return ModelText(context=recipe_of(folder).max_tokens)
    except (FactoryError, OSError) as error:
        raise BrokenModel(str(error)) from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BrokenModel(f"{path.name} can not be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _tokenizer(path: Path) -> Tokenizer | None:
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing narrower
        raise BrokenModel(f"{path.name} can not be read: {error}") from error
    # What was set for training would be cut here too, and the count would be wrong.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _template_source(folder: Path, tokens: Mapping[str, Any]) -> str | None:
    """The default template: a file of its own, or in tokenizer_config.json, where it may be one of several."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text()
        except (OSError, ValueError) as error:
            raise BrokenModel(f"{path.name} can not be read: {error}") from error
    found = tokens.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _compiled(source: str | None) -> jinja2.Template | None:
    try:
        return None if source is None else compile_template(source)
    except jinja2.TemplateError as error:
        raise BrokenModel(f"the chat template can not be read: {error}") from error


def _special_tokens(folder: Path, tokens: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in {**_json(folder / "special_tokens_map.json"), **tokens}.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _context(*configs: Mapping[str, Any]) -> int | None:
    """The smallest limit that any of the files states."""
    config, tokens, engine = configs
    inner = config.get("text_config")
    stated = [config.get(name) for name in _CONTEXT_FIELDS]
    stated += [inner.get(name) for name in _CONTEXT_FIELDS] if isinstance(inner, dict) else []
    stated += [tokens.get("model_max_length"), engine.get("max_model_len")]
    limits = [int(one) for one in stated if isinstance(one, int | float) and 0 < one < _NO_LIMIT]
    return min(limits, default=None)


def _sampling(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in _SAMPLING_FIELDS if isinstance(config.get(name), int | float)}


def _adds_bos(tokenizer: Tokenizer | None, tokens: Mapping[str, Any], bos: str | None) -> bool:
    if bos is None:
        return False
    if tokenizer is None:
        return tokens.get("add_bos_token") is True
    before = tokenizer.encode("").tokens
    return bool(before) and before[0] == bos
