"""CEL rules in the words of the user: every message says what to write instead."""

from __future__ import annotations

from pydantic.config import JsonDict


def rule(expression: str, message: str, computed: str = "") -> JsonDict:
    """One `x-kubernetes-validations` entry.

    Args:
        expression: CEL; false refuses the value.
        message: what to write instead.
        computed: CEL that makes a better message from the value; should it fail, `message` stands.
    """
    entry: JsonDict = {"rule": expression, "message": message}
    if computed:
        entry["messageExpression"] = computed
    return entry


OWN_VOLUMES_RULE = rule(
    "!has(self.template) || !has(self.template.spec) || !has(self.template.spec.volumes) || "
    "self.template.spec.volumes.all(v, !v.name.startsWith('aifactory-'))",
    "template.spec.volumes: names that begin with aifactory- are the operator's: choose another name",
)
"""One of the user's would be replaced without a word."""


def no_parent_paths(field: str) -> JsonDict:
    """A URI may not leave its bucket or claim."""
    return rule(r"!self.matches('/\\.\\.(/|$)')", f"{field} must not contain '..'")


def account_of_azure(field: str) -> JsonDict:
    """A container's name says nothing without its account, and that is in the Secret."""
    return rule(
        "has(self.secretRef) || !has(self.uri) || !self.uri.startsWith('az://')",
        f"{field}: az:// needs a secretRef: its Secret says which storage account (AZURE_STORAGE_ACCOUNT)",
    )


def immutable(field: str) -> JsonDict:
    """The field can be set only when the object is created."""
    return rule("self == oldSelf", f"{field} is immutable: create another object instead")
