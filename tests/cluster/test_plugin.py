"""The plugin where pods really run: what failed is named, its log is found, and a pool is talked to."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import objects
from tests.support.kubectl import Kubectl
from tests.support.plugin import User

FAILS = "import os, sys; print('attempt', os.environ['AIFACTORY_ATTEMPT'], 'has no such option: --lr'); sys.exit(2)"


def test_what_failed_is_named_and_its_logs_are_found(ns: Kubectl, tmp_path: Path) -> None:
    once = {"failurePolicy": {"maxRestarts": 1, "backoff": {"baseSeconds": 0}}}
    ns.apply(objects.python_job("fails", FAILS, **once), objects.job("no-image", ["true"], image="aifactory/none:1"))
    ns.wait_condition("tjob", "fails", "Failed")
    user = User(ns, tmp_path)
    text = user.status("MaxRestartsExceeded")
    assert "! tjob/fails is stuck: MaxRestartsExceeded" in text
    assert "attempt 1 has no such option: --lr" in user.types(user.told(text)).out
    assert "attempt 0 has no such option: --lr" in user.plugin("logs fails --previous-attempt")
    assert "pod fails-0-1 on local, exit code 2" in user.plugin("status tjob/fails")
    assert "(kept for its log)" in user.plugin("tree fails")

    ns.wait_condition("tjob", "no-image", "Stalled")
    command = user.told(user.plugin("status no-image"))
    user.types(command.replace("IMAGE", objects.TRAINER))
    ns.wait_condition("tjob", "no-image", "Complete")


def test_a_missing_secret_is_made_by_the_command_that_is_told(ns: Kubectl, tmp_path: Path) -> None:
    job = objects.job("keyless", ["sh", "-c", 'test "$HF_TOKEN" = VALUE'])
    reference = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "KEY"}}}
    job["spec"]["template"]["spec"]["containers"][0]["env"] = [reference]
    ns.apply(job)
    user = User(ns, tmp_path)
    user.obeys(user.status("ContainerConfigError"))
    ns.wait_condition("tjob", "keyless", "Complete")


def test_a_pool_is_talked_to(trained: Kubectl, tmp_path: Path) -> None:
    trained.apply(objects.pool("talk", "tiny"))
    trained.wait_condition("ipool", "talk", "Ready")
    user = User(trained, tmp_path)
    assert "kubectl aifactory -n" in user.plugin("status ipool/talk")
    assert user.plugin("chat ipool/talk -m 'def ' --max-tokens 8").strip()
    assert "tjob/tiny" in user.plugin("lineage ipool/talk")


def test_the_installed_operator_is_found(ns: Kubectl, tmp_path: Path) -> None:
    text = " ".join(User(ns, tmp_path).plugin("check").split())
    assert "aifactory-system/aifactory-operator: 1 of 1 ready" in text
    assert "leads over all namespaces" in text
    assert "8 nvidia.com/gpu allocatable" in text
