"""A factory that Argo CD keeps: waves wait, nothing drifts, nobody fights, and what goes away goes whole.

In order: what a test has made is what the next one begins with.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.argo.conftest import APPLICATIONS, Page, lines_of_the_page
from tests.argo.running import Argo, Repository, Watch, application, state
from tests.cluster import objects
from tests.support.kubectl import ROOT, Json, Kubectl, condition
from tests.support.waiting import wait_for

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))
TRAINING = "examples/argocd/factory/training.yaml"
COMPARE = "argocd.argoproj.io/compare-options"
SERVER_SIDE = "ServerSideDiff=true"


def ours(kubectl: Kubectl) -> list[Json]:
    """Objects of all of our kinds."""
    return [found for kind in ("tjob", "mver", "ipool") for found in kubectl.list(kind)]


def settled(watch: Watch, name: str) -> bool:
    """Once it was Synced, it was never OutOfSync again."""
    seen = [told.partition(" ")[0] for told in watch.seen(name)]
    return "Synced" in seen and "OutOfSync" not in seen[seen.index("Synced") :]


def test_the_operator_comes_from_the_chart_and_does_not_drift(operator: Kubectl, argo: Argo, watch: Watch) -> None:
    found = argo.app("aifactory")
    assert {entry["status"] for entry in found["status"]["resources"]} == {"Synced"}
    assert argo.health("aifactory")["Deployment/aifactory-operator"][0] == "Healthy"
    for options in ("", SERVER_SIDE):
        argo.kubectl.run("annotate", "applications.argoproj.io", "aifactory", f"{COMPARE}={options}", "--overwrite")
        argo.refresh("aifactory")
        assert state(argo.app("aifactory")) == ("Synced", "Healthy", "Succeeded"), options
    assert settled(watch, "aifactory")
    assert len(argo.app("aifactory")["status"]["history"]) == 1


def test_waves_wait_for_the_training_and_hooks_stand_before_and_after(
    factory: Kubectl, argo: Argo, watch: Watch
) -> None:
    wait_for(
        "the job to be there, and Progressing",
        lambda: watch.seen("factory"),
        lambda seen: any(told.endswith("Progressing Running") for told in seen),
        seconds=90,
    )
    argo.wait("factory", seconds=240)
    job, pool = factory.get("tjob", "tiny-gpt-1"), factory.get("ipool", "chat")
    before, after = factory.get("job", "one-step"), factory.get("job", "smoke-test")
    assert before["status"]["completionTime"] <= job["metadata"]["creationTimestamp"], "it was trained before the hook"
    assert pool["metadata"]["creationTimestamp"] >= job["status"]["completionTime"], "wave 1 did not wait for wave 0"
    assert after["metadata"]["creationTimestamp"] >= condition(pool, "Ready")["lastTransitionTime"]
    assert after["status"]["succeeded"] == 1
    told = argo.health("factory")
    assert told["TrainingJob/tiny-gpt-1"][0] == told["InferencePool/chat"][0] == "Healthy"
    assert settled(watch, "factory")


def test_another_training_is_a_commit_and_actions_are_no_drift(
    factory: Kubectl, argo: Argo, page: Page, watch: Watch, repository: Repository
) -> None:
    repository.edit(TRAINING, "tiny-gpt-1", "tiny-gpt-2")
    repository.edit(TRAINING, "--steps=20", "--steps=400")
    revision = repository.commit("train once more")
    argo.refresh("factory")
    factory.wait("tjob", "tiny-gpt-2", "trains", lambda found: found.get("status", {}).get("progress", {}).get("step"))
    page.run("argocd app actions run factory suspend")
    factory.wait_condition("tjob", "tiny-gpt-2", "Suspended", seconds=90)
    wait_for(
        "Argo CD to show it as Suspended, and the wave to go on waiting",
        lambda: (argo.health("factory")["TrainingJob/tiny-gpt-2"], state(argo.app("factory"))),
        lambda seen: seen[0][0] == seen[1][1] == "Suspended" and seen[1][2] == "Running",
    )
    argo.refresh("factory")
    assert factory.get("tjob", "tiny-gpt-2")["spec"]["suspend"] is True, "self-healing took the action back"
    page.run("argocd app actions run factory resume")
    argo.wait("factory", revision=revision, seconds=240)
    assert [found["metadata"]["name"] for found in factory.list("tjob")] == ["tiny-gpt-2"], "the one of before stays"
    assert {found["metadata"]["name"] for found in factory.list("mver")} == {"tiny-gpt-v1", "tiny-gpt-v2"}
    factory.wait("ipool", "chat", "serves the new version", lambda found: found["status"]["version"] == "2")
    since = watch.mark()
    assert "suspend" in factory.get("tjob", "tiny-gpt-2")["spec"], "what Git does not have"
    argo.refresh("factory")
    assert "OutOfSync" not in " ".join(watch.seen("factory", since))
    assert state(argo.app("factory"))[0] == "Synced"


def test_a_promotion_is_a_commit_and_back_is_its_revert(
    factory: Kubectl, argo: Argo, page: Page, repository: Repository
) -> None:
    page.run("kubectl apply -f examples/argocd/applications/production.yaml")
    argo.wait("production")
    served = [factory.get("ipool", "production-chat")["status"]["version"]]

    def promote() -> None:
        repository.edit("examples/argocd/kustomize/overlays/production/version.yaml", "version: 1", "version: 2")
        repository.commit("production serves version 2")

    for commit in (promote, lambda: page.run("git revert --no-edit HEAD")):
        commit()
        argo.refresh("production")
        argo.wait("production", revision=repository.git("rev-parse", "HEAD"))
        served.append(factory.get("ipool", "production-chat")["status"]["version"])
    assert served == ["1", "2", "1"], "Healthy is the version that the commit says"


def test_what_somebody_changes_is_healed_once_by_whose_it_is(factory: Kubectl, argo: Argo, watch: Watch) -> None:
    """What is in Git by Argo CD; what the operator has made by the operator, and Argo CD has nothing to do with it."""
    since, history = watch.mark(), len(argo.app("production")["status"]["history"])
    service = factory.get("service", "production-chat")["metadata"]["uid"]
    factory.run("delete", "service", "production-chat")
    factory.wait("service", "production-chat", "is back", lambda found: found["metadata"]["uid"] != service, seconds=60)
    argo.refresh("production")
    argo.wait("production")
    assert "OutOfSync" not in " ".join(watch.seen("production", since))
    assert len(argo.app("production")["status"]["history"]) == history
    before = factory.get("ipool", "production-chat")
    factory.run("scale", "ipool", "production-chat", "--replicas=2")
    factory.wait("ipool", "production-chat", "has what Git says", lambda found: found["spec"] == before["spec"])
    argo.wait("production")
    argo.refresh("production")
    found = factory.get("ipool", "production-chat")["metadata"]
    assert found["generation"] == before["metadata"]["generation"] + 2, "one edit there and one back"


@pytest.mark.parametrize("options", ["", SERVER_SIDE], ids=["three-way", "server-side"])
def test_no_example_ever_drifts(
    options: str,
    operator: Kubectl,
    argo: Argo,
    watch: Watch,
    repository: Repository,
    cluster: Kubectl,
    leaving: list[str],
) -> None:
    """All beside each other, in namespaces without room for pods: what the operator writes is there all the same."""
    names = {f"{Path(file).stem}-{'s' if options else 'c'}": file for file in EXAMPLES}
    quota: Json = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    quota["spec"] = {"hard": {"pods": "0"}}
    made = []
    for name, file in names.items():
        cluster.run("create", "namespace", name)
        leaving.append(name)
        cluster.within(name).apply(quota)
        found = application(APPLICATIONS / "factory.yaml", repository)
        found["metadata"] |= {"name": name, "annotations": {COMPARE: options}}
        found["spec"]["source"] |= {"path": "examples", "directory": {"include": file}}
        found["spec"]["destination"]["namespace"] = name
        made.append(found)
    argo.apply(*made)
    try:
        for name in names:
            wait_for(
                f"{name} to be in sync, and looked at by the operator",
                partial(looked_at, argo, name, cluster.within(name)),
                lambda seen: seen[0][::2] == ("Synced", "Succeeded") and seen[1] and None not in seen[1].values(),
                seconds=90,
            )
        before = {name: generations(cluster.within(name)) for name in names}
        for _ in range(2):
            argo.refresh(*names)
        assert [name for name in names if not settled(watch, name)] == []
        assert {name: len(argo.app(name)["status"]["history"]) for name in names} == dict.fromkeys(names, 1)
        assert {name: generations(cluster.within(name)) for name in names} == before, "somebody writes to a spec"
        argo.delete(*names)
        assert {name: ours(cluster.within(name)) for name in names} == {name: [] for name in names}
    finally:
        argo.delete(*names)
        for name in names:
            cluster.run("delete", "namespace", name, "--wait=false")


def looked_at(argo: Argo, name: str, kubectl: Kubectl) -> tuple[tuple[str, str, str], dict[str, Json | None]]:
    """An Application's state, and the conditions of each object of ours in its namespace."""
    found = {found["metadata"]["name"]: found.get("status", {}).get("conditions") for found in ours(kubectl)}
    return state(argo.app(name)), found


def generations(kubectl: Kubectl) -> dict[str, int]:
    return {found["metadata"]["uid"]: found["metadata"]["generation"] for found in ours(kubectl)}


def test_a_wave_that_fails_says_why_and_a_commit_mends_it(factory: Kubectl, argo: Argo, repository: Repository) -> None:
    """The pool of the next wave is not made; the sync begins again with the commit that mends, not with the old one."""
    wave = "argocd.argoproj.io/sync-wave"
    job = objects.job("ends", ["python3", "-c", "raise SystemExit('no data')"], failurePolicy={"maxRestarts": 0})
    pool = objects.pool("next", "tiny-gpt", version=1)
    pool["metadata"]["annotations"] = {wave: "1"}
    repository.write("broken/job.yaml", job)
    repository.write("broken/pool.yaml", pool)
    repository.commit("a job that fails")
    found = application(APPLICATIONS / "factory.yaml", repository)
    found["metadata"]["name"] = "broken"
    found["spec"]["source"]["path"] = "broken"
    assert found["spec"]["syncPolicy"]["retry"]["refresh"] is True
    argo.apply(found)
    try:
        seen = wait_for(
            "the sync to have failed",
            lambda: argo.app("broken").get("status", {}).get("operationState", {}),
            lambda seen: "Retrying" in seen.get("message", ""),
            seconds=90,
        )
        stalled = condition(factory.get("tjob", "ends"), "Stalled")
        told = f"{stalled['reason']}: {stalled['message']}"
        assert "no data" in told
        assert [entry["message"] for entry in seen["syncResult"]["resources"]] == [told]
        assert argo.health("broken")["TrainingJob/ends"] == ("Degraded", told)
        assert factory.get("ipool", "next") == {}
        job["metadata"]["name"] = "ends-well"
        job["spec"]["template"]["spec"]["containers"][0]["command"] = ["true"]
        repository.write("broken/job.yaml", job)
        argo.wait("broken", revision=repository.commit("mended"))
        assert factory.get("tjob", "ends") == {}
    finally:
        argo.delete("broken")


def test_a_deleted_application_takes_all_of_it_along_and_leaves_the_versions(factory: Kubectl, argo: Argo) -> None:
    argo.delete("production", "factory")
    assert factory.list("ipool") == factory.list("tjob") == []
    wait_for("its pods to be gone", lambda: factory.list("pods"), lambda pods: not pods, seconds=90)
    assert {found["metadata"]["name"] for found in factory.list("mver")} == {"tiny-gpt-v1", "tiny-gpt-v2"}


def test_the_operator_goes_and_leaves_the_kinds_with_all_objects(
    operator: Kubectl, factory: Kubectl, argo: Argo
) -> None:
    before = ours(factory)
    assert before
    argo.delete("aifactory")
    assert operator.list("deployment") == []
    assert ours(factory) == before


def test_every_command_of_the_page_was_run(page: Page) -> None:
    """The last of the suite."""
    assert sorted(page.ran) == sorted(lines_of_the_page())
