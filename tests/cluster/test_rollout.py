"""From one version to the next by new pods under continuous requests, and what happens with one that does not load."""

from __future__ import annotations

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.support.kubectl import Kubectl, condition

DRAIN = {"drain": {"preStopSeconds": 5, "timeoutSeconds": 30}, "rollout": {"strategy": "Surge"}}


def test_a_version_change_loses_no_request(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    trained.apply(objects.pool("live", "tiny", replicas=2, **DRAIN))
    found = trained.wait_condition("ipool", "live", "Ready", seconds=120)
    assert found["status"]["version"] == "1"
    traffic = Traffic(trained, "live", "tiny")
    traffic.wait_for_version(1)

    trained.apply(objects.copy_version(good, 2))
    found = trained.wait(
        "ipool",
        "live",
        "to serve version 2",
        lambda f: f["status"]["version"] == "2" and condition(f, "Ready")["status"] == "True",
        seconds=180,
    )
    assert found["status"]["rollout"]["phase"] == "Complete"
    traffic.wait_for_version(2)
    old = "aifactory.dev/pool-name=live,aifactory.dev/revision!=" + found["status"]["stable"]["revision"]
    trained.wait("ipool", "live", "to have let the old pods go", lambda _: trained.list("pods", old) == [])

    summary = traffic.stop()
    assert summary["failed"] == 0, summary
    assert set(summary["done"]) == {"1", "2"}, summary

    # A version whose files are there and whole, and which Triton can not load: it never takes traffic.
    broken = objects.copy_version(good, 3, format="torch-export")
    refused = trained.run("apply", "-f", "-", stdin=str(broken).replace("'", '"'), check=False)
    assert refused.code == 0, refused.err
    stalled = trained.wait_condition("mver", "tiny-v3", "Stalled")
    assert condition(stalled, "Stalled")["reason"] == "InvalidArtifact"
    found = trained.get("ipool", "live")
    assert found["status"]["version"] == "2"

    throughput = trained.wait(
        "ipool",
        "live",
        "to show its throughput",
        lambda f: (f["status"].get("throughput") or {}).get("tokensPerSecond"),
    )
    assert "requestsPerSecond" in throughput["status"]["throughput"]
    trained.run("scale", "ipool", "live", "--replicas=0")
    found = trained.wait(
        "ipool", "live", "to be scaled to zero", lambda f: condition(f, "Ready")["reason"] == "ScaledToZero"
    )
    assert condition(found, "Ready")["status"] == "True"


def test_a_pool_waits_for_its_model(ns: Kubectl) -> None:
    ns.apply(objects.pool("early", "later"))
    found = ns.wait_condition("ipool", "early", "Ready", "False")
    assert condition(found, "Ready")["reason"] == "WaitingForModel"
    assert "later" in condition(found, "Ready")["message"]
    assert condition(found, "Stalled")["status"] == "False"
