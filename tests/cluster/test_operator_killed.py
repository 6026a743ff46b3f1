"""The operator is killed with SIGKILL in each phase; everything ends as if it had not been."""

from __future__ import annotations

import pytest

from tests.cluster import objects
from tests.support.kubectl import Kubectl, condition
from tests.support.waiting import wait_for

PHASES = ["Pending", "Starting", "Running", "Publishing"]


def kill(operator: Kubectl) -> None:
    """End the operator's process at once, without a chance to say good-bye."""
    pod = operator.list("pods", "app.kubernetes.io/name=aifactory-operator")[0]["metadata"]["name"]
    operator.run("delete", "pod", pod, "--grace-period=0", "--force")


@pytest.mark.parametrize("phase", PHASES)
def test_killed_while_a_job_is(phase: str, ns: Kubectl, operator: Kubectl) -> None:
    ns.apply(objects.training_job("survivor", steps=60, nodes=1, output="survivor"))
    order = ["", *PHASES, "Succeeded"]
    ns.wait(
        "tjob",
        "survivor",
        f"to be {phase} or further",
        lambda f: order.index(f.get("status", {}).get("phase", "")) >= order.index(phase),
    )
    kill(operator)
    found = ns.wait_condition("tjob", "survivor", "Complete", seconds=240)
    assert found["status"]["restarts"]["total"] == 0
    assert found["status"]["attempt"] == 0
    assert [pod["metadata"]["name"] for pod in ns.list("pods", "aifactory.dev/role=node")] == ["survivor-0-0"]
    assert [version["metadata"]["name"] for version in ns.list("mver")] == ["survivor-v1"]
    ns.wait_condition("mver", "survivor-v1", "Ready", seconds=60)


def test_killed_while_a_pool_rolls(trained: Kubectl, operator: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    spec = {"drain": {"preStopSeconds": 0, "timeoutSeconds": 10}, "rollout": {"strategy": "Surge"}}
    trained.apply(objects.pool("rolling", "tiny", version=1, **spec))
    trained.wait_condition("ipool", "rolling", "Ready", seconds=120)
    trained.apply(objects.copy_version(good, 9))
    trained.wait_condition("mver", "tiny-v9", "Ready")
    trained.run("patch", "ipool", "rolling", "--type=merge", "-p", '{"spec":{"models":[{"name":"tiny","version":9}]}}')
    trained.wait("ipool", "rolling", "to roll", lambda f: f["status"]["phase"] == "RollingOut")
    kill(operator)
    found = trained.wait(
        "ipool",
        "rolling",
        "to serve version 9",
        lambda f: f["status"]["version"] == "9" and condition(f, "Ready")["status"] == "True",
        seconds=180,
    )
    assert found["status"]["rollout"]["phase"] == "Complete"
    wait_for(
        "one Deployment",
        lambda: trained.list("deployments", "aifactory.dev/pool-name=rolling"),
        lambda seen: len(seen) == 1,
    )


def leader(operator: Kubectl) -> str:
    """The pod that leads; before its name the lease has the release's."""
    holder = operator.within("kube-system").get("lease", "aifactory.dev")["spec"]["holderIdentity"]
    return str(holder).rpartition("/")[2]


def test_two_operators_have_one_leader(operator: Kubectl, ns: Kubectl) -> None:
    operator.run("scale", "deployment/aifactory-operator", "--replicas=2")
    try:
        operator.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s")
        holder = leader(operator)
        operator.run("delete", "pod", holder, "--grace-period=0", "--force")
        ns.apply(objects.python_job("after", "print('trained')"))
        ns.wait_condition("tjob", "after", "Complete", seconds=90)
        assert leader(operator) != holder
    finally:
        operator.run("scale", "deployment/aifactory-operator", "--replicas=1")
        operator.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s")
