"""CEL rules in the words of the user: every message says what to write instead."""

from __future__ import annotations

from pydantic.config import JsonDict


def rule(expression: str, message: str) -> JsonDict:
    """One `x-kubernetes-validations` entry."""
    return {"rule": expression, "message": message}


def no_parent_paths(field: str) -> JsonDict:
    """A URI may not leave its bucket or claim."""
    return rule(r"!self.matches('/\\.\\.(/|$)')", f"{field} must not contain '..'")


def immutable(field: str) -> JsonDict:
    """The field can be set only when the object is created."""
    return rule("self == oldSelf", f"{field} is immutable: create another object instead")
