"""What planning a ModelVersion looks at."""

from __future__ import annotations

from dataclasses import dataclass

from aifactory.api.modelversion import ModelVersion, Use
from aifactory.engine.pods import TaskPod


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installation decides."""

    agent_image: str
    """Image with `aifactory-agent`: reads and checks artifacts."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    version: ModelVersion
    settings: Settings
    verifiers: tuple[TaskPod, ...] = ()
    """Pods that check the artifact."""
    users: tuple[Use, ...] = ()
    """InferencePools that serve the version or are about to."""
