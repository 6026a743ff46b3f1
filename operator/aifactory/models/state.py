"""What planning a ModelVersion looks at."""

from __future__ import annotations

from dataclasses import dataclass

from aifactory.api import names
from aifactory.api.modelversion import ModelVersion, Use
from aifactory.engine.domain import option
from aifactory.engine.taskpods import SERVER_HELP, TaskSettings
from aifactory.engine.tasks import TaskPod


@dataclass(frozen=True, slots=True)
class Settings(TaskSettings):
    """What the installation decides."""

    server_image: str = option(names.image("server"), SERVER_HELP)


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
    settings: Settings
    verifiers: tuple[TaskPod, ...] = ()
    """Pods that check the artifact."""
    counter: Counter | None = None
    users: tuple[Use, ...] = ()
    """InferencePools that serve the version or are about to."""
