"""CEL rules in the words of the user: every message says what to write instead."""

from __future__ import annotations

from pydantic.config import JsonDict


def rule(expression: str, message: str) -> JsonDict:
    """One `x-kubernetes-validations` entry."""
    return {"rule": expression, "message": message}


def immutable(field: str) -> JsonDict:
    """The field can be set only when the object is created."""
    return rule("self == oldSelf", f"{field} is immutable: create another object instead")
