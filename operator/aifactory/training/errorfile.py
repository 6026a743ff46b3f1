"""Reading what a training program left in its termination log.

torchelastic writes the root cause as JSON to TORCHELASTIC_ERROR_FILE, and so does `aifactory_trainer`
(https://docs.pytorch.org/docs/stable/elastic/errors.html). A program that knows neither leaves nothing, and the
kubelet takes the end of its log instead: there the exception is looked for, because torchrun's own summary comes after.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit))(?::\s|$)")
_RANK_PREFIX = re.compile(r"^(?:\[\w+\]:?\s*)+")
"""PyTorch puts `[rank0]: ` before the lines of a traceback."""
_TORCHRUN_SUMMARY = "ChildFailedError"
_TORCHRUN_EXIT = re.compile(r"^exitcode\s*:\s*(-?\d+)")


@dataclass(frozen=True, slots=True)
class RootCause:
    """What ended the program, in its own words; empty when it said nothing."""

    name: str = ""
    """Name of the exception."""
    message: str = ""
    exit_code: int | None = None
    """Exit code of the process that failed; torchrun, which is the container's process, always ends with 1."""


def root_cause(text: str) -> RootCause:
    """The root cause in a termination message.

    >>> root_cause('{"message": {"message": "ValueError: lr must be positive", "extraInfo": {"py_callstack": "..."}}}')
    RootCause(name='ValueError', message='ValueError: lr must be positive', exit_code=None)
    """
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):  # anybody's log may begin with ten thousand brackets
        return _from_log(text)
    code = None
    while isinstance(document, dict) and "message" in document:
        found = document.get("errorCode")
        code = found if isinstance(found, int) and not isinstance(found, bool) and found != 0 else code
        document = document["message"]
    if not isinstance(document, str):
        return _from_log(text)
    message = " ".join(document.split())
    name, colon, _ = message.partition(":")
    return RootCause(name if colon and name.isidentifier() else "", message, code)


def _from_log(text: str) -> RootCause:
    """The last exception in the end of a log, or the last line with words in it."""
    lines = [_RANK_PREFIX.sub("", line.strip()) for line in text.splitlines()]
    lines = [line for line in lines if any(map(str.isalnum, line))]
    if not lines:
        return RootCause()
    for line in reversed(lines):
        name = _exception(line)
        if name and name != _TORCHRUN_SUMMARY:
            return RootCause(name, line)
    codes = [int(match[1]) for match in map(_TORCHRUN_EXIT.match, lines) if match]
    if codes:
        return RootCause(
            message=f"a process that torchrun started ended with exit code {codes[-1]}", exit_code=codes[-1]
        )
    return RootCause(message=lines[-1])


def _exception(line: str) -> str:
    match = _EXCEPTION.match(line)
    return match[1] if match else ""
