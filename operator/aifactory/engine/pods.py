"""Questions that planners of every kind ask about pods: does one wait for a person, and for what."""

from __future__ import annotations

from typing import Protocol

from aifactory.api.reasons import Reason
from aifactory.kube.podstate import CRASHES

_PULL_PROBLEMS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_PROBLEMS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


class Waiting(Protocol):
    """A pod as `needs_person` looks at it."""

    @property
    def name(self) -> str:
        """The pod's name."""

    @property
    def waiting_reason(self) -> str:
        """Kubernetes' reason why a container does not start."""

    @property
    def waiting_message(self) -> str:
        """Kubernetes' words for it."""


def needs_person(pod: Waiting) -> tuple[Reason, str] | None:
    """Why a pod does not get on by itself: an image that cannot be pulled, a volume that is missing, bad settings."""
    message = f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}"
    if pod.waiting_reason in _PULL_PROBLEMS:
        return Reason.IMAGE_PULL_FAILED, f"{message}; check the image name, the registry and imagePullSecrets"
    if pod.waiting_reason in _CONFIG_PROBLEMS:
        return Reason.CONTAINER_CONFIG_ERROR, message
    if pod.waiting_reason == CRASHES:
        return Reason.CRASH_LOOP_BACK_OFF, f"{message}; see: kubectl logs {pod.name} --all-containers"
    if pod.waiting_reason in MOUNT_PROBLEMS:
        return Reason.VOLUME_NOT_MOUNTED, f"{message}; check that the Secret, ConfigMap or claim exists"
    return None


def about_claims(words: str) -> bool:
    """Whether the scheduler's words tell that it waits for a volume and not for a node."""
    return "persistentvolumeclaim" in words.lower()


MOUNT_PROBLEMS = frozenset({"FailedMount", "FailedAttachVolume"})
"""Reasons of the kubelet's Events about a pod whose containers do not even begin to start; its status keeps silent."""
