"""Conversations, one a line: {"messages": [{"role": "user", "content": "..."}, ...]}, as chat templates take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aifactory_contract.data.lines import check_whole

Message = dict[str, str]
"""Its role and its content."""
_ROLES = ("system", "user", "assistant")
_LINE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
EXAMPLE = f"one conversation a line, {_LINE}"


def parse(document: Any) -> tuple[Message, ...]:
    """The messages of a line, which end with the assistant's. Raises ValueError."""
    found = document.get("messages") if isinstance(document, dict) else None
    if not (isinstance(found, list) and found):
        raise ValueError(f'it has no list "messages": {_LINE}')
    checked = tuple(message(each, f"messages[{index}]") for index, each in enumerate(found))
    check_order(checked, "messages")
    return checked


def message(given: Any, place: str) -> Message:
    """A message: who says what. Raises ValueError."""
    role, said = (given.get("role"), given.get("content")) if isinstance(given, dict) else (None, None)
    if role not in _ROLES:
        raise ValueError(f"{place} has the role {role!r:.40}; the roles are {', '.join(_ROLES)}")
    return {"role": role, "content": content(said, f"{place} ({role})")}


def content(given: Any, place: str) -> str:
    """A text that is not empty and can be written. Raises ValueError."""
    if not (isinstance(given, str) and given.strip()):
        raise ValueError(f"{place} has no content; it is a text that is not empty")
    check_whole(given, place)
    return given


def check_order(found: Sequence[Message], name: str, last: str = "assistant") -> None:
    """Whether they take turns, and whose the last one is. Raises ValueError.

    Args:
        name: of the list, for messages.
    """
    roles = [each["role"] for each in found]
    first = int(roles[0] == "system")
    for index, role in enumerate(roles[first:], start=first):
        expected = ("user", "assistant")[(index - first) % 2]
        if role != expected:
            raise ValueError(
                f"{name}[{index}] is of the {role} where the {expected} is next: after at most one message of the "
                "system, user and assistant take turns"
            )
    if roles[-1] != last:
        why = "there is no answer to learn" if last == "assistant" else "there is nothing to answer"
        raise ValueError(f"the last message is not the {last}'s, so {why}")
