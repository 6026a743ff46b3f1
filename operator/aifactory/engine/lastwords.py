"""Which lines matter of what a container has left, and how its end is called: one place for every kind.

Kubernetes hands on 4096 bytes at most: what the program wrote to its termination log, else the last 2048 of its log.
torchelastic writes the root cause as JSON to TORCHELASTIC_ERROR_FILE, and so does `aifactory_trainer`
(https://docs.pytorch.org/docs/stable/elastic/errors.html). In a log these are looked for, in this order: the exception
of the rank that failed first (torchrun's summary names it) with the line of the program that led to it; what CUDA,
NCCL, the C++ runtime and the kernel say; else its last lines.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

_TAIL: Final = 600
"""Characters of last lines, where nothing in them stands out."""
_MORE_LINES: Final = 3
"""Of an exception's text after its first line."""

_PREFIX = re.compile(r"^(?:\[[A-Za-z_]+(\d+)\]: ?)+")
"""PyTorch puts `[rank0]: ` before the lines of a traceback, torchrun `[default0]:` before those of a worker."""
_FRAME = re.compile(r'(\s+)File "([^"]+)", line (\d+), in (\S+)')
_LIBRARY = re.compile(r"/(?:site|dist)-packages/|/lib/python3|^<frozen ")
_NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?::\s|:?$)")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit)(?::\s|:?$)")
"""One whose traceback is not in sight."""
_END_OF_TEXT = re.compile(r"\s*(?:$|Traceback|[EWIF]\d{4} |[=-]{5}|During handling|The above exception|\[|\S+ FAILED)")
_TORCHRUN = "ChildFailedError"
_RANK = re.compile(r"^ *rank *: (\d+) \(local_rank: (\d+)\)", re.MULTILINE)
_EXIT = re.compile(r"^ *exitcode *: (-?\d+)", re.MULTILINE)
"""These stand in torchrun's summary, last for the rank that failed first. Its beginning may be cut off."""
_OF_TORCHRUN = re.compile(rf'failed \(exitcode|File "[^"]*(?:torchrun|torch/distributed/)|{_TORCHRUN}|^=+$')
_NOT_OF_PROGRAM = re.compile(r"\s|Traceback|[EWI]\d{4} ")
_TELLING = re.compile(
    r"CUDA (?:error|out of memory)|NCCL (?:WARN|error)|nccl[A-Z]\w+Error|Watchdog caught|terminate called|what\(\): "
    r"|^Fatal Python error|[Bb]us error|(?:insufficient|out of) shared memory|No space left on device"
    r"|Cannot allocate memory|[Ss]egmentation fault"
)
_SHM = re.compile(
    r"(?:/dev/shm|</torch_|shared memory)[^\n]*No space left|No space left[^\n]*/dev/shm"
    r"|(?:insufficient|out of|allocate) shared memory"
)
_SHM_ADVICE: Final = (
    "; /dev/shm is full: raise resources.limits.memory, which it shares (or the sizeLimit of your own volume there), "
    "or use less of it: fewer DataLoader workers, smaller batches"
)
_SIGNALS: Final = {
    135: ", mostly a /dev/shm that is full",
    -7: ", mostly a /dev/shm that is full",
    137: ", mostly by the kubelet after a failed probe or hook: kubectl describe pod tells",
    -9: ", mostly by the kernel at the memory limit",
}
"""What is behind a signal where Kubernetes gives no reason; a memory limit that ends the container has one."""


@dataclass(frozen=True, slots=True)
class RootCause:
    """What ended the program, in its own words; empty when it said nothing."""

    name: str = ""
    """Name of the exception."""
    message: str = ""
    exit_code: int | None = None
    """Exit code of the process that failed; torchrun, which is the container's process, always ends with 1."""
    rank: int | None = None
    """Its rank, where torchrun tells."""


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception in a log."""

    line: int
    rank: str
    name: str
    text: str
    traced: bool
    """Its traceback is in sight."""


def ending(exit_code: int, reason: str = "") -> str:
    """How a process ended, in words: `exit code 139 (SIGSEGV)`. Negative codes are Python's for signals."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    if reason in ("", "Error") and number in set(signal.Signals):
        reason = signal.Signals(number).name + _SIGNALS.get(exit_code, "")
    return f"exit code {exit_code}" + (f" ({reason})" if reason not in ("", "Error", "Completed") else "")


def root_cause(text: str, tail: int = _TAIL) -> RootCause:
    """The root cause in a termination message; of a log in which nothing stands out, `tail` characters of its end.

    >>> root_cause('{"message": {"message": "ValueError: lr must be positive", "errorCode": 2}}')
    RootCause(name='ValueError', message='ValueError: lr must be positive', exit_code=2, rank=None)
    """
    found = _from_json(text) or _from_log(text, tail)
    return replace(found, message=found.message + advice(text))


def advice(text: str) -> str:
    """What to do about a /dev/shm that is full, which programs tell in many ways; empty where it is not."""
    return _SHM_ADVICE if _SHM.search(text) else ""


def _from_json(text: str) -> RootCause | None:
    """What torchelastic's error file says; None if it is none."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):  # anybody's log may begin with ten thousand brackets
        return None
    code, stack = None, ""
    while isinstance(document, dict) and "message" in document:
        found = document.get("errorCode")
        code = found if isinstance(found, int) and not isinstance(found, bool) and found != 0 else code
        extra = document.get("extraInfo")
        stack = str(extra.get("py_callstack", "")) if isinstance(extra, dict) else stack
        document = document["message"]
    if not isinstance(document, str):
        return None
    message = " ".join(document.split())
    name, colon, _ = message.partition(":")
    where = _where([frame for line in stack.splitlines() if (frame := _FRAME.match(line))])
    return RootCause(name if colon and name.isidentifier() else "", message + where, code)


def _from_log(text: str, tail: int) -> RootCause:
    codes, ranks = _EXIT.findall(text), _RANK.findall(text)
    code, rank = int(codes[-1]) if codes else None, int(ranks[-1][0]) if ranks else None
    raised = [found for found in _exceptions(text) if found.name != _TORCHRUN]
    if ranks and (first := [found for found in raised if found.rank in ranks[-1]]):
        raised = first
    raised = [found for found in raised if found.traced] or raised
    name, parts = (raised[-1].name, [raised[-1].text]) if raised else ("", [])
    telling = [" ".join(_PREFIX.sub("", line).split()) for line in text.splitlines() if _TELLING.search(line)]
    parts += [line for line in dict.fromkeys(telling) if not raised or line not in raised[-1].text][:2]
    if not parts:
        lines = text.splitlines()
        if code is not None:
            end = next((number for number, line in enumerate(lines) if _OF_TORCHRUN.search(line)), len(lines))
            lines = [line for line in lines[:end] if not _NOT_OF_PROGRAM.match(line)]
        parts = _tail(lines, tail)
    return RootCause(name, " | ".join(parts), code, rank)


def _exceptions(text: str) -> list[_Raised]:
    """All in a log, in its order; ranks that speak at the same time are told apart where their lines say who speaks."""
    speakers: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(text.splitlines()):
        prefix = _PREFIX.match(line)
        speakers.setdefault(prefix[1] if prefix else "", []).append((number, line[prefix.end() if prefix else 0 :]))
    found = (each for rank, lines in speakers.items() for each in _raised(rank, lines))
    return sorted(found, key=lambda each: each.line)


def _raised(rank: str, lines: Sequence[tuple[int, str]]) -> Iterable[_Raised]:
    frames: list[re.Match[str]] = []
    told = 0
    for position, (number, line) in enumerate(lines):
        stripped = line.strip()
        if position < told:
            continue  # it belongs to the text before
        if (frame := _FRAME.match(line)) is not None:
            frames.append(frame)
        elif frames and (not stripped or len(line) - len(line.lstrip()) >= len(frames[-1][1])):
            continue  # source code below its frame
        elif frames or _EXCEPTION.match(stripped):
            text = [stripped]
            for _, more in lines[position + 1 : position + 1 + _MORE_LINES]:
                if _END_OF_TEXT.match(more):
                    break
                text.append(" ".join(more.split()))
            name, told = _NAME.match(stripped), position + len(text)
            yield _Raised(number, rank, name[1] if name else "", " ".join(text) + _where(frames), bool(frames))
            frames = []


def _where(frames: Sequence[re.Match[str]]) -> str:
    """The last line of the program itself that is on the way to the exception: ` (train.py:7 in main)`."""
    own = [frame for frame in frames if not _LIBRARY.search(frame[2])] or frames
    return f" ({own[-1][2]}:{own[-1][3]} in {own[-1][4]})" if own else ""


def _tail(lines: Sequence[str], left: int) -> list[str]:
    """The last lines that have words in them, as many as fit."""
    kept: list[str] = []
    for line in reversed(lines):
        text = " ".join(line.split())
        if any(map(str.isalnum, text)):
            left -= len(text) + 3
            if kept and left < 0:
                break
            kept.append(text)
    return kept[::-1]
