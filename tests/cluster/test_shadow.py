"""A Shadow behind a real Envoy, under requests that are counted one by one: nobody gets an answer of what is tried."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Json, Kubectl, condition

POOL: Json = {
    "gateway": {"mode": "Envoy"},
    "drain": {"preStopSeconds": 10, "timeoutSeconds": 20},
    "rollout": {
        "strategy": "Shadow",
        "steps": [{"mirror": 50}, {"analyzeSeconds": 600}],
        "analysis": {"metrics": [{"name": "errorRate", "max": "0.01"}], "minSamples": 20},
    },
}
COPIED = 50


@pytest.fixture
def pool(trained: Kubectl) -> Kubectl:
    """Pool `tried` serves version 1 of tiny by two pods behind two proxies; version 2 is there."""
    trained.apply(objects.copy_version(trained.get("mver", "tiny-v1"), 2))
    trained.wait_condition("mver", "tiny-v2", "Ready")
    trained.apply(objects.pool("tried", "tiny", version=1, replicas=2, **POOL))
    trained.wait_condition("ipool", "tried", "Ready", seconds=120)
    return trained


def test_a_version_is_tried_with_copies_and_answers_nobody_before(pool: Kubectl) -> None:
    traffic = Traffic(pool, "tried", "tiny")
    traffic.wait_for_version(1)
    began = time.monotonic()
    pool.apply(objects.pool("tried", "tiny", version=2, replicas=2, **POOL))

    def copied(found: Json) -> bool:
        change: Any = found["status"]["rollout"]
        return bool(change.get("window") and change["window"]["candidate"].get("requests", 0) >= COPIED)

    found = pool.wait("ipool", "tried", f"to have copied {COPIED} requests", copied, seconds=90)
    window = found["status"]["rollout"]["window"]
    asked, answered = window["candidate"]["requests"], window["stable"]["requests"]
    print(f"{asked} copies of {answered} requests are counted after {time.monotonic() - began:.0f} s")
    assert window["candidate"].get("failures", 0) == 0
    assert found["status"]["summary"] == "2/2"
    assert set(traffic.answered()) == {"1"}, "nobody has had an answer of version 2"

    pool.run("annotate", "ipool", "tried", "aifactory.dev/promote=now")
    found = pool.wait(
        "ipool",
        "tried",
        "to serve version 2",
        lambda f: f["status"]["version"] == "2" and condition(f, "Ready")["status"] == "True",
        seconds=60,
    )
    assert found["status"]["rollout"]["strategyReason"].startswith("its Shadow is over")
    traffic.wait_for_version(2)
    summary = traffic.stop()
    print(f"then by {found['status']['rollout']['strategy']}: {summary}")
    assert summary["failed"] == 0, summary
    answers: dict[str, int] = summary["done"]  # type: ignore[assignment]
    assert set(answers) == {"1", "2"}, summary
