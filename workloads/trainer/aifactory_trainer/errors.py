"""Say why the process ended, where the operator reads it.

Role: write the exception's text into torchelastic's error file and into the pod's termination log.

What always holds:
- The text fits: a kubelet keeps the last 4096 bytes of the log, so a longer JSON document would arrive without its
  beginning. The call stack is cut, the message is kept.
- The termination log is written by the process that failed. torchrun is meant to copy a worker's error file there, but
  it first removes the file that exists, and a bind mount can not be removed (torch 2.15, ErrorHandler._rm).
- The first cause stays: processes that fail in the wake of another do not overwrite the log.
- Nothing here raises, whatever is full, read-only, mounted or closed: it must not hide the error that is reported.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from aifactory_contract.files import write_atomically

NO_RESTART = 93
"""Exit code that asks not to be restarted (NVIDIA resiliency extension's convention)."""

TERMINATED = 143
"""Exit code of a process that ended because it was asked to: 128 + SIGTERM."""

_LIMIT_BYTES = 4096
_LENGTHS = ((1500, 1500), (1200, 0), (400, 0))
"""Characters of message and call stack, from the best to one that always fits: JSON may need 6 bytes for each."""


def record(message: str, *, stack: str = "", code: int = 1) -> None:
    """Write why the process ends.

    Args:
        message: `ExceptionName: text`, as `torch.distributed.elastic`'s `@record` writes it.
        stack: the formatted traceback.
        code: the exit code the process is going to have. torchrun itself always ends with 1, so this is the only way
            on which the code of the program gets out of the pod.
    """
    try:
        document = _document(message, stack, code)
        log = _termination_log()
        error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if error_file and Path(error_file) != log:
            # torchrun reads it while it ends the others: it must find all of it or nothing.
            _write(Path(error_file), document, write_atomically)
        if log is not None and not _has_text(log):
            _write(log, document, Path.write_text)  # in place: a mount point can not be renamed over
    except Exception as problem:
        _complain(f"aifactory: why the process ends can not be written: {type(problem).__name__}")


def record_exception(error: BaseException) -> None:
    """Write an exception that is about to end the process."""
    name = type(error).__name__
    try:
        stack, text = "".join(traceback.format_exception(error)), str(error)
    except Exception as problem:
        stack, text = "", f"its text can not be read: {type(problem).__name__}"
    record(f"{name}: {text}", stack=stack)


def install() -> None:
    """Make every exception that ends the process reach the error file; called by `Run` and `start`."""
    if sys.excepthook is not _report_and_print:
        global _previous_hook
        _previous_hook = sys.excepthook
        sys.excepthook = _report_and_print


def give_up(message: str) -> NoReturn:
    """End the process so that the job is not restarted, because a restart would end the same.

    Raises:
        SystemExit: with code 93.
    """
    _complain(message)
    record(f"NoRestart: {message}", code=NO_RESTART)
    raise SystemExit(NO_RESTART)


_previous_hook = sys.__excepthook__


def _report_and_print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        record_exception(error)
    _previous_hook(kind, error, trace)


def _document(message: str, stack: str, code: int) -> str:
    """torchelastic's error file; its agent needs the timestamp (seconds, as text) and tells by it who failed first."""
    now = str(int(time.time()))
    for characters, stack_characters in _LENGTHS:
        extra = {"py_callstack": stack[-stack_characters:] if stack_characters else "", "timestamp": now}
        body = {"message": _middle_out(message, characters), "extraInfo": extra, "errorCode": code}
        text = json.dumps({"message": body})
        if len(text) <= _LIMIT_BYTES:
            break
    return text


def _middle_out(message: str, characters: int) -> str:
    """The beginning names the exception and the last line is the cause, so a long message loses its middle."""
    if len(message) <= characters:
        return message
    return f"{message[: characters // 3]} ... {message[-characters * 2 // 3 :]}"


def _termination_log() -> Path | None:
    """Where Kubernetes takes the termination message from, when this is a pod."""
    path = Path(os.environ.get("AIFACTORY_TERMINATION_LOG") or "/dev/termination-log")
    try:
        return path if path.is_file() else None
    except OSError:
        return None


def _has_text(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _write(path: Path, text: str, write: Callable[[Path, str], object]) -> None:
    try:
        write(path, text)
    except OSError as problem:
        _complain(f"aifactory: {path} can not be written: {problem}")


def _complain(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):  # whoever read it is gone, or it is closed, or there never was one
        pass
