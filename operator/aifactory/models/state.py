"""What planning a ModelVersion looks at."""

from __future__ import annotations

from dataclasses import dataclass

from aifactory.api.modelversion import ModelVersion, Use
from aifactory.engine.taskpods import TaskSettings
from aifactory.engine.tasks import TaskPod


@dataclass(frozen=True, slots=True)
class Counter:
    """What is written down of the model's numbers."""

    name: str
    resource_version: str
    highest: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    version: ModelVersion
    settings: TaskSettings
    verifiers: tuple[TaskPod, ...] = ()
    """Pods that check the artifact."""
    counter: Counter | None = None
    users: tuple[Use, ...] = ()
    """InferencePools that serve the version or are about to."""
