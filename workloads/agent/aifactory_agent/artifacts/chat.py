"""Whether a language model's chat templates render and its tokenizer loads: one that fails would fail every request.

Jinja's sandbox keeps a template from everything but its own text. That both end, and with how much memory, is seen to
by `aside`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aifactory_agent.artifacts.aside import tried_aside
from aifactory_contract.formats.rules import Files, invalid

_TEMPLATE_FILE = "chat_template.jinja"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MAX_TEMPLATE_BYTES = 1024 * 1024
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_language(files: Files) -> None:
    """Raises FactoryError (InvalidArtifact) if a chat template of the model does not render, or its tokenizer does not
    load. Of the tokenizers' forms only tokenizer.json is tried: it is what a pod's OpenAI port reads."""
    config = files.json(_TOKENIZER_CONFIG) if _TOKENIZER_CONFIG in files.sizes else {}
    for place, template in _templates(files, config):
        trouble = tried_aside("render", template.encode(), tokens={name: _word(config.get(name)) for name in _TOKENS})
        if trouble:
            raise invalid(f"the chat template in {place} does not render: {trouble}; mend it, or take it out")
    if _TOKENIZER in files.sizes:
        with files.open(_TOKENIZER) as stream:
            trouble = tried_aside("tokenize", stream.read())
        if trouble:
            raise invalid(f"{_TOKENIZER} does not load: {trouble}; write it with a current tokenizer.save_pretrained")


def _templates(files: Files, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where each is, and its text."""
    if _TEMPLATE_FILE in files.sizes:
        if files.sizes[_TEMPLATE_FILE] > _MAX_TEMPLATE_BYTES:
            raise invalid(f"{_TEMPLATE_FILE} has {files.sizes[_TEMPLATE_FILE]} bytes; that is no template")
        with files.open(_TEMPLATE_FILE) as stream:
            yield _TEMPLATE_FILE, stream.read(_MAX_TEMPLATE_BYTES).decode(errors="replace")
    found = config.get("chat_template")
    for entry in found if isinstance(found, list) else [{"name": "default", "template": found}]:
        template = entry.get("template") if isinstance(entry, dict) else None
        if isinstance(template, str):
            yield _TOKENIZER_CONFIG, template


def _word(token: Any) -> str:
    """A special token is a string, or an object with the string and how it is cut out of a text."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
