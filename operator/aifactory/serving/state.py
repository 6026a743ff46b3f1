"""What planning an InferencePool looks at."""

from __future__ import annotations

from dataclasses import dataclass

from aifactory.api.inferencepool import InferencePool, Throughput


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installation decides."""

    server_image: str
    """Image with Triton and the back ends."""
    agent_image: str
    """Image with `aifactory-agent`."""


@dataclass(frozen=True, slots=True)
class VersionView:
    """One ModelVersion of the pool's model."""

    name: str
    model: str
    version: int
    uri: str
    digest: str
    format: str
    secret: str | None = None
    ready: bool = False
    reason: str = ""
    message: str = ""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class ServingPodView:
    """One serving pod."""

    name: str
    revision: str
    ready: bool = False
    terminating: bool = False
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    load_error: str = ""
    """Triton's or the agent's words when the model cannot be loaded in this pod."""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """One revision's Deployment."""

    name: str
    uid: str
    revision: str
    wanted: int
    """`spec.replicas`."""
    replicas: int = 0
    ready: int = 0
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class ConfigView:
    """One revision's ConfigMap."""

    name: str
    uid: str
    revision: str


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from."""

    pool: InferencePool
    settings: Settings
    versions: tuple[VersionView, ...] = ()
    revisions: tuple[RevisionView, ...] = ()
    configs: tuple[ConfigView, ...] = ()
    pods: tuple[ServingPodView, ...] = ()
    service_exists: bool = False
    throughput: Throughput | None = None
