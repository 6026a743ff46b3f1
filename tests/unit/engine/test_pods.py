"""Which waiting of a pod no time ends, and what a person reads about it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.pods import needs_person


@dataclass
class Pod:
    waiting_reason: str
    waiting_message: str = ""
    name: str = "a"


@pytest.mark.parametrize(
    ("reasons", "told", "step"),
    [
        (
            ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
            Reason.IMAGE_PULL_FAILED,
            "; check the image name, the registry and imagePullSecrets",
        ),
        (
            ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError", "Odd"),
            Reason.CONTAINER_CONFIG_ERROR,
            "",
        ),
        (("CrashLoopBackOff",), Reason.CRASH_LOOP_BACK_OFF, "; see: kubectl logs a --all-containers"),
        (
            ("FailedMount", "FailedAttachVolume"),
            Reason.VOLUME_NOT_MOUNTED,
            "; check that the Secret, ConfigMap or claim exists",
        ),
    ],
)
def test_what_waits_for_a_person_is_told_in_kubernetes_words_with_the_next_step(
    reasons: tuple[str, ...], told: Reason, step: str
) -> None:
    for reason in reasons:
        assert needs_person(Pod(reason, "its words")) == (told, f"pod a: its words{step}")
        assert needs_person(Pod(reason)) == (told, f"pod a: {reason}{step}"), "Kubernetes may say no more than that"


@pytest.mark.parametrize("reason", ["", "ContainerCreating", "PodInitializing"])
def test_other_waiting_ends_by_itself(reason: str) -> None:
    assert needs_person(Pod(reason, "its words")) is None
