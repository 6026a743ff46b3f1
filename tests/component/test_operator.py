"""The real operator process against a real API server; the test plays kubelet and scheduler."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from aifactory.api import names
from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.support.exposition import documented, types, value
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

FAST = {"failurePolicy": {"backoff": {"baseSeconds": 0}}}


@pytest.fixture(scope="module")
def operator(start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    """One operator for the module."""
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()
    assert "Traceback" not in process.log.read_text(), process.words()


def pod_names(ns: Kubectl, role: str = "node") -> list[str]:
    """Beside them there may be some that failed and are kept for their logs."""
    found = ns.list("pods", f"aifactory.dev/role={role}")
    return sorted(pod["metadata"]["name"] for pod in found if pod["status"].get("phase") != "Failed")


def wait_pods(ns: Kubectl, *names: str, role: str = "node") -> None:
    wait_for(f"pods {names}", lambda: pod_names(ns, role), lambda seen: seen == sorted(names), seconds=30)


def test_the_life_of_a_job(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.job("life", ["true"], nodes=2, output={"model": {"name": "life", "format": "huggingface"}}))
    wait_pods(ns, "life-0-0", "life-1-0")
    found = ns.get("pod", "life-1-0")
    env = {entry["name"]: entry.get("value") for entry in found["spec"]["containers"][0]["env"]}
    assert env["PET_RDZV_ENDPOINT"] == "life-0-0.life-nodes:29500"
    assert found["spec"]["schedulingGroup"] == {"podGroupName": "life-0"}
    assert ns.get("podgroup", "life-0")["spec"]["schedulingPolicy"]["gang"]["minCount"] == 2
    assert ns.get("service", "life-nodes")["spec"]["clusterIP"] == "None"

    for name in ("life-0-0", "life-1-0"):
        pods.run(ns, name)
    found = ns.wait_condition("tjob", "life", "Running")
    assert found["status"]["phase"] == "Running"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert condition(found, "Ready")["status"] == "True"

    for name in ("life-0-0", "life-1-0"):
        pods.end(ns, name, 0)
    wait_pods(ns, "life-publish-0", role="publish")
    answer = {"uri": "pvc://aifactory-models/life/0123", "digest": "sha256:" + "1" * 64, "format": "huggingface"}
    pods.end(ns, "life-publish-0", 0, json.dumps({**answer, "metrics": {"heldOutBitsPerByte": 2.5}}), "publish")
    found = ns.wait_condition("tjob", "life", "Complete")
    output = found["status"]["output"]
    assert (output["modelVersion"], output["uri"], output["digest"]) == ("life-v1", answer["uri"], answer["digest"])
    version = ns.get("mver", "life-v1")
    assert version["spec"]["digest"] == answer["digest"]
    assert version["spec"]["lineage"]["trainingJob"] == {"name": "life", "uid": found["metadata"]["uid"]}
    assert {"name": "heldOutBitsPerByte", "value": "2.5"} in version["spec"]["lineage"]["metrics"]
    assert "ownerReferences" not in version["metadata"], "a model outlives the job that made it"
    ns.run("wait", "--for=condition=Complete", "tjob/life", "--timeout=5s")


def test_the_store_is_found_good_before_a_pod_that_trains_is_made(ns: Kubectl, operator: Operator) -> None:
    store = {"store": "s3://team/models", "secretRef": {"name": "keys"}}
    ns.apply(objects.job("probed", ["true"], output={"model": {"name": "m", "format": "huggingface"}, **store}))
    wait_pods(ns, "probed-probe-0", role="probe")
    denied = {"reason": "AccessDenied", "message": "s3://team/models/m: access denied (403)"}
    pods.end(ns, "probed-probe-0", 1, json.dumps(denied), "probe")
    found = ns.wait_condition("tjob", "probed", "Stalled")
    assert found["status"]["reason"] == "AccessDenied"
    assert condition(found, "Stalled")["message"].startswith("s3://team/models with Secret keys: pod probed-probe-0: ")
    assert pod_names(ns) == []
    ns.run("annotate", "tjob", "probed", "aifactory.dev/retry=1")
    wait_pods(ns, "probed-probe-1", role="probe")
    pods.end(ns, "probed-probe-1", 0, json.dumps({"uri": "s3://team/models/m"}), "probe")
    wait_pods(ns, "probed-0-0")
    wait_pods(ns, role="probe")
    assert ns.get("tjob", "probed")["status"]["output"]["probed"] == "s3://team/models"


def test_inputs_are_there_before_a_pod_that_trains_is_made(ns: Kubectl, operator: Operator) -> None:
    digest = f"sha256:{'1' * 64}"
    corpus = {"name": "corpus", "uri": "s3://bucket/corpus", "secretRef": {"name": "keys"}}
    base = {"name": "base", "modelVersion": "reads-v7"}
    ns.apply(objects.job("reads", ["true"], nodes=2, inputs=[corpus, base]))
    (name,) = wait_for("a pod that fetches", lambda: pod_names(ns, "input"), lambda seen: len(seen) == 1, seconds=30)
    assert ns.get("pvc", "aifactory-inputs")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert json.loads(ns.get("pod", name)["spec"]["containers"][0]["args"][2])["uri"] == corpus["uri"]
    pods.end(ns, name, 1, json.dumps({"reason": "AccessDenied", "message": "access denied (403)"}), "input")
    found = ns.wait_condition("tjob", "reads", "Stalled")
    words = condition(found, "InputsReady")["message"]
    assert words.startswith("0 of 2 inputs are there; input corpus: s3://bucket/corpus with Secret keys: pod ")
    assert pod_names(ns) == []
    assert ns.list("podgroups") == []

    version = {"model": "reads", "version": 7, "source": {"uri": "pvc://models/reads/7"}, "format": "huggingface"}
    ns.apply(
        {
            "apiVersion": "aifactory.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": "reads-v7"},
            "spec": version,
        }
    )
    wait_pods(ns, "reads-v7-verify-0", role="verify")
    verified = {"digest": digest, "files": 2, "sizeBytes": 1000}
    pods.end(ns, "reads-v7-verify-0", 0, json.dumps(verified), "verify")
    ns.wait_condition("mver", "reads-v7", "Ready")
    ns.run("annotate", "tjob", "reads", "aifactory.dev/retry=1")
    fetching = wait_for("both", lambda: pod_names(ns, "input"), lambda seen: len(seen) == 2, seconds=30)
    for name in fetching:
        pods.end(ns, name, 0, json.dumps({"uri": "x", "digest": digest, "files": 2, "sizeBytes": 1000}), "input")
    wait_pods(ns, "reads-0-0", "reads-1-0")
    wait_pods(ns, role="input")
    mounts = ns.get("pod", "reads-1-0")["spec"]["containers"][0]["volumeMounts"]
    assert {
        "name": "aifactory-inputs",
        "mountPath": "/workspace/inputs/base",
        "subPath": f"inputs/sha256-{'1' * 64}",
        "readOnly": True,
    } in mounts
    ns.run("wait", "--for=condition=InputsReady", "tjob/reads", "--timeout=5s")
    status = wait_for(
        "what its pods have", lambda: ns.get("tjob", "reads")["status"], lambda seen: "resolved" in seen, seconds=30
    )
    assert [(entry["name"], entry["phase"], entry["percent"]) for entry in status["inputs"]] == [
        ("corpus", "Ready", 100),
        ("base", "Ready", 100),
    ]
    assert status["resolved"]["inputs"][1]["modelVersion"] == "reads-v7"


def test_a_program_is_asked_before_a_pod_that_trains_is_made(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.job("asked", ["torchrun", "-m", "aifactory_trainer.sft", "--lora-targets=x"], nodes=2))
    (name,) = wait_for("a pod that checks", lambda: pod_names(ns, "check"), lambda seen: len(seen) == 1, seconds=30)
    (container,) = ns.get("pod", name)["spec"]["containers"]
    assert container["command"][2:] == ["aifactory_trainer.sft", "--lora-targets=x"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    coming = next(each["value"] for each in container["env"] if each["name"] == "AIFACTORY_CHECK")
    assert json.loads(coming) == {"processes": 2, "device": "cuda"}
    said = {"message": "NoRestart: --lora-targets of Llama: no layer of it is called 'x'", "errorCode": 93}
    pods.end(ns, name, 1, json.dumps({"message": said}), "check")
    found = ns.wait_condition("tjob", "asked", "Stalled")
    assert (found["status"]["phase"], found["status"]["reason"]) == ("Pending", "CheckFailed")
    assert condition(found, "Checked")["status"] == "False"
    assert (
        f"pod {name}: --lora-targets of Llama: no layer of it is called 'x'" in condition(found, "Stalled")["message"]
    )
    assert pod_names(ns) == []
    assert ns.list("podgroups") == []

    mended = objects.job("asked", ["torchrun", "-m", "aifactory_trainer.sft", "--lora-targets=q_proj"], nodes=2)
    ns.apply(mended)
    (again,) = wait_for(
        "another pod that checks", lambda: pod_names(ns, "check"), lambda seen: seen and seen != [name], seconds=30
    )
    pods.end(ns, again, 0, "", "check")
    wait_pods(ns, "asked-0-0", "asked-1-0")
    wait_pods(ns, role="check")
    ns.run("wait", "--for=condition=Checked", "tjob/asked", "--timeout=5s")
    assert ns.get("tjob", "asked")["status"]["check"]["phase"] == "Passed"


def test_a_publisher_that_may_not_be_made_is_told_before_anything_trains(ns: Kubectl, operator: Operator) -> None:
    """Nothing keeps the template from passing; the pod of ours is the one that the namespace has no room for."""
    limits = [{"type": "Container", "max": {"memory": "64Mi"}}]
    ns.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": limits}})
    small = {"limits": {"memory": "32Mi"}}
    job = objects.job("told", ["true"], output={"model": {"name": "told", "format": "huggingface"}})
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = small
    ns.apply(job)
    found = ns.wait_condition("tjob", "told", "Stalled")
    assert "Pod told-publish-0: " in condition(found, "Stalled")["message"]
    assert "maximum memory usage per Container is 64Mi" in condition(found, "Stalled")["message"]
    assert pod_names(ns) == []
    assert ns.list("pods") == []
    ns.run("delete", "limitrange", "small")
    wait_pods(ns, "told-0-0")


def _running(ns: Kubectl, name: str) -> Json:
    """A job of one pod that runs; returns the job."""
    job = objects.job(name, ["true"], output={"model": {"name": name, "format": "huggingface"}})
    ns.apply(job)
    wait_pods(ns, f"{name}-0-0")
    pods.run(ns, f"{name}-0-0")
    ns.wait_condition("tjob", name, "Running")
    return job


def test_an_edit_that_the_api_server_refuses_stops_nothing(ns: Kubectl, operator: Operator) -> None:
    job = _running(ns, "typo")
    uid = ns.get("pod", "typo-0-0")["metadata"]["uid"]
    spec = job["spec"]["template"]["spec"]
    spec["containers"][0]["imagePullPolcy"] = "Always"
    ns.apply(job)
    found = ns.wait_condition("tjob", "typo", "Stalled")
    assert 'unknown field "spec.containers[0].imagePullPolcy"' in condition(found, "Stalled")["message"]
    assert "those of attempt 0 run on as they are" in condition(found, "Stalled")["message"]
    assert (condition(found, "Running")["status"], found["status"]["phase"]) == ("True", "Running")

    del spec["containers"][0]["imagePullPolcy"]
    spec["serviceAccountName"] = "bot"
    ns.apply(job)
    found = ns.wait("tjob", "typo", "to miss it", lambda f: f["status"]["reason"] == "DependencyMissing")
    assert 'serviceaccount "bot" not found' in condition(found, "Stalled")["message"]
    assert ns.get("pod", "typo-0-0")["metadata"]["uid"] == uid
    assert pod_names(ns) == ["typo-0-0"]
    ns.run("create", "serviceaccount", "bot")
    wait_for("the next attempt", lambda: pod_names(ns), lambda seen: seen == ["typo-0-1"], seconds=60)


def test_an_edit_in_a_quota_that_the_job_fills_itself_is_made(ns: Kubectl, operator: Operator) -> None:
    job = _running(ns, "filled")
    ns.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}})
    ns.wait("resourcequota", "q", "to count the pod", lambda f: f.get("status", {}).get("used") == {"pods": "1"})
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "trainer:2"
    ns.apply(job)
    wait_pods(ns, "filled-0-1")


def test_one_failed_pod_restarts_all(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.job("again", ["true"], nodes=2, **FAST))
    wait_pods(ns, "again-0-0", "again-1-0")
    for name in ("again-0-0", "again-1-0"):
        pods.run(ns, name)
    ns.wait_condition("tjob", "again", "Running")
    pods.end(ns, "again-1-0", 1, "ValueError: loss is nan")
    wait_pods(ns, "again-0-1", "again-1-1")
    assert ns.get("pod", "again-1-0")["status"]["phase"] == "Failed", "it is kept for its log"
    found = ns.wait(
        "tjob", "again", "to count the restart", lambda f: (f["status"]["restarts"] or {}).get("total") == 1
    )
    failure = found["status"]["lastFailure"]
    assert (failure["pod"], failure["cause"], failure["exitCode"]) == ("again-1-0", "ApplicationError", 1)
    words = "container trainer ended with exit code 1: ValueError: loss is nan; see: kubectl logs again-1-0"
    assert failure["message"] == words
    assert found["status"]["attempt"] == 1


def test_a_job_that_somebody_holds_while_it_is_being_deleted_ends_its_pods(ns: Kubectl, operator: Operator) -> None:
    job = objects.job("held", ["true"], nodes=2)
    job["metadata"]["finalizers"] = ["example.com/hold"]
    ns.apply(job)
    wait_pods(ns, "held-0-0", "held-1-0")
    ns.run("delete", "tjob", "held", "--wait=false")
    wait_pods(ns)
    found = ns.wait("tjob", "held", "to say so", lambda f: f.get("status", {}).get("phase") == "Terminating")
    assert condition(found, "Reconciling")["message"].endswith("these finalizers have: example.com/hold")
    ns.run("patch", "tjob", "held", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_a_pool_waits_then_serves_then_follows(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.pool("chat", "m", replicas=1, rollout={"strategy": "Surge"}))
    found = ns.wait_condition("ipool", "chat", "Ready", "False")
    assert condition(found, "Ready")["reason"] == "WaitingForModel"
    make_ready(ns, 1)
    first = _deployment(ns, "chat", 1)
    _set_ready(ns, first)
    found = ns.wait_condition("ipool", "chat", "Ready")
    assert found["status"]["version"] == "1"
    assert ns.wait_condition("mver", "m-v1", "InUse")["status"]["usedBy"] == [{"kind": "InferencePool", "name": "chat"}]

    make_ready(ns, 2)
    second = _deployment(ns, "chat", 2)
    assert ns.get("deployment", first)["spec"]["replicas"] == 1, "the old pod stays until the new one is ready"
    _set_ready(ns, second)
    found = ns.wait("ipool", "chat", "to serve version 2", lambda f: f["status"]["version"] == "2")
    wait_for("the old Deployment to go", lambda: ns.get("deployment", first), lambda seen: not seen)
    ns.wait_condition("mver", "m-v1", "InUse", "False")


def test_an_object_of_another_controller_is_left_alone(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.job("theirs", ["true"], managedBy="kueue.x-k8s.io/multikueue"), objects.job("ours", ["true"]))
    wait_pods(ns, "ours-0-0")
    assert "status" not in ns.get("tjob", "theirs")


def test_a_report_needs_the_pods_own_token(ns: Kubectl, operator: Operator, control_plane: ControlPlane) -> None:
    ns.apply(objects.job("talks", ["true"]))
    wait_pods(ns, "talks-0-0")
    pods.run(ns, "talks-0-0")
    ns.wait_condition("tjob", "talks", "Running")
    bound = ["--bound-object-kind=Pod", "--bound-object-name=talks-0-0"]
    token = ns.run("create", "token", "default", "--audience=aifactory.dev/progress", *bound).out.strip()
    wrong_audience = ns.run("create", "token", "default", *bound).out.strip()
    unbound = ns.run("create", "token", "default", "--audience=aifactory.dev/progress").out.strip()
    report = {"step": 50, "totalSteps": 200, "tokensPerSecond": 1234.5, "metrics": {"loss": 2.5}}

    assert _post(operator, ns, "talks", "nonsense", report)[0] == 401
    assert _post(operator, ns, "talks", wrong_audience, report)[0] == 401
    assert _post(operator, ns, "talks", unbound, report)[0] == 401
    assert _post(operator, ns, "other", token, report)[0] == 403
    code, words = _post(operator, ns, "talks", token, {"step": "x"})
    assert (code, words.startswith("step:")) == (400, True), words
    assert _post(operator, ns, "talks", token, report)[0] == 204
    found = ns.wait(
        "tjob", "talks", "to show progress", lambda f: (f["status"].get("progress") or {}).get("step") == 50
    )
    assert found["status"]["progress"]["summary"] == "25%"
    assert found["status"]["progress"]["loss"] == "2.500"


def test_killed_and_started_again_ends_the_same(ns: Kubectl, start_operator: Callable[..., Operator]) -> None:
    for step in ("created", "failed"):
        name = f"hit-{step}"
        process = start_operator("--no-leader-elect")
        process.wait_ready()
        ns.apply(objects.job(name, ["true"], nodes=2, **FAST))
        wait_pods_of(ns, name, f"{name}-0-0", f"{name}-1-0")
        if step == "failed":
            pods.run(ns, f"{name}-0-0")
            pods.run(ns, f"{name}-1-0")
            ns.wait_condition("tjob", name, "Running")
            pods.end(ns, f"{name}-0-0", 1)
        process.kill()
        process = start_operator("--no-leader-elect")
        process.wait_ready()
        attempt = 1 if step == "failed" else 0
        wait_pods_of(ns, name, f"{name}-0-{attempt}", f"{name}-1-{attempt}")
        for index in (0, 1):
            pods.end(ns, f"{name}-{index}-{attempt}", 0)
        found = ns.wait_condition("tjob", name, "Complete")
        assert found["status"]["restarts"]["total"] == attempt
        assert process.stop() == 0


def wait_pods_of(ns: Kubectl, job: str, *names: str) -> None:
    wait_for(
        f"pods {names}",
        lambda: sorted(
            pod["metadata"]["name"]
            for pod in ns.list("pods", f"aifactory.dev/job-name={job}")
            if pod["status"].get("phase") != "Failed"
        ),
        lambda seen: seen == sorted(names),
        seconds=40,
    )


def _post(operator: Operator, ns: Kubectl, job: str, token: str, body: Json) -> tuple[int, str]:
    url = f"http://127.0.0.1:{operator.progress_port}/v1/progress/{ns.namespace}/{job}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_somebody_edits_is_put_back_and_what_they_add_stays(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.pool("drift", "m", replicas=1))
    make_ready(ns, 1)
    name = _deployment(ns, "drift", 1)
    wait_for("the Service", lambda: ns.get("service", "drift"), bool)

    def standing() -> tuple[int, Json, str]:
        """With the note of what has been put back: that goes with a write of its own."""
        found = ns.get("deployment", name)
        note = found["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        return found["spec"]["replicas"], found["spec"]["template"], note

    wanted = standing()
    ns.run("patch", "service", "drift", "--type=merge", "-p", '{"spec": {"selector": {"app": "mine"}}}')
    ns.run("patch", "service", "drift", "--type=merge", "-p", '{"spec": {"sessionAffinity": "ClientIP"}}')
    ns.run("scale", "deployment", name, "--replicas=3")
    ns.run("set", "image", f"deployment/{name}", "triton=mine:1")
    found = wait_for(
        "the Service as it should be",
        lambda: ns.get("service", "drift")["spec"],
        lambda spec: spec["selector"].get("aifactory.dev/pool-name") == "drift",
    )
    assert found["sessionAffinity"] == "ClientIP", "what is not ours is left alone"
    wait_for("the Deployment as it should be", standing, lambda seen: seen == wanted)
    versions = {kind: ns.get(kind, child)["metadata"]["generation"] for kind, child in (("deployment", name),)}
    ns.run("annotate", "ipool", "drift", "look=again")  # one more reconcile
    wait_for("the pool looked at again", lambda: ns.get("ipool", "drift")["metadata"]["annotations"], bool)
    assert versions == {"deployment": ns.get("deployment", name)["metadata"]["generation"]}


def test_who_may_reach_a_pools_pods_is_kept_as_the_pool_says(ns: Kubectl, operator: Operator) -> None:
    web = {"podSelector": {"matchLabels": {"app": "web"}}}
    ns.apply(objects.pool("guarded", "m", security={"networkPolicy": True, "allowFrom": [web]}))

    def opened(found: Json) -> object:
        return found and [rule.get("from") for rule in found["spec"]["ingress"]] == [[web]]

    first = ns.wait("networkpolicy", "guarded-serving", "to let clients in", opened)
    ns.run("patch", "networkpolicy", "guarded-serving", "--type=merge", "-p", '{"spec": {"ingress": [{}]}}')
    ns.wait("networkpolicy", "guarded-serving", "to be as it was", opened)
    ns.run("delete", "networkpolicy", "guarded-serving")
    again = ns.wait("networkpolicy", "guarded-serving", "to be there again", opened)
    assert again["metadata"]["uid"] != first["metadata"]["uid"]

    wrong = {"spec": {"security": {"allowFrom": [{"ipBlock": {"cidr": "nowhere"}}]}}}
    ns.run("patch", "ipool", "guarded", "--type=merge", "-p", json.dumps(wrong))
    found = ns.wait_condition("ipool", "guarded", "Stalled")
    told = condition(found, "Stalled")
    assert told["reason"] == "PodRejected"
    assert 'cidr: Invalid value: "nowhere"' in told["message"]
    ns.run("patch", "ipool", "guarded", "--type=merge", "-p", '{"spec": {"security": {"networkPolicy": false}}}')
    wait_for("the policy to go", lambda: ns.get("networkpolicy", "guarded-serving"), lambda seen: not seen)


def make_ready(ns: Kubectl, version: int, model: str = "m") -> None:
    """A version of a model that was found good."""
    name = f"{model}-v{version}"
    ns.apply(
        {
            "apiVersion": "aifactory.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {
                "model": model,
                "version": version,
                "source": {"uri": f"pvc://models/{model}/{version}"},
                "format": "huggingface",
            },
        }
    )
    verifier = f"{name}-verify-0"
    wait_for(f"pod {verifier}", lambda: ns.get("pod", verifier), bool)
    pods.end(ns, verifier, 0, json.dumps({"digest": f"sha256:{version:064d}", "files": 2, "sizeBytes": 9}), "verify")
    ns.wait_condition("mver", name, "Ready")


def _deployment(ns: Kubectl, pool: str, count: int) -> str:
    found = wait_for(
        f"{count} Deployments",
        lambda: ns.list("deployments", f"aifactory.dev/pool-name={pool}"),
        lambda d: len(d) == count,
    )
    newest = max(found, key=lambda item: item["metadata"]["annotations"]["aifactory.dev/version"])
    return str(newest["metadata"]["name"])


def _set_ready(ns: Kubectl, deployment: str) -> None:
    """The model is loaded in the Deployment's pod; the real Deployment controller makes and counts it."""
    revision = deployment.partition("-")[2]  # the pool's name holds no hyphen
    found = wait_for(
        f"a pod of {deployment}",
        lambda: ns.list("pods", f"aifactory.dev/revision={revision}"),
        lambda pods: len(pods) == 1,
    )
    pods.serve(ns, found[0]["metadata"]["name"])


def test_what_it_tells_prometheus_is_what_the_page_says(ns: Kubectl, operator: Operator) -> None:
    price = {"cost": {"gpuHourPrice": "3.60"}}
    ns.apply(objects.pool("chat", "none", **price), objects.job("train", ["true"], suspend=True, **price))
    ns.wait("ipool", "chat", "to wait", lambda found: found.get("status", {}).get("phase") == "Waiting")
    ns.wait("tjob", "train", "to be suspended", lambda found: found.get("status", {}).get("phase") == "Suspended")
    page = wait_for(
        "both to be told",
        lambda: operator.fetch("/metrics"),
        lambda page: (
            value(page, "aifactory_job_running", name="train", namespace=str(ns.namespace)) == 0
            and value(page, "aifactory_pool_replicas_wanted", name="chat", namespace=str(ns.namespace)) == 1
        ),
    )
    assert types(page) == documented("Objects", "Operator"), "run: make generate"
    assert (value(page, "aifactory_objects", kind="InferencePool", phase="Waiting") or 0) >= 1
    assert value(page, "aifactory_job_gpus", name="train") is None, "what is not known is not 0"
    refused = ns.refuse(objects.pool("dear", "none", cost={"gpuHourPrice": "2,49"}))
    assert "spec.cost.gpuHourPrice" in refused
