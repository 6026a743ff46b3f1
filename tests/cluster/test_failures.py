"""What a user gets wrong, and what the object then says: phase, condition, and a message that tells what to do."""

from __future__ import annotations

from tests.cluster import objects
from tests.support.kubectl import Kubectl, condition

NO_RETRY = {"failurePolicy": {"maxRestarts": 0}}


def test_a_missing_image_is_named(ns: Kubectl) -> None:
    ns.apply(objects.job("bad-image", ["true"], image="aifactory/no-such-image:1"))
    found = ns.wait_condition("tjob", "bad-image", "Stalled")
    assert found["status"]["phase"] == "Pending"
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "ImagePullFailed"
    assert "aifactory/no-such-image:1" in stalled["message"]
    assert "check the image name" in stalled["message"]


def test_an_exit_code_is_reported(ns: Kubectl) -> None:
    ns.apply(
        objects.python_job(
            "exit-2", "import sys; print('no such option: --lr', file=sys.stderr); sys.exit(2)", **NO_RETRY
        )
    )
    found = ns.wait_condition("tjob", "exit-2", "Failed")
    failure = found["status"]["lastFailure"]
    assert (failure["exitCode"], failure["cause"]) == (2, "ApplicationError")
    assert "no such option: --lr" in failure["message"]
    failed = condition(found, "Failed")
    assert failed["reason"] == "MaxRestartsExceeded"
    assert "failurePolicy.maxRestarts is 0" in failed["message"]


def test_a_python_exception_is_reported_by_its_last_line(ns: Kubectl) -> None:
    program = "from aifactory_trainer.pretrain import main; main(['--steps=5', '--data=/nowhere'])"
    ns.apply(objects.job("exception", ["torchrun", "--no-python", "python3", "-c", program], **NO_RETRY))
    found = ns.wait_condition("tjob", "exception", "Failed", seconds=120)
    assert "/nowhere" in found["status"]["lastFailure"]["message"]


def test_a_gang_that_does_not_fit_waits_as_one(ns: Kubectl) -> None:
    ns.apply(objects.job("too-big", ["true"], nodes=3, gpus=4))
    found = ns.wait_condition("tjob", "too-big", "Scheduled", "False")
    scheduled = condition(found, "Scheduled")
    assert found["status"]["phase"] == "Pending"
    assert scheduled["reason"] == "Unschedulable"
    assert "3 pods must be placed together" in scheduled["message"]
    assert "each asking for nvidia.com/gpu 4" in scheduled["message"]
    pods = ns.list("pods")
    assert len(pods) == 3
    assert not any(pod["spec"].get("nodeName") for pod in pods), "a gang is placed as a whole or not at all"
    assert found["status"]["resolved"]["gang"] == "native"


def test_exit_93_is_not_restarted(ns: Kubectl) -> None:
    ns.apply(objects.python_job("no-more", "import sys; sys.exit(93)"))
    found = ns.wait_condition("tjob", "no-more", "Failed")
    assert condition(found, "Failed")["reason"] == "NoRestartRequested"
    assert found["status"].get("restarts", {}).get("total", 0) == 0


def test_a_template_the_api_server_refuses_is_quoted(ns: Kubectl) -> None:
    wrong = objects.job("typo", ["true"])
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Never"
    ns.apply(wrong)
    found = ns.wait_condition("tjob", "typo", "Stalled")
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "PodRejected"
    assert "imagePullPolice" in stalled["message"]
