"""Whether a model's chat template renders: a template that fails would fail every request of a chat.

Jinja's sandbox keeps a template from everything but its own text. That it ends, and with how much memory, is seen to
here: it is rendered (`rendering`) in a process of its own, with limits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from aifactory_contract.formats.rules import Files, invalid

CPU_SECONDS = 10
MEMORY_BYTES = 1 << 30
_WAIT_SECONDS = 60
_TEMPLATE_FILE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MAX_TEMPLATE_BYTES = 1024 * 1024
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_chat_templates(files: Files) -> None:
    """Raises FactoryError (InvalidArtifact) if one of the model's chat templates does not render."""
    config = files.json(_TOKENIZER_CONFIG) if _TOKENIZER_CONFIG in files.sizes else {}
    for place, template in _templates(files, config):
        trouble = _render_aside(template, {name: _word(config.get(name)) for name in _TOKENS})
        if trouble:
            raise invalid(f"the chat template in {place} does not render: {trouble}; mend it, or take it out")


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


def _render_aside(template: str, tokens: Mapping[str, str]) -> str:
    """What is wrong; "" if nothing is."""
    job = json.dumps({"template": template, "tokens": tokens, "cpu": CPU_SECONDS, "memory": MEMORY_BYTES})
    command = [sys.executable, "-m", "aifactory_agent.artifacts.rendering"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            command, input=job, env=env, capture_output=True, text=True, timeout=_WAIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it had not ended after {_WAIT_SECONDS} s"
    if done.returncode == -signal.SIGXCPU:
        return f"it took more than {CPU_SECONDS} s"
    return done.stdout.strip() if done.returncode == 0 else f"it ended with {done.returncode}: {done.stderr[-200:]}"
