"""A bad artifact stops at its ModelVersion and never reaches a pool."""

from __future__ import annotations

from tests.cluster import objects
from tests.support.kubectl import Kubectl, condition


def test_a_corrupted_artifact_stops_at_its_version(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    trained.apply(objects.copy_version(good, 66, digest="sha256:" + "0" * 64))
    trained.apply(objects.pool("wants-bad", "tiny", version=66))
    found = trained.wait_condition("mver", "tiny-v66", "Stalled")
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "DigestMismatch"
    assert good["status"]["resolvedDigest"] in stalled["message"]
    served = trained.wait_condition("ipool", "wants-bad", "Stalled")
    assert condition(served, "Ready")["reason"] == "ModelNotReady"
    assert "tiny-v66" in condition(served, "Ready")["message"]
    assert trained.list("deployments", "aifactory.dev/pool-name=wants-bad") == []


def test_a_source_that_is_not_there_is_named(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    trained.apply(objects.copy_version(good, 67, source={"uri": "pvc://aifactory-models/tiny/nowhere"}))
    found = trained.wait_condition("mver", "tiny-v67", "Stalled")
    assert condition(found, "Stalled")["reason"] == "SourceNotFound"
    assert "pvc://aifactory-models/tiny/nowhere" in condition(found, "Stalled")["message"]


def test_a_version_in_use_is_not_deleted(trained: Kubectl) -> None:
    good = trained.get("mver", "tiny-v1")
    trained.apply(objects.copy_version(good, 5))
    trained.wait_condition("mver", "tiny-v5", "Ready")
    trained.apply(objects.pool("user", "tiny", version=5, replicas=0))
    trained.wait_condition("mver", "tiny-v5", "InUse")
    refused = trained.run("delete", "mver", "tiny-v5", check=False)
    assert refused.code != 0
    assert "in use by InferencePool/user" in refused.err
    trained.run("delete", "ipool", "user")
    trained.wait_condition("mver", "tiny-v5", "InUse", "False")
    trained.run("delete", "mver", "tiny-v5")
