"""Reading the fields of a request's body: each is used, or refused by name, and none is ignored in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aifactory_agent.openai.errors import bad


class Fields:
    """The fields that have not been taken yet; `null` is the same as absent, as clients write it.

    Args:
        body: an object of the request.
        place: how the object's fields are called in errors, before their names.
    """

    def __init__(self, body: Mapping[str, Any], place: str = "") -> None:
        self._left = {name: value for name, value in body.items() if value is not None}
        self._place = place

    def take(self, name: str) -> Any:
        """Whatever stands there; None if nothing does."""
        return self._left.pop(name, None)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within limits."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise bad(self._place + name, f"must be a number from {low:g} to {high:g}, it is {_shown(value)}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within limits."""
        value = self.take(name)
        if value is None:
            return None
        whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, int) or whole) or not low <= value <= high:
            raise bad(self._place + name, f"must be a whole number from {low} to {high}, it is {_shown(value)}")
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false, false if absent."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise bad(self._place + name, f"must be true or false, it is {_shown(value)}")
        return bool(value)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise bad(self._place + name, f"must be a string, it is {_shown(value)}")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object, empty if absent."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise bad(self._place + name, f"must be an object, it is {_shown(value)}")
        return value or {}

    def ignore(self, *names: str) -> None:
        """What changes nothing about the answer."""
        for name in names:
            self.take(name)

    def refuse(self, name: str, why: str, *neutral: Any) -> None:
        """A field that only has the values here that ask for nothing: empty ones, and those given."""
        value = self.take(name)
        if value and value not in neutral:
            raise bad(self._place + name, why, "unsupported_parameter")

    def end(self) -> None:
        """All fields must have been taken."""
        if self._left:
            raise bad(self._place + min(self._left), "is not known here; leave it out", "unknown_parameter")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
