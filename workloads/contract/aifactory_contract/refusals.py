"""What kind of error an engine tells, for those to whom Triton hands on the words alone.

In a stream an error of Triton's has no code. The other way to hear it, `triton_grpc_error` in the metadata of the call,
ends Triton 2.51: it crashes after some hundred refusals. So whoever wants to know sends a parameter with the request,
and the words begin with their kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PARAMETER: Final = "aifactory_error_kind"
"""Parameter of a request: true, if errors are to tell their kind."""
INVALID: Final = "invalid"
"""The request can not be answered, whoever is asked."""
UNAVAILABLE: Final = "unavailable"
"""It can, later or by another pod."""
INTERNAL: Final = "internal"
"""Something else has failed."""
BEGINNING: Final = "aifactory-"
"""Of words whose kind is told."""
_PREFIX: Final = {f"{BEGINNING}{kind}: ": kind for kind in (INVALID, UNAVAILABLE, INTERNAL)}


NO_ROOM: Final = "no room in memory"
"""In the words of an engine that can not be loaded because something else has the memory that it needs."""
_OUT_OF_MEMORY: Final = (NO_ROOM, "out of memory", "can't allocate memory")
"""The same, and as PyTorch says it of a GPU and of a CPU."""


def is_no_room(words: str) -> bool:
    """Whether a load failed for want of memory."""
    return any(known in words for known in _OUT_OF_MEMORY)


def tell(kind: str, words: str, parameters: Mapping[str, Any]) -> str:
    """The words of an error, with its kind for those who asked for it."""
    return f"{BEGINNING}{kind}: {words}" if parameters.get(PARAMETER) else words


def read(words: str) -> tuple[str, str]:
    """The kind of an error, INTERNAL if it is not told, and the words without it."""
    for prefix, kind in _PREFIX.items():
        if words.startswith(prefix):
            return kind, words.removeprefix(prefix)
    return INTERNAL, words
