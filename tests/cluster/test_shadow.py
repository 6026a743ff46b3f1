"""A Shadow behind a real Envoy, under requests that are counted one by one: nobody gets an answer of what is tried."""

from __future__ import annotations

import time
from typing import Any

from tests.cluster import objects
from tests.cluster.test_canary import ANALYSIS, ASK, ASKED, DRAIN, publish
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Json, Kubectl, condition

STEPS = [{"mirror": 50}, {"analyzeSeconds": 30}]
GATEWAY = {"mode": "Envoy"}
COPIES = "aifactory.dev/pool-name=lookup,aifactory.dev/role=shadow"


def roll(ns: Kubectl, version: int, steps: list[Json]) -> None:
    rollout: dict[str, Any] = {"strategy": "Shadow", "steps": steps, "analysis": ANALYSIS}
    ns.apply(
        objects.pool("lookup", "lookup", version=version, replicas=2, drain=DRAIN, rollout=rollout, gateway=GATEWAY)
    )


def test_a_version_is_tried_with_copies_and_answers_nobody_before(ns: Kubectl) -> None:
    publish(ns, "lookup", 100)
    publish(ns, "faulty", 10)
    for name in ("lookup", "faulty"):
        ns.wait_condition("mver", f"{name}-v1", "Ready", seconds=120)
    good, faulty = (ns.get("mver", f"{name}-v1") for name in ("lookup", "faulty"))
    ns.apply(objects.copy_version(good, 2))
    ns.apply({**objects.copy_version(faulty, 3, model="lookup"), "metadata": {"name": "lookup-v3"}})
    roll(ns, 1, STEPS)
    ns.wait_condition("ipool", "lookup", "Ready", seconds=120)
    traffic = Traffic(ns, "lookup", "lookup", program=[ASK, "lookup", "lookup", str(ASKED)])
    traffic.wait_for_version(1)

    began = time.monotonic()
    roll(ns, 3, STEPS)
    found = ns.wait_condition("ipool", "lookup", "Degraded", seconds=90)
    change = found["status"]["rollout"]
    assert (change["reason"], change["strategy"], found["status"]["version"]) == ("AnalysisFailed", "Shadow", "1")
    (finding,) = change["analysis"]
    assert (finding["metric"], finding["outcome"], finding["bound"]) == ("errorRate", "Failed", "0.05")
    assert finding["samples"] >= ANALYSIS["minSamples"]
    assert float(finding["candidate"]) > 0.9
    print(f"{change['message']}; after {time.monotonic() - began:.0f} s")
    ns.wait("ipool", "lookup", "to have let it go", lambda _: not ns.list("pods", COPIES), seconds=60)

    began = time.monotonic()
    roll(ns, 2, STEPS)
    found = ns.wait(
        "ipool",
        "lookup",
        "to serve version 2",
        lambda f: f["status"]["version"] == "2" and condition(f, "Ready")["status"] == "True",
        seconds=120,
    )
    change = found["status"]["rollout"]
    assert change["strategyReason"].startswith("its Shadow is over")
    (finding,) = change["analysis"]
    assert (finding["outcome"], finding["candidate"]) == ("Passed", "0")
    print(f"{finding['message']}; then by {change['strategy']}, after {time.monotonic() - began:.0f} s")
    traffic.wait_for_version(2)
    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    answers: dict[str, int] = summary["done"]  # type: ignore[assignment]
    assert set(answers) == {"1", "2"}, summary
    print(summary)
