"""What jobs learn from, by format: which files there are and what must be true of each line.

The same rules twice: when an input is fetched, before anything holds a GPU, by the format that the job says it has; and
when the training program reads it, since nobody has to say one. Each format is one file here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aifactory_contract.data import chat, preference, text
from aifactory_contract.data.lines import LINES, named_files, read, read_files
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import FORMATS, HUGGINGFACE, check_directory
from aifactory_contract.formats.rules import invalid


def check(directory: Path, form: str, called: str) -> None:
    """Read an input and see whether it is what its format asks for.

    Args:
        form: a name out of `INPUT_FORMATS`, or of a model's format.
        called: what the directory is called in messages.

    Raises:
        FactoryError: InvalidArtifact; the message names the file and line, and the way out.
    """
    if form in _CHECKS:
        _CHECKS[form](directory, called)
    else:
        check_directory(directory, form)


def check_name(form: str) -> None:
    """Whether there is such a format. Raises FactoryError (InvalidArtifact)."""
    if form not in (known := sorted({*INPUT_FORMATS, *FORMATS})):
        message = f"format {form!r} is not known here; write one of: {', '.join(known)}"
        raise FactoryError(Reason.INVALID_ARTIFACT, message)


def _each(parse: Callable[[Any], object], example: str) -> Callable[[Path, str], None]:
    """A check of every line."""

    def check_lines(directory: Path, called: str) -> None:
        for _ in read(directory, parse, example, called):
            pass

    return check_lines


def _check_text(directory: Path, called: str) -> None:
    files = named_files(directory)
    lines = [(name, path) for name, path in files if path.suffix == LINES]
    found = any(path.suffix != LINES and path.stat().st_size for _, path in files)
    for _, document in read_files(lines, text.parse):
        found = found or bool(document)
    if not found:
        raise invalid(f"{called} has no text: {text.NONE}")


_CHECKS: Final[Mapping[str, Callable[[Path, str], None]]] = {
    "chat": _each(chat.parse, chat.EXAMPLE),
    "preference": _each(preference.parse, preference.EXAMPLE),
    "text": _check_text,
}
INPUT_FORMATS: Final = (*_CHECKS, HUGGINGFACE.name)
"""What an input of a job can be said to be; one that is a ModelVersion has that one's format."""
