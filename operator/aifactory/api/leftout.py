"""What stands beside a model and is no part of it: the pods that publish and verify tell what they have left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

MAX_PATHS = 20
MAX_LENGTH = 256

Paths = Annotated[tuple[Annotated[str, Field(max_length=MAX_LENGTH)], ...], Field(max_length=MAX_PATHS)]


def left_out(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `left_out` and `left_out_files` of a status, by what a pod has answered; None stands for nothing."""
    told, count = answer.get("leftOut"), answer.get("leftOutFiles")
    listed = [path for path in told if isinstance(path, str)] if isinstance(told, list) else []
    total = min(count, 2**31 - 1) if isinstance(count, int) else 0
    paths = tuple(path[:MAX_LENGTH] for path in listed[:MAX_PATHS])
    return {"left_out": paths or None, "left_out_files": max(total, len(listed)) or None}


def left_out_words(files: int | None, field: str) -> str:
    """What a message says of it, "" if it is nothing; `field` is where the paths are."""
    if not files:
        return ""
    return f"; {files} file{'s' if files > 1 else ''} beside the model left out ({field})"
