"""CEL rules in the words of the user: every message says what to write instead."""

from __future__ import annotations


def rule(expression: str, message: str) -> dict[str, str]:
    """One `x-kubernetes-validations` entry."""
    return {"rule": expression, "message": message}


def immutable(field: str) -> dict[str, str]:
    """The field can be set only when the object is created."""
    return rule("self == oldSelf", f"{field} is immutable: create another object instead")
