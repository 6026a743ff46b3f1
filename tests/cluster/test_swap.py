"""From one version to another and back in the pods that run, under clients of every kind that count each answer.

AIFACTORY_SWAPS=20 goes there and back more often (twice by default).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster import objects
from tests.cluster.test_operator_killed import kill
from tests.cluster.traffic import PAUSE_SECONDS, Traffic
from tests.support.kubectl import Kubectl, condition
from tests.support.waiting import wait_for

TIMES = int(os.environ.get("AIFACTORY_SWAPS", "2"))
BACK_SECONDS = 2.0
"""From the edit to the last request that the other version answers, where the version is at hand."""


@dataclass(frozen=True)
class Change:
    """One change, in seconds of this machine's clock, which the cluster's pods share."""

    version: str
    edited: float
    """The API server has taken the new wish."""
    reported: float
    """The status says that it is served."""


@pytest.fixture
def pool(trained: Kubectl) -> Kubectl:
    """Pool `swap` serves version 1 of tiny by two pods; version 2 is there."""
    good = trained.get("mver", "tiny-v1")
    trained.apply(objects.copy_version(good, 2))
    trained.wait_condition("mver", "tiny-v2", "Ready")
    trained.apply(objects.pool("swap", "tiny", version=1, replicas=2))
    trained.wait_condition("ipool", "swap", "Ready", seconds=120)
    return trained


class Claim:
    """The namespace's model claim, as somebody sees it who may write there."""

    def __init__(self, kubectl: Kubectl, image: str = objects.AGENT) -> None:
        self._kubectl = kubectl
        container = {
            "name": "writer",
            "image": image,
            "command": objects.UNTIL_TOLD,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        }
        user = {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        volume = {"name": "models", "persistentVolumeClaim": {"claimName": "aifactory-models"}}
        spec = {"restartPolicy": "Never", "securityContext": user, "containers": [container], "volumes": [volume]}
        meta = {"name": "writer", "labels": objects.labels()}
        kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        kubectl.wait("pod", "writer", "to run", lambda found: found["status"]["phase"] == "Running", seconds=60)

    @staticmethod
    def path(uri: str) -> str:
        return "/models/" + uri.removeprefix("pvc://aifactory-models/")

    def run(self, program: str) -> None:
        self._kubectl.run("exec", "writer", "--", "python3", "-c", program)

    def close(self) -> None:
        # Until it is gone: the next one has its name.
        self._kubectl.run("delete", "pod", "writer", "--grace-period=1")


@pytest.fixture
def claim(trained: Kubectl) -> Iterator[Claim]:
    found = Claim(trained)
    yield found
    found.close()


def pods(pool: Kubectl) -> set[str]:
    """Without those of the pool of the test before, which may still be on their way out."""
    found = (pod["metadata"] for pod in pool.list("pods", "aifactory.dev/pool-name=swap"))
    return {meta["uid"] for meta in found if "deletionTimestamp" not in meta}


def change(pool: Kubectl, version: str) -> Change:
    wish = json.dumps({"spec": {"models": [{"name": "tiny", "version": int(version)}]}})
    pool.run("patch", "ipool", "swap", "--type=merge", "-p", wish)
    edited = time.time()
    found = pool.wait(
        "ipool",
        "swap",
        f"to serve version {version}",
        lambda f: f["status"]["version"] == version and condition(f, "Ready")["status"] == "True",
        seconds=120,
    )
    reported = time.time()
    assert found["status"]["rollout"]["strategy"] == "HotSwap", found["status"]["rollout"]
    return Change(version, edited, reported)


def test_there_and_back_without_a_lost_request_or_a_late_answer(pool: Kubectl, operator: Kubectl) -> None:
    before = pods(pool)
    traffic = Traffic(pool, "swap", "tiny", every_way=True)
    traffic.wait_for_every_way()
    changes = []
    for number in range(2 * TIMES):
        changes.append(change(pool, "12"[(number + 1) % 2]))
        if number == 1:
            kill(operator)  # what is served does not need it
        quiet = time.time() + PAUSE_SECONDS + 1.0
        wait_for("answers of this version alone", time.time, lambda now, until=quiet: now > until, seconds=30)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    assert pods(pool) == before
    sent: dict[str, dict[str, list[list[float]]]] = summary["sent"]  # type: ignore[assignment]
    for kind, versions in sent.items():
        for one, following in zip(changes, [*changes[1:], None], strict=True):
            until = following.edited if following is not None else time.time()
            others = [span for version, spans in versions.items() if version != one.version for span in spans]
            late = [span for span in others if span[1] > one.reported and span[0] < until - 1.0]
            assert not late, f"{kind}: another version than {one.version} answered after {one.reported}: {late}"
    back = [
        max(
            span[1]
            for spans in (versions.get("2", ()) for versions in sent.values())
            for span in spans
            if span[0] < one.edited
        )
        - one.edited
        for one in changes
        if one.version == "1"
    ]
    told = {kind: sum(counts.values()) for kind, counts in summary["done"].items()}  # type: ignore[attr-defined]
    print(f"answers {told}; to the last answer of version 2 on the way back: {[round(each, 2) for each in back]} s;")
    print(f"from edit to report: {[(one.version, round(one.reported - one.edited, 2)) for one in changes]}")
    assert max(back) <= BACK_SECONDS


def test_a_version_that_is_damaged_is_taken_back_under_traffic(pool: Kubectl, claim: Claim) -> None:
    """It was whole when it was verified: what the agents say is told, and version 1 answers all the time."""
    good = pool.get("mver", "tiny-v1")
    uri = good["spec"]["source"]["uri"]
    claim.run(f"import shutil; shutil.copytree({claim.path(uri)!r}, {claim.path(uri) + '-3'!r})")
    pool.apply(objects.copy_version(good, 3, source={"uri": uri + "-3"}))
    pool.wait_condition("mver", "tiny-v3", "Ready")
    claim.run(f"open({claim.path(uri) + '-3/config.json'!r}, 'a').write(' ')")
    before = pods(pool)
    traffic = Traffic(pool, "swap", "tiny", every_way=True)
    traffic.wait_for_every_way()
    pool.run("patch", "ipool", "swap", "--type=merge", "-p", '{"spec": {"models": [{"name": "tiny", "version": 3}]}}')
    found = pool.wait_condition("ipool", "swap", "Degraded", seconds=120)
    told = condition(found, "Degraded")
    assert told["reason"] == "ModelLoadFailed"
    assert "tiny-v3 was taken back, it does not load: DigestMismatch: " in told["message"]
    assert (found["status"]["version"], found["status"]["rollout"]["strategy"]) == ("1", "HotSwap")
    pool.run("patch", "ipool", "swap", "--type=merge", "-p", '{"spec": {"models": [{"name": "tiny", "version": 1}]}}')
    pool.wait_condition("ipool", "swap", "Ready", seconds=60)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    assert {version for counts in summary["done"].values() for version in counts} == {"1"}  # type: ignore[attr-defined]
    assert pods(pool) == before
