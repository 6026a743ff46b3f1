"""Reading what a training program left in its termination log.

torchrun's `@record` writes the root cause there as JSON when TORCHELASTIC_ERROR_FILE points to it
(https://docs.pytorch.org/docs/stable/elastic/errors.html); anything else is taken as plain text.
"""

from __future__ import annotations

import json
from typing import Any


def root_cause(text: str) -> tuple[str, str]:
    """Exception name and the last line of the message; empty strings when there is none.

    >>> root_cause('{"message": {"message": "ValueError: lr must be positive", "extraInfo": {"py_callstack": "..."}}}')
    ('ValueError', 'ValueError: lr must be positive')
    """
    text = text.strip()
    if not text:
        return "", ""
    message = _message(text)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return "", ""
    last = lines[-1]
    name, separator, _ = last.partition(":")
    return (name if separator and name.isidentifier() else ""), last


def _message(text: str) -> str:
    try:
        document: Any = json.loads(text)
    except ValueError:
        return text
    while isinstance(document, dict) and "message" in document:
        document = document["message"]
    return document if isinstance(document, str) else text
