"""What a kubelet says about pods, and when it says it: each of these has been taken for something else before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import objects
from tests.cluster.conftest import namespace
from tests.support.kubectl import Json, Kubectl, condition

HALF_A_MODEL = """
import json, os, signal, struct, sys, time
out = os.environ["AIFACTORY_OUTPUT"]
os.makedirs(out, exist_ok=True)
head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
head += b" " * (-len(head) % 8)
open(out + "/model.safetensors", "wb").write(struct.pack("<Q", len(head)) + head + bytes(4))
json.dump({"architectures": ["Qwen3ForCausalLM"]}, open(out + "/config.json", "w"))
json.dump({"model": {"vocab": {"a": 0}}}, open(out + "/tokenizer.json", "w"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
"""
FOR_EVER = "\nwhile True: time.sleep(1)"
FLAKY = (
    "test -e /workspace/again && exec sleep 3600; touch /workspace/again; echo the line that matters; seq 1 30; exit 4"
)


def _jobs() -> Iterator[Json]:
    once = {"failurePolicy": {"maxRestarts": 0}, "output": {"model": {"name": "half", "format": "huggingface"}}}
    late = objects.python_job("late", HALF_A_MODEL + FOR_EVER, **once)
    late["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 15
    yield late
    fill = "\nopen('/scratch/x', 'wb').write(bytes(100 << 20))"
    full = objects.python_job("full", HALF_A_MODEL + fill + FOR_EVER, **once)
    pod = full["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch"}]
    yield full
    yield objects.job("flaky", ["sh", "-c", FLAKY], failurePolicy={"backoff": {"baseSeconds": 0}})
    beside = objects.job("beside", objects.UNTIL_TOLD)
    side = {"name": "logs", "image": objects.TRAINER, "command": ["sh", "-c", "echo no disk >&2; exit 3"]}
    beside["spec"]["template"]["spec"]["containers"].append(side)
    yield beside
    proxied = objects.job("proxied", ["true"])
    proxy = {**side, "name": "proxy", "restartPolicy": "Always"}
    proxy["startupProbe"] = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}
    proxied["spec"]["template"]["spec"]["initContainers"] = [proxy]
    yield proxied


@pytest.fixture(scope="module")
def jobs(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[Kubectl]:
    """A namespace in which all of them run at the same time: most of it is waiting."""
    for within in namespace(cluster, "kubelet", leaving):
        within.apply(*_jobs())
        yield within


@pytest.mark.parametrize(("name", "cause"), [("late", "DeadlineExceeded"), ("full", "OutOfDisk")])
def test_a_program_that_ends_with_0_because_it_is_told_to_has_not_succeeded(
    name: str, cause: str, jobs: Kubectl
) -> None:
    """The kubelet tells the container's end before the reason; of the eviction it tells in an Event alone."""
    found = jobs.wait_condition("tjob", name, "Failed", seconds=180)
    assert found["status"]["lastFailure"]["cause"] == cause
    assert jobs.list("mver") == []


def test_the_log_of_the_pod_that_failed_can_be_read_after_the_restart(jobs: Kubectl) -> None:
    found = jobs.wait("tjob", "flaky", "to run again", lambda found: found["status"]["attempt"] == 1, seconds=60)
    failure = found["status"]["lastFailure"]
    for part in ("container trainer ended with exit code 4: ", "the line that matters", f"logs {failure['pod']}"):
        assert part in failure["message"]
    jobs.wait_condition("tjob", "flaky", "Running", seconds=60)
    assert "the line that matters" in jobs.run("logs", failure["pod"]).out


def test_a_container_beside_the_trainer_that_dies_is_told(jobs: Kubectl) -> None:
    found = jobs.wait("tjob", "beside", "to tell", lambda f: f["status"].get("reason") == "SideContainerFailed")
    assert found["status"]["phase"] == "Running"
    assert (
        "container logs has ended with exit code 3: no disk; training goes on" in condition(found, "Ready")["message"]
    )


def test_a_sidecar_that_crashes_before_the_trainer_starts_is_told(jobs: Kubectl) -> None:
    found = jobs.wait_condition("tjob", "proxied", "Stalled", seconds=60)
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "CrashLoopBackOff"
    assert "container proxy ends again and again, last with exit code 3: no disk" in stalled["message"]
