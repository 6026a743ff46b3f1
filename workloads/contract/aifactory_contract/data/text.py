"""Documents: each line of a .jsonl file is one, {"text": "..."}, and every other file is one as it is."""

from __future__ import annotations

from typing import Any

from aifactory_contract.data.lines import LINES, check_whole

EXAMPLE = 'a line is one document, {"text": "..."}'
NONE = f"give files of text, or {LINES} files: {EXAMPLE}"
"""What to do where there is none."""


def parse(document: Any) -> str:
    """The text of a line; it may be empty. Raises ValueError."""
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"it has no text: {EXAMPLE}")
    check_whole(text, "text")
    return text
