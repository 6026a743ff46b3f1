"""Short words for what a plan writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aifactory.engine.plan import Apply, Create, Delete, DryRun, Patch, Plan


def bodies(plan: Plan[Any]) -> list[Mapping[str, Any]]:
    """Everything the plan creates."""
    return [write.body for write in plan.writes if isinstance(write, Create)]


def created(plan: Plan[Any]) -> list[str]:
    """`Kind name` of everything the plan creates."""
    return [f"{body['kind']} {body['metadata']['name']}" for body in bodies(plan)]


def removed(plan: Plan[Any]) -> list[str]:
    """`Kind name` of everything the plan deletes."""
    return [f"{write.kind} {write.name}" for write in plan.writes if isinstance(write, Delete)]


def tried(plan: Plan[Any]) -> list[str]:
    """`Kind name` of everything that the API server is asked about."""
    return [f"{write.kind} {write.name}" for write in plan.writes if isinstance(write, DryRun)]


def patches(plan: Plan[Any]) -> list[Patch]:
    """Patches of what exists."""
    return [write for write in plan.writes if isinstance(write, Patch)]


def repairs(plan: Plan[Any]) -> list[Apply]:
    """What exists and is applied again."""
    return [write for write in plan.writes if isinstance(write, Apply)]
