"""Preferences, one a line, in the form that Hugging Face's trl has for them:

    {"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}

or without `prompt`, with two whole conversations that differ in their last message. An answer may be a text.
"""

from __future__ import annotations

from typing import Any

from aifactory_contract.data import chat
from aifactory_contract.data.chat import Message

_LINE = '{"prompt": [{"role": "user", "content": "..."}], "chosen": "a good answer", "rejected": "a worse one"}'
EXAMPLE = f"one preference a line, {_LINE}"


def parse(document: Any) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The conversation with the answer that is wanted, and with the other. Raises ValueError."""
    if not (isinstance(document, dict) and document.get("chosen") and document.get("rejected")):
        raise ValueError(f'it has no "chosen" and "rejected": {_LINE}')
    prompt = _prompt(document["prompt"]) if "prompt" in document else ()
    chosen, rejected = ((*prompt, *_answer(document[name], name, bool(prompt))) for name in ("chosen", "rejected"))
    for name, found in (("chosen", chosen), ("rejected", rejected)):
        chat.check_order(found, f"prompt and {name}" if prompt else name)
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last message: they are to answer the same question")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same, so nothing says which is better")
    return chosen, rejected


def _prompt(given: Any) -> tuple[Message, ...]:
    if not (isinstance(given, list) and given):
        raise ValueError(
            f'"prompt" is no list of messages; leave it out where the answers are whole conversations: {_LINE}'
        )
    return tuple(chat.message(each, f"prompt[{index}]") for index, each in enumerate(given))


def _answer(given: Any, name: str, prompt: bool) -> tuple[Message, ...]:
    if isinstance(given, str) and prompt:
        return ({"role": "assistant", "content": chat.content(given, name)},)
    if not isinstance(given, list):
        raise ValueError(f'"{name}" is no list of messages, nor a text with a "prompt": {_LINE}')
    return tuple(chat.message(each, f"{name}[{index}]") for index, each in enumerate(given))
