"""Chat templates: programs in Jinja that come with a model and make a prompt of messages.

They run as transformers runs them (`utils/chat_template_utils.py`), in Jinja's sandbox, and see what they are given and
nothing else.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Marks for training, which mean nothing to jinja2 without an extension; what stands between them is ordinary text.
_TRAINING_MARK = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def compile_template(source: str) -> jinja2.Template:
    """Raises jinja2.TemplateError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(_TRAINING_MARK.sub(_plain, source))


def _plain(mark: re.Match[str]) -> str:
    return f"{{%{mark[1]} {'endif' if mark[2] else 'if true'} {mark[3]}%}}"


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    # Not jinja2's own, which writes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(words: str) -> None:
    raise jinja2.TemplateError(words)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)
