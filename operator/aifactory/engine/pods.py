"""Questions that planners of every kind ask about pods: why does one not get on, and does it wait for a person."""

from __future__ import annotations

from typing import Protocol

from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.engine.lastwords import ending, root_cause
from aifactory.kube import podstate
from aifactory.kube.objects import Pod
from aifactory.kube.podstate import CRASHES, NO_TROUBLE, NORMAL_WAITING, Crash, Trouble

_PULL_PROBLEMS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""See pkg/kubelet/images/types.go in kubernetes/kubernetes."""

MOUNT_PROBLEMS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_SETUP_PROBLEMS = frozenset({"FailedCreatePodSandBox", "FailedPrepareDynamicResources", "NetworkNotReady"})
EVENT_PROBLEMS = MOUNT_PROBLEMS | _SETUP_PROBLEMS | {"FailedPostStartHook"}
"""Reasons of the kubelet's Events about a pod whose containers do not even begin to start; its status keeps silent."""
_SAID = 300
"""Characters of what a container has left; the way out must still fit behind them."""


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
    if pod.waiting_reason == CRASHES:
        return Reason.CRASH_LOOP_BACK_OFF, f"{message}; see: kubectl logs {pod.name} --all-containers"
    if pod.waiting_reason in MOUNT_PROBLEMS:
        return Reason.VOLUME_NOT_MOUNTED, f"{message}; check that the Secret, ConfigMap or claim exists"
    if pod.waiting_reason in _SETUP_PROBLEMS:
        return Reason.POD_NOT_SET_UP, f"{message}; check runtimeClassName, and network plugin and devices of the node"
    # CreateContainerConfigError, CreateContainerError, PostStartHookError ...
    if pod.waiting_reason not in NORMAL_WAITING:
        return Reason.CONTAINER_CONFIG_ERROR, message
    return None


def about_claims(message: str) -> bool:
    """Whether the scheduler's words tell that it waits for a volume and not for a node."""
    return "persistentvolumeclaim" in message.lower()


def trouble(pod: Pod, events: Trouble = NO_TROUBLE) -> Trouble:
    """Why a pod that is not up does not get on; `events` is what the kubelet's Events say."""
    crash = podstate.crash(pod)
    return Trouble(CRASHES, crash_words(crash)) if crash is not None else podstate.waiting(pod) or events


def crash_words(crash: Crash, of: str = "") -> str:
    """What a container does that ends again and again."""
    how = _ending(crash.exit_code, crash.reason, crash.message)
    return f"container {crash.container}{of} ends again and again, last with {how}"


def beside(pod: Pod, name: str) -> str:
    """About a container beside that one which has ended badly, or ends again and again; empty if all is well."""
    if (crash := podstate.crash(pod)) is not None:
        return crash_words(crash)
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        end = status.state.terminated
        if end is not None and end.exit_code and status.name != name:
            return f"container {status.name} has ended with {_ending(end.exit_code, end.reason, end.message)}"
    return ""


def _ending(exit_code: int, reason: str, message: str) -> str:
    said = shorten(root_cause(message, _SAID).message, _SAID)
    return ending(exit_code, reason) + (f": {said}" if said else "")
