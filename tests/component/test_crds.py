"""The CRDs on a real API server: what is accepted comes back unchanged, what is refused says what to write."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.cluster import objects
from tests.support.kubectl import Json, Kubectl

POOL = objects.pool("p", "m")
JOB = objects.job("j", ["true"])
VERSION: Json = {
    "apiVersion": "aifactory.dev/v1alpha1",
    "kind": "ModelVersion",
    "metadata": {"name": "m-v1"},
    "spec": {"model": "m", "version": 1, "source": {"uri": "pvc://models/m/1"}, "format": "huggingface"},
}


def changed(base: Json, path: str, value: Any) -> Json:
    """A copy of an object with one field set."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    node: Any = result
    for part in parents:
        node = node[int(part)] if part.isdecimal() else node.setdefault(part, {})
    if isinstance(node, list):
        node.append(value)
    else:
        node[last] = value
    return result


TRAINER = "spec.template.spec.containers.0"
OUTPUT = {"model": {"name": "m", "format": "huggingface"}}
CORPUS = {"name": "corpus", "uri": "hf://org/corpus@main"}
READS = changed(JOB, "spec.inputs", [CORPUS])


def reading(**changes: Any) -> Json:
    """A job whose only input has these fields too, or without those that are None."""
    wish = {key: value for key, value in {**CORPUS, **changes}.items() if value is not None}
    return changed(JOB, "spec.inputs", [wish])


COMPARES: list[Json] = [{"weight": 5}, {"analyzeSeconds": 30}]


KEYS = {"secretRef": {"name": "keys"}}


def gateway(**spec: Any) -> Json:
    return changed(POOL, "spec.gateway", spec)


def behind(**spec: Any) -> Json:
    """A pool behind a Gateway of the user's."""
    return gateway(mode="GatewayAPI", parentRefs=[{"name": "g", "namespace": "gateways"}], **spec)


def clients(*peers: Json) -> Json:
    return changed(POOL, "spec.security", {"allowFrom": [*peers]})


def rollout(steps: list[Json] | None, **spec: Any) -> Json:
    return changed(POOL, "spec.rollout", {**({"steps": steps} if steps is not None else {}), **spec})


def shadow(steps: list[Json] | None, mode: str = "Envoy") -> Json:
    made = rollout(steps, strategy="Shadow")
    return changed(made, "spec.gateway", {"mode": mode})


def several(**spec: Any) -> Json:
    """A pool of two models."""
    made = changed(POOL, "spec.models", [{"name": "m", "track": "Latest"}, {"name": "n", "version": 2}])
    for field, value in spec.items():
        made = changed(made, f"spec.{field}", value)
    return made


IN_FLIGHT: list[Json] = [{"name": "inFlightRequests", "target": "8"}]
OFFICE: Json = {"cron": "0 8 * * MON-FRI", "timeZone": "Europe/Berlin", "durationSeconds": 36_000, "minReplicas": 3}


def scaled(**spec: Any) -> Json:
    return changed(POOL, "spec.autoscaling", {"maxReplicas": 4, "metrics": IN_FLIGHT, **spec})


def asking(request: Json) -> Json:
    """A version that is asked this before it is Ready."""
    return changed(VERSION, "spec.validation", {"requests": [request]})


REFUSED = [
    pytest.param(changed(JOB, "spec.nodez", 1), 'unknown field "spec.nodez"', id="a typo"),
    pytest.param(changed(JOB, "spec.nodes.count", 0), "nodes.count must be at least 1", id="no nodes"),
    pytest.param(
        changed(JOB, f"{TRAINER}.env", [{"name": "PET_NNODES", "value": "3"}]), "are set by the operator", id="reserved"
    ),
    pytest.param(
        changed(JOB, f"{TRAINER}.env", [{"name": "PET_STANDALONE", "value": "1"}]), "trainer's env", id="for itself"
    ),
    pytest.param(changed(JOB, "spec.workspace", {"size": "lots"}), "for example 100Gi", id="no size"),
    pytest.param(changed(JOB, "spec.workspace", {"size": -1}), "for example 100Gi", id="negative size"),
    pytest.param(
        changed(JOB, "spec.template.spec.volumes", [{"name": "aifactory-token", "emptyDir": {}}]),
        "choose another name",
        id="our volume",
    ),
    pytest.param(
        changed(JOB, "spec.output", {**OUTPUT, "store": "pvc://c", "secretRef": {"name": "s"}}),
        "for an s3:// store",
        id="secret for a claim",
    ),
    pytest.param(changed(JOB, f"{TRAINER}.name", "main"), "one container named 'trainer'", id="no trainer"),
    pytest.param(changed(JOB, "spec.procPerNode", "many"), "'auto' or an integer from 1 to 128", id="processes"),
    pytest.param(
        changed(JOB, "spec.template.spec.restartPolicy", "OnFailure"), "must be Never or left out", id="restartPolicy"
    ),
    pytest.param(changed(JOB, "spec.template.spec.hostname", "me"), "hostname and subdomain can not be", id="hostname"),
    pytest.param(
        changed(JOB, f"{TRAINER}.restartPolicy", "OnFailure"), "restartPolicy and restartPolicyRules", id="restarts"
    ),
    pytest.param(
        changed(JOB, f"{TRAINER}.volumeMounts", [{"name": "x", "mountPath": "/workspace/"}]),
        "choose another mountPath, or set spec.workspace",
        id="a mount of ours",
    ),
    pytest.param(
        changed(JOB, "spec.template.spec.volumes", [{"name": "aifactory-shm"}]), "are the operator's", id="our volume"
    ),
    pytest.param(
        changed(POOL, "spec.template.spec.volumes", [{"name": "aifactory-shm"}]), "are the operator's", id="the pool's"
    ),
    pytest.param(
        changed(POOL, "spec.template.spec.terminationGracePeriodSeconds", 9),
        "drain.preStopSeconds and drain.timeoutSeconds together",
        id="grace of a pool",
    ),
    pytest.param(
        changed(
            POOL,
            "spec.template.spec.containers",
            [{"name": "triton", "volumeMounts": [{"name": "x", "mountPath": "/repository"}]}],
        ),
        "/repository of triton is mounted by the operator",
        id="mount of a pool",
    ),
    pytest.param(changed(JOB, "spec.launcher", "mpi"), "torchrun", id="launcher"),
    pytest.param(
        changed(JOB, "spec.workspace", {"claimName": "c", "size": "1Gi"}), "either claimName", id="two workspaces"
    ),
    pytest.param(
        changed(JOB, "spec.output", {**OUTPUT, "store": "ftp://x"}),
        "s3://bucket/prefix or pvc://claim/path",
        id="store",
    ),
    pytest.param(changed(POOL, "spec.models.0.version", 1), "not both", id="version and track"),
    pytest.param(changed(POOL, "spec.models", [{"name": "m"}]), "either version", id="neither"),
    pytest.param(
        rollout([{"weight": 5, "pauseSeconds": 5}]), "write one thing in each step", id="two things in a step"
    ),
    pytest.param(rollout([{"weight": 5}, {}]), "write one thing in each step", id="nothing in a step"),
    pytest.param(rollout([{"pauseSeconds": 5}]), "begin with a weight", id="a pause without a weight"),
    pytest.param(rollout([{"weight": 5}, {"pause": {}}, {"weight": 4}]), "weights rise", id="weights that fall"),
    pytest.param(rollout([{"weight": 100}, {"pauseSeconds": 5}]), "nothing can follow it", id="after everything"),
    pytest.param(rollout([{"weight": 101}]), "less than or equal to 100", id="more than everything"),
    pytest.param(rollout([]), "at least 1 items", id="no step"),
    pytest.param(gateway(apiKeys=KEYS), "write mode: Envoy", id="keys and nobody who asks for them"),
    pytest.param(gateway(mode="None", tls=KEYS), "write mode: Envoy", id="TLS without proxies"),
    pytest.param(
        gateway(mode="Envoy", rateLimit={"requestsPerMinute": 1}), "write gateway.apiKeys too", id="a rate of nobody"
    ),
    pytest.param(gateway(mode="Envoy", timeoutSeconds=0), "greater than or equal to 1", id="no time"),
    pytest.param(gateway(stickiness={"promptBytes": 64}), "write mode: Envoy", id="sticky without proxies"),
    pytest.param(gateway(mode="Envoy", stickiness={"promptBytes": 1}), "greater than or equal to 16", id="one byte"),
    pytest.param(gateway(mode="GatewayAPI"), "write the Gateway's name", id="nobody's Gateway"),
    pytest.param(gateway(mode="Envoy", parentRefs=[{"name": "g"}]), "belong together", id="proxies and a Gateway"),
    pytest.param(gateway(parentRefs=[{"name": "g"}]), "belong together", id="a Gateway without its mode"),
    pytest.param(gateway(hostnames=["a.example.com"]), "for mode GatewayAPI", id="names of nobody"),
    pytest.param(gateway(mode="None", timeoutSeconds=5), "Envoy or GatewayAPI", id="a limit of nobody"),
    pytest.param(behind(apiKeys=KEYS), "it is your Gateway that can have the like", id="keys of a Gateway"),
    pytest.param(behind(accessLog=True), "a matter of your Gateway", id="the log of a Gateway"),
    pytest.param(behind(replicas=2), "a matter of your Gateway", id="replicas of a Gateway"),
    pytest.param(behind(hostnames=["A.example.com"]), "should match", id="a name in capitals"),
    pytest.param(behind(grpc={}), "hostnames or parentRefs of its own", id="gRPC at the name for HTTP"),
    pytest.param(shadow([{"mirror": 5}], mode="GatewayAPI"), "gateway: {mode: Envoy}", id="a shadow of a Gateway"),
    pytest.param(clients(), "at least 1 items", id="clients that are nobody"),
    pytest.param(clients({}), "or ipBlock alone", id="a client that nothing is said of"),
    pytest.param(
        clients({"ipBlock": {"cidr": "::/0"}, "podSelector": {}}), "or ipBlock alone", id="pods and addresses"
    ),
    pytest.param(clients({"podSelctor": {}}), "unknown field", id="a typo in a client"),
    pytest.param(rollout([{"weight": 5}], strategy="Surge"), "write strategy: Canary", id="steps of a surge"),
    pytest.param(rollout(None, strategy="Canary"), "needs rollout.steps", id="a canary without steps"),
    pytest.param(shadow([{"mirror": 5}], mode="None"), "write gateway: {mode: Envoy}", id="a shadow without proxies"),
    pytest.param(shadow(None), "needs rollout.steps", id="a shadow without steps"),
    pytest.param(
        several(rollout={"steps": [{"weight": 5}]}), "changes one of them by HotSwap or Surge", id="steps of several"
    ),
    pytest.param(
        changed(POOL, "spec.loading", {"mode": "OnDemand"}), "for pools of several models", id="one model on demand"
    ),
    pytest.param(several(loading={"holdSeconds": 5}), "write mode: OnDemand", id="a wait for what is loaded"),
    pytest.param(
        several(
            loading={"mode": "OnDemand"},
            gateway={"mode": "Envoy"},
            autoscaling={"minReplicas": 0, "maxReplicas": 4, "metrics": IN_FLIGHT},
        ),
        "write autoscaling.minReplicas: 1",
        id="on demand and to zero",
    ),
    pytest.param(
        several(
            loading={"mode": "OnDemand"},
            gateway={"mode": "GatewayAPI", "parentRefs": [{"name": "g"}], "grpc": {"hostnames": ["g.example.com"]}},
        ),
        "leave gateway.grpc out",
        id="on demand by gRPC",
    ),
    pytest.param(
        several(rollout={"strategy": "Shadow", "steps": [{"mirror": 5}]}, gateway={"mode": "Envoy"}),
        "changes one of them by HotSwap or Surge",
        id="a shadow of several",
    ),
    pytest.param(
        changed(POOL, "spec.models", [{"name": "m", "track": "Latest"}, {"name": "m", "version": 2}]),
        "Duplicate value",
        id="a model twice",
    ),
    pytest.param(
        changed(POOL, "spec.models", [{"name": f"m{n}", "track": "Latest"} for n in range(17)]),
        "must have at most 16 items",
        id="too many models",
    ),
    pytest.param(shadow([{"weight": 5}]), "mirror is for strategy Shadow", id="a weight in a shadow"),
    pytest.param(rollout([{"mirror": 5}]), "mirror is for strategy Shadow", id="copies without a shadow"),
    pytest.param(rollout([{"mirror": 5}], strategy="Canary"), "mirror is for strategy", id="copies in a canary"),
    pytest.param(shadow([{"mirror": 5, "pause": {}}]), "write one thing in each step", id="copies and a pause"),
    pytest.param(shadow([{"pause": {}}]), "begin with a weight", id="a shadow that begins with a pause"),
    pytest.param(rollout(COMPARES), "needs rollout.analysis", id="a comparison of nothing"),
    pytest.param(rollout(COMPARES, analysis={"metrics": []}), "at least 1 items", id="no metric"),
    pytest.param(
        rollout(COMPARES, analysis={"metrics": [{"name": "errorRate"}]}), "give each metric a bound", id="no bound"
    ),
    pytest.param(
        rollout(COMPARES, analysis={"metrics": [{"name": "errorRate", "min": "1"}]}), "has min", id="a wrong bound"
    ),
    pytest.param(
        rollout(COMPARES, analysis={"metrics": [{"name": "errorRate", "max": "1%"}]}), "should match", id="no number"
    ),
    pytest.param(
        scaled(minReplicas=5), "minReplicas must not be more than autoscaling.maxReplicas", id="more than most"
    ),
    pytest.param(
        scaled(minReplicas=0), "write gateway: {mode: Envoy}, or minReplicas: 1", id="to zero without proxies"
    ),
    pytest.param(
        changed(scaled(minReplicas=0), "spec.gateway", {"mode": "None"}),
        "autoscaling.minReplicas: 0 needs proxies",
        id="to zero with none",
    ),
    pytest.param(scaled(idleSeconds=60), "write minReplicas: 0, or leave them out", id="idle and not to zero"),
    pytest.param(scaled(minReplicas=1, holdSeconds=60), "write minReplicas: 0, or leave them out", id="held by nobody"),
    pytest.param(scaled(maxHeldRequests=60), "write minReplicas: 0, or leave them out", id="many held by nobody"),
    pytest.param(scaled(metrics=[]), "at least 1 items", id="by nothing"),
    pytest.param(scaled(metrics=[{"name": "inFlightRequests", "target": "0"}]), "should match", id="no target"),
    pytest.param(scaled(schedules=[{**OFFICE, "cron": "0 25 * * *"}]), "cron is minute, hour", id="the 25th hour"),
    pytest.param(scaled(schedules=[{**OFFICE, "cron": "@daily"}]), "for example 0 8 * * 1-5", id="no crontab"),
    pytest.param(
        scaled(schedules=[{**OFFICE, "minReplicas": 9}]), "autoscaling.schedules: minReplicas", id="a schedule"
    ),
    pytest.param(changed(POOL, "spec.replicas", -1), "greater than or equal to 0", id="negative replicas"),
    pytest.param(changed(VERSION, "spec.digest", "abc"), "64 hexadecimal digits", id="digest"),
    pytest.param(asking({"prompt": "a", "inputs": {"x": [1]}}), "a request has one of prompt", id="asked in two ways"),
    pytest.param(asking({"expect": {"contains": "a"}}), "a request has one of prompt", id="asked nothing"),
    pytest.param(asking({"prompt": "a", "expect": {"tolerance": "much"}}), "tolerance", id="no tolerance"),
    *(
        pytest.param(changed(VERSION, "spec.source.uri", uri), "hf://org/repo@revision", id=f"source {uri}")
        for uri in (
            "http://x/",
            "file:///etc/",
            "hf://repo",
            "https://u:p@x/",
            "https://x/?t=1/",
            "https://x/f",
            "oci://x/y",
            "gs://bucket",
            "abfs://container/x",
        )
    ),
    pytest.param(changed(VERSION, "spec.source.uri", "az://c/x"), "source: az:// needs a secretRef", id="no account"),
    pytest.param(reading(uri="az://c/x"), "inputs: az:// needs a secretRef", id="an input without account"),
    pytest.param(changed(JOB, "metadata.name", "x" * 60), "52", id="long name"),
    pytest.param(changed(VERSION, "metadata.name", "m-2"), "<spec.model>-v<spec.version>", id="version's name"),
    pytest.param(changed(VERSION, "metadata.name", "m-v01"), "<spec.model>-v<spec.version>", id="leading zero"),
    pytest.param(changed(VERSION, "spec.source.uri", "pvc://c/../x"), "must not contain '..'", id="source leaves"),
    pytest.param(
        changed(JOB, "spec.output", {**OUTPUT, "store": "s3://b/.."}), "must not contain '..'", id="store leaves"
    ),
    pytest.param(
        changed(JOB, "spec.output", {**OUTPUT, "secretRef": {"name": "s"}}), "set output.store", id="no store"
    ),
    pytest.param(
        changed(POOL, "spec.models.0.name", "Qwen/Qwen2.5-0.5B"),
        "write qwen-qwen2.5-0.5b instead of Qwen/Qwen2.5-0.5B",
        id="name of a model elsewhere",
    ),
    pytest.param(
        changed(JOB, "spec.output.model", {"name": "3B", "format": "huggingface"}), "not 3B", id="a name like no other"
    ),
    pytest.param(
        changed(VERSION, "spec.format", "causal-lm"), 'supported values: "huggingface"', id="a format of another name"
    ),
    pytest.param(
        changed(POOL, "spec.runtime", {"engine": "tgi"}),
        'supported values: "auto", "transformers", "vllm"',
        id="an engine of another name",
    ),
    pytest.param(
        changed(JOB, "spec.template.spec.volumes", [{"emptyDir": {}}]),
        "volumes[0].name: Required",
        id="nameless volume",
    ),
    pytest.param(reading(uri=None), "write either uri", id="an input from nowhere"),
    pytest.param(reading(modelVersion="m-v1"), "write either uri", id="an input from two places"),
    pytest.param(reading(name="My_Corpus"), "for example corpus", id="name of an input"),
    pytest.param(changed(JOB, "spec.inputs", [CORPUS, CORPUS]), "Duplicate value", id="one name for two inputs"),
    pytest.param(reading(uri="ftp://host/file"), "inputs: uri must be hf://org/repo@revision", id="uri of an input"),
    pytest.param(reading(uri="https://me:token@host/x"), "without user, query", id="a login in a uri"),
    pytest.param(reading(uri="https://host/x?token=1"), "without user, query", id="a token in a uri"),
    pytest.param(reading(uri="s3://bucket"), "inputs: uri must be", id="a whole bucket"),
    pytest.param(reading(uri="s3://bucket/a b"), "inputs: uri must be", id="a blank in a uri"),
    pytest.param(reading(uri="pvc://claim/../x"), "must not contain '..'", id="an input leaves"),
    pytest.param(reading(digest="sha256:1"), "64 hexadecimal digits", id="digest of an input"),
    pytest.param(
        reading(uri=None, modelVersion="m-v1", secretRef={"name": "s"}), "a ModelVersion has its own", id="secret"
    ),
    pytest.param(reading(uri=None, modelVersion="m-v1", format="chat"), "a ModelVersion has its own", id="format"),
    pytest.param(reading(format="csv"), 'supported values: "chat", "preference", "text", "huggingface"', id="csv"),
    pytest.param(reading(uri="pvc://c/x", secretRef={"name": "s"}), "needs no secretRef", id="secret of a claim"),
    pytest.param(
        changed(READS, f"{TRAINER}.volumeMounts", [{"name": "x", "mountPath": "/workspace/inputs/x"}]),
        "is where spec.inputs are mounted",
        id="a mount among the inputs",
    ),
    pytest.param(
        changed(JOB, f"{TRAINER}.env", [{"name": "AIFACTORY_INPUTS", "value": "x"}]), "are set by", id="our variable"
    ),
]


@pytest.mark.parametrize(("document", "words"), REFUSED)
def test_a_mistake_is_refused_with_the_way_out(document: Json, words: str, ns: Kubectl) -> None:
    assert words in ns.refuse(document)


@pytest.mark.parametrize(
    "uri",
    [
        "hf://org/repo",
        "hf://datasets/org/repo@refs%2Fpr%2F1/train",
        "https://host:8443/a/file.tar",
        "https://host/directory/",
        f"oci://registry:5000/team/model@sha256:{'0' * 64}",
        "s3://bucket/a/prefix/",
        "gs://a_bucket/prefix",
        "az://container/prefix",
        "pvc://claim/folder",
    ],
)
def test_sources_of_an_input(uri: str, ns: Kubectl) -> None:
    secret = None if uri.startswith("pvc://") else {"name": "keys"}
    ns.apply(reading(uri=uri, digest=f"sha256:{'0' * 64}", secretRef=secret))


def test_a_mount_below_the_workspace_is_the_users_own_without_inputs(ns: Kubectl) -> None:
    ns.apply(changed(JOB, f"{TRAINER}.volumeMounts", [{"name": "x", "mountPath": "/workspace/inputs/x"}]))


@pytest.mark.parametrize("size", [1, "1Gi", "1500M", "0.5Ti"])
def test_sizes_of_a_workspace(size: Any, ns: Kubectl) -> None:
    ns.apply(changed(JOB, "spec.workspace", {"size": size}))


def test_a_side_container_may_have_the_trainers_variables(ns: Kubectl) -> None:
    side = {"name": "logs", "image": "logs", "env": [{"name": "WORLD_SIZE", "value": "2"}]}
    ns.apply(changed(JOB, f"{TRAINER.rpartition('.')[0]}.1", side))


IMMUTABLE = [
    pytest.param(changed(JOB, "spec.managedBy", "somebody/else"), "spec.managedBy", "another/one", id="managedBy"),
    pytest.param(
        changed(JOB, "spec.workspace", {"claimName": "a"}), "spec.workspace", {"claimName": "b"}, id="workspace"
    ),
    pytest.param(changed(JOB, "spec.output", OUTPUT), "spec.output.model.name", "n", id="output"),
    pytest.param(VERSION, "spec.version", 2, id="ModelVersion"),
]


@pytest.mark.parametrize(("document", "path", "value"), IMMUTABLE)
def test_an_immutable_field_says_so(document: Json, path: str, value: Any, ns: Kubectl) -> None:
    ns.apply(document)
    assert "immutable" in ns.refuse(changed(document, path, value))


def test_the_format_of_the_output_can_be_corrected_until_it_is_published(ns: Kubectl) -> None:
    job = changed(JOB, "spec.output", OUTPUT)
    ns.apply(job)
    corrected = changed(job, "spec.output.model.format", "torch-export")
    ns.apply(corrected)
    published = '{"status":{"output":{"modelVersion":"m-v1"}}}'
    ns.run("patch", "tjob", "j", "--subresource=status", "--type=merge", "-p", published)
    assert "the result is published: create" in ns.refuse(job)


def test_a_job_that_has_ended_is_not_edited_in_vain(ns: Kubectl) -> None:
    ns.apply(JOB)
    ns.run("patch", "tjob", "j", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Succeeded"}}')
    assert "create another TrainingJob" in ns.refuse(changed(JOB, f"{TRAINER}.image", "another"))
    assert "create another TrainingJob" in ns.refuse(READS)
    ns.apply(changed(JOB, "spec.suspend", True))


def test_half_a_processor_is_a_quantity(ns: Kubectl) -> None:
    ns.apply(changed(JOB, f"{TRAINER}.resources", {"limits": {"cpu": 0.5, "memory": "512Mi"}}))
    assert ns.get("tjob", "j")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == 0.5


BEHIND = behind(
    hostnames=["*.example.com"], timeoutSeconds=600, grpc={"parentRefs": [{"name": "g", "sectionName": "s"}]}
)
TRIED = asking({"inputs": {"x": [[1, 0.5]]}, "expect": {"outputs": {"y": [["a"]]}, "tolerance": "1e-3"}})


@pytest.mark.parametrize(
    "document",
    [JOB, POOL, VERSION, TRIED, BEHIND],
    ids=["TrainingJob", "InferencePool", "ModelVersion", "tried", "behind a Gateway"],
)
def test_what_is_written_comes_back_unchanged(document: Json, ns: Kubectl) -> None:
    ns.apply(document)
    found = ns.get(document["kind"], document["metadata"]["name"])
    assert found["spec"] == document["spec"], "nothing is defaulted into a user's spec"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/x",
        "gs://a_bucket/x",
        "az://container/x",
        "hf://org/repo",
        "hf://datasets/org/set@refs%2Fpr%2F1/data",
        "https://host.example:8443/models/m/",
        "https://host.example/",
        "oci://registry.example:5000/team/m:v1",
        f"oci://registry.example/m@sha256:{'a' * 64}",
    ],
)
def test_sources_of_a_version(uri: str, ns: Kubectl) -> None:
    ns.apply(changed(changed(VERSION, "spec.source.uri", uri), "spec.source.secretRef", {"name": "keys"}))


def test_a_model_may_have_dots_in_its_name(ns: Kubectl) -> None:
    named = changed(changed(VERSION, "metadata.name", "llama-3.1-8b-v1"), "spec.model", "llama-3.1-8b")
    ns.apply(named, changed(POOL, "spec.models.0.name", "llama-3.1-8b"))
    assert ns.get("mver", "llama-3.1-8b-v1")


@pytest.mark.parametrize("strategy", ["Auto", "Canary"])
def test_steps_of_a_canary(strategy: str, ns: Kubectl) -> None:
    steps: list[Json] = [{"weight": 5}, {"pauseSeconds": 5}, {"weight": 5}, {"pause": {}}, {"weight": 100}]
    ns.apply(rollout(steps, strategy=strategy))
    assert ns.get("ipool", "p")["spec"]["rollout"]["steps"] == steps
    metrics = [{"name": "errorRate", "max": "0.01", "maxRatio": "2"}, {"name": "tokensPerSecond", "minRatio": "0.9"}]
    ns.apply(rollout(COMPARES, strategy=strategy, analysis={"metrics": metrics}))


def test_steps_of_a_shadow(ns: Kubectl) -> None:
    steps: list[Json] = [{"mirror": 50}, {"pauseSeconds": 5}, {"mirror": 10}, {"pause": {}}]
    ns.apply(shadow(steps))
    assert ns.get("ipool", "p")["spec"]["rollout"]["steps"] == steps
    refused = ns.run("patch", "ipool", "p", "--type=merge", "-p", '{"spec": {"gateway": null}}', check=False)
    assert "write gateway: {mode: Envoy}" in refused.err


def test_a_pool_without_replicas_can_be_scaled(ns: Kubectl) -> None:
    unset = changed(POOL, "metadata.name", "unset")
    del unset["spec"]["replicas"]
    ns.apply(unset)
    scale = ns.run("get", "--raw", f"/apis/aifactory.dev/v1alpha1/namespaces/{ns.namespace}/inferencepools/unset/scale")
    assert json.loads(scale.out)["spec"]["replicas"] == 1
    ns.run("scale", "ipool/unset", "--replicas=2")
    assert ns.get("ipool", "unset")["spec"]["replicas"] == 2
    ns.apply(unset)
    assert ns.get("ipool", "unset")["spec"]["replicas"] == 2, "who does not name the field does not reset it"


def test_a_pool_that_scales_itself_is_scaled_by_nobody_else(ns: Kubectl) -> None:
    pool = scaled(maxGPUs=8, schedules=[OFFICE, {**OFFICE, "cron": "*/15 0-6,22 1,15 * 0"}])
    ns.apply(changed(pool, "spec.replicas", 3))
    assert ns.get("ipool", "p")["spec"]["autoscaling"] == pool["spec"]["autoscaling"]
    refused = ns.run("scale", "ipool/p", "--replicas=2", check=False)
    assert "spec.autoscaling decides how many pods there are" in refused.err
    assert "spec.autoscaling decides" in ns.refuse(changed(pool, "spec.replicas", 2))
    ns.apply(changed(pool, "spec.replicas", 1))  # as if it were left out
    ns.apply(changed(POOL, "spec.replicas", 2))
    ns.run("scale", "ipool/p", "--replicas=4")
    ns.apply(changed(pool, "spec.replicas", 5))


def test_every_kind_is_in_the_category_and_has_its_short_name(ns: Kubectl) -> None:
    ns.apply(JOB, POOL, VERSION)
    found = ns.run("get", "aifactory", "-o", "name").out.split()
    assert len(found) == 3
    for short, name in (("tjob", "j"), ("ipool", "p"), ("mver", "m-v1")):
        assert ns.get(short, name)
