"""What planners of every kind ask about pods: one that waits for a person, and one that runs once and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from aifactory.api.reasons import Reason
from aifactory.kube import podstate
from aifactory.kube.objects import Pod

RETRY_BASE_SECONDS: Final = 10
RETRY_MAX_SECONDS: Final = 300

_PULL_PROBLEMS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_PROBLEMS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class TaskPod:
    """A pod that does one thing, writes a JSON object to its termination log and ends."""

    name: str
    uid: str
    number: int
    """The end of its name: which try it is."""
    phase: str
    terminating: bool = False
    message: str = ""
    """What it wrote to its termination log, or Kubernetes' words where it could not."""
    finished_at: datetime | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""

    @property
    def answer(self) -> dict[str, Any]:
        """Its answer; empty when it gave none."""
        try:
            found = json.loads(self.message)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


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


def task_pod(pod: Pod, container: str) -> TaskPod:
    """A pod that runs once as planning sees it; `container` is the one that answers."""
    meta = pod.metadata
    end = podstate.ended(pod, container)
    trouble = podstate.waiting(pod)
    number = meta.name.rpartition("-")[2]
    return TaskPod(
        name=meta.name,
        uid=meta.uid,
        number=int(number) if number.isdecimal() else -1,
        phase=pod.status.phase,
        terminating=meta.deletion_timestamp is not None,
        message=(end.message if end is not None else "") or pod.status.message,
        finished_at=end.finished_at if end is not None else None,
        waiting_reason=trouble.reason,
        waiting_message=trouble.message,
        unschedulable=podstate.unschedulable(pod),
    )


def needs_person(pod: Waiting) -> tuple[Reason, str] | None:
    """Why a pod does not get on by itself: an image that cannot be pulled, settings that cannot work."""
    words = f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}"
    if pod.waiting_reason in _PULL_PROBLEMS:
        return Reason.IMAGE_PULL_FAILED, f"{words}; check the image name, the registry and imagePullSecrets"
    if pod.waiting_reason in _CONFIG_PROBLEMS:
        return Reason.CONTAINER_CONFIG_ERROR, words
    return None


def retry_seconds(number: int) -> int:
    """Seconds between the failure of the task pod with this number and the next one."""
    return int(min(RETRY_BASE_SECONDS * 2 ** min(number, 10), RETRY_MAX_SECONDS))
