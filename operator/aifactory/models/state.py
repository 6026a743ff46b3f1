"""What planning a ModelVersion looks at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aifactory.api.modelversion import ModelVersion, Use


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installation decides."""

    agent_image: str
    """Image with `aifactory-agent`: reads and checks artifacts."""


@dataclass(frozen=True, slots=True)
class VerifierView:
    """One pod that checks the artifact."""

    name: str
    uid: str
    number: int
    phase: str
    terminating: bool = False
    message: str = ""
    """What it wrote to its termination log."""
    finished_at: datetime | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    version: ModelVersion
    settings: Settings
    verifiers: tuple[VerifierView, ...] = ()
    users: tuple[Use, ...] = ()
    """InferencePools that serve the version or are about to."""
