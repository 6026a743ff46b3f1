"""Which waiting of a pod no time ends, what goes wrong beside a program, and what a person reads about both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.pods import EVENT_PROBLEMS, beside, needs_person
from aifactory.kube.objects import Pod, decoder


@dataclass
class Waiting:
    waiting_reason: str
    waiting_message: str = ""
    name: str = "a"


@pytest.mark.parametrize(
    ("reasons", "told", "step"),
    [
        (
            (
                "ErrImagePull",
                "ImagePullBackOff",
                "InvalidImageName",
                "ErrImageNeverPull",
                "ImageInspectError",
                "RegistryUnavailable",
                "SignatureValidationFailed",
            ),
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
            ("FailedMount", "FailedAttachVolume", "FailedMapVolume"),
            Reason.VOLUME_NOT_MOUNTED,
            "; check that the Secret, ConfigMap or claim exists",
        ),
        (
            ("FailedCreatePodSandBox", "FailedPrepareDynamicResources", "NetworkNotReady"),
            Reason.POD_NOT_SET_UP,
            "; check runtimeClassName, and network plugin and devices of the node",
        ),
    ],
)
def test_what_waits_for_a_person_is_told_in_kubernetes_words_with_the_next_step(
    reasons: tuple[str, ...], told: Reason, step: str
) -> None:
    for reason in reasons:
        assert needs_person(Waiting(reason, "its words")) == (told, f"pod a: its words{step}")
        assert needs_person(Waiting(reason)) == (told, f"pod a: {reason}{step}"), "Kubernetes may say no more than that"


@pytest.mark.parametrize("reason", ["", "ContainerCreating", "PodInitializing"])
def test_other_waiting_ends_by_itself(reason: str) -> None:
    assert needs_person(Waiting(reason, "its words")) is None


RUNS = {"running": {}}


def terminated(code: int, message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": "Error"}}


def pod(restarts: int = 0, *, init: bool = False, **states: dict[str, Any]) -> Pod:
    statuses = [{"name": name, "state": state, "restartCount": restarts} for name, state in states.items()]
    status = {"initContainerStatuses" if init else "containerStatuses": statuses}
    return decoder(Pod)(msgspec.json.encode({"metadata": {"name": "a"}, "status": status}))


def test_a_container_that_has_failed_beside_the_program_is_told_with_its_words() -> None:
    words = "container mesh has ended with exit code 3: no certificate"
    assert beside(pod(main=RUNS, mesh=terminated(3, "no certificate")), "main") == words
    assert beside(pod(main=RUNS, mesh=terminated(3)), "main") == "container mesh has ended with exit code 3"
    assert beside(pod(init=True, mesh=terminated(3, "no certificate")), "main") == words


def test_a_container_that_ends_again_and_again_is_told_with_its_words() -> None:
    crashing = pod(3, main=RUNS, mesh=terminated(139, "no certificate"))
    how = "ends again and again, last with exit code 139 (SIGSEGV): no certificate"
    assert beside(crashing, "main") == f"container mesh {how}"


def test_nothing_is_told_of_containers_that_are_well_or_of_the_program_itself() -> None:
    assert beside(pod(main=RUNS, mesh=RUNS, setup=terminated(0)), "main") == ""
    assert beside(pod(main=terminated(1)), "main") == "", "whoever asks knows how its own program ended"


def test_which_events_of_a_kubelet_tell_why_a_pod_does_not_start() -> None:
    mounts = {"FailedMount", "FailedAttachVolume", "FailedMapVolume"}
    setup = {"FailedCreatePodSandBox", "FailedPrepareDynamicResources", "NetworkNotReady"}
    assert mounts | setup | {"FailedPostStartHook"} == EVENT_PROBLEMS
