"""The objects a TrainingJob makes: golden files, Kubernetes' own types, and what a template can not override."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.api import names
from aifactory.engine.taskpods import TaskPods
from aifactory.training import cache, checkers, children, fetchers, rendezvous, workspace
from aifactory.training.fetchers import Fetch
from tests.unit.golden import assert_golden, assert_known_to_kubernetes, assert_restricted
from tests.unit.plans import bodies, created
from tests.unit.training.builders import OUTPUT, PUBLISHED, SETTINGS, UID, decide, job, observe

GOLDEN = Path(__file__).parent / "golden"
GPU = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}

ONE_NODE = job(command=["python", "train.py"])
GANG = job("gpt", nodes=4, container={"command": ["torchrun", "-m", "train"], **GPU}, output=OUTPUT)
FULL = job(
    "own",
    nodes=2,
    launcher="none",
    procPerNode=3,
    workspace={"size": "1Ti", "storageClassName": "fast", "accessModes": ["ReadWriteOncePod"]},
    template={
        "metadata": {"labels": {"team": "nlp"}, "annotations": {"note": "keep"}},
        "spec": {
            "priorityClassName": "high",
            "securityContext": {"runAsUser": 1000},
            "containers": [
                {
                    "name": "trainer",
                    "image": "own:1",
                    "env": [{"name": "LR", "value": "0.1"}, {"name": "JOB", "value": "$(AIFACTORY_JOB)"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "terminationMessagePolicy": "File",
                },
                {"name": "logs", "image": "logs:1", "securityContext": {"readOnlyRootFilesystem": True}},
            ],
            "initContainers": [{"name": "prepare", "image": "own:1"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    },
    output={
        "model": {"name": "own-model", "format": "torch-export"},
        "store": "s3://bucket/models",
        "secretRef": {"name": "s3"},
    },
)

SHARED = {"workspace": {"claimName": "team"}, "output": OUTPUT}
PULL = TaskPods.model_validate({"defaults": {"imagePullSecrets": [{"name": "r"}, {"name": "mine"}]}})
ON_A_SHARED_CLAIM = job(
    "shared",
    template={
        "spec": {
            "imagePullSecrets": [{"name": "mine"}],
            "initContainers": [{"name": "prepare", "image": "own:1"}],
            "containers": [
                {
                    "name": "trainer",
                    "image": "own:1",
                    "securityContext": {"runAsUser": 7, "runAsGroup": 8, "runAsNonRoot": True, "privileged": False},
                }
            ],
        }
    },
    **SHARED,
)

MIRROR = "https://hub.example.com"
CORPUS = {"name": "corpus", "uri": "s3://bucket/corpus"}
THERE = {**CORPUS, "phase": "Ready", "digest": f"sha256:{'1' * 64}", "claim": "c"}
IN_USE = fetchers.InUse(datetime(2026, 1, 1, 12, tzinfo=UTC), (f"sha256:{'1' * 64}",))
READS = job(
    "reads",
    inputs=[{**CORPUS, "secretRef": {"name": "s3"}}],
    workspace={"claimName": "team"},
    status={"inputs": [THERE]},
)

CHECKED_INPUTS = [CORPUS, {"name": "base", "uri": "s3://bucket/base"}]
CHECKED = job(
    "checked",
    nodes=2,
    inputs=CHECKED_INPUTS,
    template={
        "spec": {
            "securityContext": {"runAsUser": 1000},
            "serviceAccountName": "reader",
            "automountServiceAccountToken": False,
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["10.0.0.10"]},
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}],
            "enableServiceLinks": True,
            "nodeSelector": {"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", "gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "priorityClassName": "high",
            "runtimeClassName": "nvidia",
            "containers": [
                {
                    "name": "trainer",
                    "image": "own:1",
                    "imagePullPolicy": "Always",
                    "command": ["torchrun", "-m"],
                    "args": ["aifactory_trainer.sft"],
                    "workingDir": "/src",
                    "env": [{"name": "HF_HOME", "value": "/tmp"}],
                    "envFrom": [{"secretRef": {"name": "keys"}}],
                    "resources": {"limits": {"nvidia.com/gpu": "4"}},
                    "securityContext": {"readOnlyRootFilesystem": True},
                    "volumeMounts": [
                        {"name": "files", "mountPath": "/templates/", "subPath": "templates"},
                        {"name": "files", "mountPath": "/tables", "subPath": "tables"},
                        {"name": "aifactory-workspace", "mountPath": "/data"},
                    ],
                },
                {"name": "logs", "image": "logs:1"},
            ],
            "volumes": [{"name": "files", "configMap": {"name": "files"}}],
        }
    },
    status={
        "attempt": 3,
        "inputs": [{**wish, "phase": "Ready", "digest": THERE["digest"], "claim": "c"} for wish in CHECKED_INPUTS],
        "checkpoint": {"step": 10, "time": "2026-01-01T12:00:00Z", "path": "checkpoints/step-10"},
    },
)
CHECKED_ALONE = job("alone", launcher="none", check="always", workspace={"claimName": "team"})
PLATFORM = {"serviceAccountName": "tasks", "nodeSelector": {"pool": "cpu"}, "labels": {"team": "platform"}}
OF_TASKS = replace(SETTINGS, task_pods=TaskPods.model_validate({"defaults": PLATFORM}))

CASES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "one-node": lambda: [children.pod(ONE_NODE, 0, 0, SETTINGS, gang=False), children.claim(ONE_NODE)],
    "gang": lambda: [
        children.service(GANG),
        children.gang(GANG, 2),
        children.pod(GANG, 3, 2, SETTINGS, gang=True),
        children.publisher(GANG, 0, SETTINGS),
        children.model_claim(GANG, SETTINGS),
    ],
    "shared-claim": lambda: [
        children.pod(ON_A_SHARED_CLAIM, 0, 0, replace(SETTINGS, task_pods=PULL), gang=False),
        children.publisher(ON_A_SHARED_CLAIM, 0, replace(SETTINGS, task_pods=PULL)),
    ],
    "inputs": lambda: [
        cache.claim(READS, replace(SETTINGS, input_claim_storage_class="shared")),
        fetchers.fetcher(READS, Fetch("corpus", CORPUS["uri"], secret="s3", claim="c"), 0, SETTINGS, IN_USE),
        children.pod(READS, 0, 0, SETTINGS, gang=False),
    ],
    "mirror": lambda: [
        fetchers.fetcher(
            READS, Fetch("base", "hf://org/tiny@main", claim="c"), 0, replace(SETTINGS, hub_endpoint=MIRROR)
        ),
    ],
    "check": lambda: [
        checkers.checker(
            observe(CHECKED, workspace_shared=True, device_memory=80 << 30, settings=OF_TASKS), "0123abcd", 1
        ),
        checkers.checker(observe(CHECKED_ALONE, settings=OF_TASKS), "0123abcd", 0),
    ],
    "own-settings": lambda: [
        children.claim(FULL),
        children.pod(FULL, 1, 0, SETTINGS, gang=False),
        children.probe(FULL, 1, SETTINGS),
        children.publisher(FULL, 1, SETTINGS),
        children.model_version(FULL, 7, {**PUBLISHED, "metrics": {"loss": 1.25, "bits": 2}}, "own@sha256:abc"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_the_objects_are_the_golden_ones(case: str) -> None:
    assert_golden(GOLDEN / f"{case}.yaml", CASES[case]())


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str) -> None:
    for body in CASES[case]():
        if body["kind"] != "ModelVersion":
            assert_known_to_kubernetes(body)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    pods = [body for body in CASES[case]() if body["kind"] == "Pod"]
    assert pods
    for body in pods:
        assert_restricted(body["spec"])
        assert body["spec"]["automountServiceAccountToken"] is False
        assert body["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_found_by_our_label_and_goes_with_its_job(case: str) -> None:
    outlive = {
        ("PersistentVolumeClaim", names.MODEL_CLAIM),
        ("PersistentVolumeClaim", names.INPUT_CLAIM),
        ("ModelVersion", "own-model-v7"),
    }
    for body in CASES[case]():
        meta = body["metadata"]
        assert meta["labels"][names.LABEL_MANAGED_BY] == names.LABEL_MANAGED_BY_VALUE
        owned = any(owner["kind"] == "TrainingJob" and owner["controller"] for owner in meta.get("ownerReferences", ()))
        assert owned == ((body["kind"], meta["name"]) not in outlive)


def test_the_publisher_can_write_nowhere_but_to_the_store_and_tmp() -> None:
    container = children.publisher(GANG, 0, SETTINGS)["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/mnt/claims/aifactory-models"}
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}, "a quota may ask for limits, and no GPU"


def test_a_claim_of_the_user_is_used_and_not_made() -> None:
    own = job(workspace={"claimName": "mine"}, output=OUTPUT)
    assert not workspace.is_owned(own)
    assert workspace.is_owned(job(workspace={"size": "1Gi"}))
    for body in (children.pod(own, 0, 0, SETTINGS, gang=False), children.publisher(own, 0, SETTINGS)):
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in body["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        assert claims[0] == "mine"


def mounted(spec: dict[str, Any], container: str, path: str) -> str | None:
    (found,) = (c for c in (*spec.get("initContainers", ()), *spec["containers"]) if c["name"] == container)
    (mount,) = (m for m in found["volumeMounts"] if m["mountPath"] == path)
    sub: str | None = mount.get("subPath")
    return sub


def test_on_a_claim_of_the_user_each_job_sees_a_directory_of_its_own() -> None:
    """Else it resumed from another's last checkpoint, ended at once and published the other's model (TabPFN#814)."""
    own = job(**SHARED)
    assert mounted(children.pod(own, 0, 0, SETTINGS, gang=False)["spec"], "trainer", "/workspace") == f"jobs/{UID}"
    assert mounted(children.publisher(own, 0, SETTINGS)["spec"], "publish", "/workspace") == f"jobs/{UID}"
    assert mounted(children.pod(job(), 0, 0, SETTINGS, gang=False)["spec"], "trainer", "/workspace") is None
    assert "initContainers" not in children.pod(job(), 0, 0, SETTINGS, gang=False)["spec"]


def test_the_directory_is_made_by_the_user_that_trains() -> None:
    """By the kubelet it would be root's, and on hostPath and NFS nobody else could write to it."""
    context = {"runAsUser": 1000, "runAsGroup": 1001}
    template = {"spec": {"containers": [{"name": "trainer", "image": "t", "securityContext": context}]}}
    settings = replace(SETTINGS, task_pods=TaskPods.model_validate({"defaults": {"imagePullSecrets": [{"name": "r"}]}}))
    spec = children.pod(job(template=template, **SHARED), 0, 0, settings, gang=False)["spec"]
    (maker,) = spec["initContainers"]
    assert maker["command"][-1] == f"/claim/jobs/{UID}"
    assert (maker["securityContext"]["runAsUser"], maker["securityContext"]["runAsGroup"]) == (1000, 1001)
    assert maker["resources"]["requests"] == maker["resources"]["limits"], "the pod stays Guaranteed"
    assert spec["imagePullSecrets"] == [{"name": "r"}], "our image may need a secret that theirs does not"
    assert_restricted(spec)


def test_the_directory_is_made_where_it_is_told(tmp_path: Path) -> None:
    (maker,) = children.pod(job(**SHARED), 0, 0, SETTINGS, gang=False)["spec"]["initContainers"]
    target = tmp_path / "jobs" / "uid"
    for _ in range(2):
        subprocess.run([sys.executable, *maker["command"][1:-1], str(target)], check=True)
    assert target.stat().st_mode & 0o775 == 0o775


def test_other_containers_see_no_more_of_the_claim() -> None:
    seen = [
        {"name": "aifactory-workspace", "mountPath": "/data", "subPath": "logs"},
        {"name": "own", "mountPath": "/o"},
    ]
    whole = [{"name": "aifactory-workspace", "mountPath": "/data"}]
    containers = [{"name": "trainer", "image": "t"}, {"name": "logs", "image": "l", "volumeMounts": seen}]
    before = [{"name": "before", "image": "b", "volumeMounts": whole}]
    template = {"spec": {"containers": containers, "initContainers": before}}
    spec = children.pod(job(template=template, **SHARED), 0, 0, SETTINGS, gang=False)["spec"]
    assert [container["name"] for container in spec["initContainers"]] == ["aifactory-workspace", "before"]
    assert mounted(spec, "before", "/data") == f"jobs/{UID}"
    assert (mounted(spec, "logs", "/data"), mounted(spec, "logs", "/o")) == (f"jobs/{UID}/logs", None)


def test_a_job_that_began_without_a_directory_keeps_its_checkpoints() -> None:
    """An upgrade of the operator must not make it begin anew."""
    earlier = job(status={"resolved": {"nodes": 1, "workspaceClaim": "team"}}, **SHARED)
    assert mounted(children.pod(earlier, 0, 1, SETTINGS, gang=False)["spec"], "trainer", "/workspace") is None
    later = job(status=decide(observe(job(**SHARED))).status.dump(), **SHARED)
    assert mounted(children.pod(later, 0, 1, SETTINGS, gang=False)["spec"], "trainer", "/workspace") == f"jobs/{UID}"


def test_a_store_on_the_workspace_claim_is_mounted_once() -> None:
    own = job(output={**OUTPUT, "store": "pvc://train-workspace/models"})
    spec = children.publisher(own, 0, SETTINGS)["spec"]
    claims = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in claims] == ["train-workspace"]
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in spec["containers"][0]["volumeMounts"]}
    assert mounts["/workspace"] is True
    assert mounts["/mnt/claims/train-workspace"] is False
    assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == {"aifactory-workspace", "tmp"}


OURS = {
    names.LABEL_MANAGED_BY: "aifactory",
    names.LABEL_JOB: "train",
    names.LABEL_ROLE: "node",
    names.LABEL_ATTEMPT: "0",
}


@pytest.mark.parametrize("label", OURS)
def test_a_template_can_not_override_our_labels(label: str) -> None:
    container = {"name": "trainer"}
    template = {"metadata": {"labels": {label: "theirs", "team": "a"}}, "spec": {"containers": [container]}}
    labels = children.pod(job(template=template), 0, 0, SETTINGS, gang=False)["metadata"]["labels"]
    assert labels[label] == OURS[label]
    assert labels["team"] == "a"


def test_autoscalers_leave_a_node_that_trains_alone_unless_the_template_says_otherwise() -> None:
    usual = children.pod(job(), 0, 0, SETTINGS, gang=False)["metadata"]["annotations"]
    safe, undisturbed = "cluster-autoscaler.kubernetes.io/safe-to-evict", "karpenter.sh/do-not-disrupt"
    assert usual == {safe: "false", undisturbed: "true"}
    template = {
        "metadata": {"annotations": {safe: "true", "note": "keep"}},
        "spec": {"containers": [{"name": "trainer"}]},
    }
    asked = children.pod(job(template=template), 0, 0, SETTINGS, gang=False)["metadata"]["annotations"]
    assert asked == {safe: "true", undisturbed: "true", "note": "keep"}


def test_what_looks_like_a_label_of_ours_is_left_out() -> None:
    labels = {f"{names.GROUP}/model": "theirs", f"team-of-{names.GROUP}": "a"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "trainer"}]}}
    found = children.pod(job(template=template), 0, 0, SETTINGS, gang=False)["metadata"]["labels"]
    assert f"{names.GROUP}/model" not in found
    assert found[f"team-of-{names.GROUP}"] == "a"


@pytest.mark.parametrize(
    ("wish", "spec"),
    [
        (None, {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}}),
        ({"size": "1Gi"}, {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}),
        (
            {"accessModes": ["ReadWriteOnce"]},
            {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
        ),
    ],
)
def test_of_a_claim_what_is_not_asked_for_has_a_default(wish: Any, spec: dict[str, Any]) -> None:
    """The storage class is left to the cluster: with one that is null none would be taken."""
    assert children.claim(job(**({"workspace": wish} if wish else {})))["spec"] == spec


@pytest.mark.parametrize(("class_", "wanted"), [("", None), ("fast", "fast")])
def test_the_model_claim_has_the_class_that_the_installation_names(class_: str, wanted: str | None) -> None:
    claim = children.model_claim(GANG, replace(SETTINGS, model_claim_storage_class=class_))
    assert claim["spec"].get("storageClassName") == wanted


def test_a_template_without_a_trainer_asks_for_nothing() -> None:
    """The CRD refuses it; a status can be made all the same."""
    owner = job(template={"spec": {"containers": [{"name": "other"}]}})
    assert (children.resolve_processes(owner.spec), children.resources_asked(owner.spec)) == (1, "")


def test_a_version_tells_how_long_its_model_was_trained() -> None:
    progress = {"attempt": 2, "step": 300, "summary": "100%", "lastHeartbeatTime": "2026-01-01T12:00:00Z"}
    owner = job(output=OUTPUT, status={"attempt": 2, "progress": progress})
    lineage = children.model_version(owner, 1, dict(PUBLISHED), "")["spec"]["lineage"]
    assert (lineage["attempt"], lineage["steps"]) == (2, 300)


def test_secrets_for_our_image_are_not_added_where_it_does_not_run() -> None:
    spec = children.pod(job(), 0, 0, replace(SETTINGS, task_pods=PULL), gang=False)["spec"]
    assert "imagePullSecrets" not in spec


def test_a_mount_of_the_workspace_at_another_place_stays() -> None:
    mine = [{"name": "aifactory-workspace", "mountPath": "/data", "subPathExpr": "$(POD)"}]
    owner = job(container={"volumeMounts": mine}, **SHARED)
    mounts = children.pod(owner, 0, 0, SETTINGS, gang=False)["spec"]["containers"][0]["volumeMounts"]
    assert mine[0] in mounts
    assert {mount["mountPath"] for mount in mounts} >= {"/data", "/workspace"}


def test_labels_and_annotations_of_the_job_are_not_copied() -> None:
    owner = job()
    owner = owner.model_copy(
        update={"metadata": owner.metadata.model_copy(update={"labels": {"argocd": "x"}, "annotations": {"a": "b"}})}
    )
    for body in (children.pod(owner, 0, 0, SETTINGS, gang=False), children.service(owner), children.claim(owner)):
        assert "argocd" not in body["metadata"]["labels"]
        assert "a" not in body["metadata"].get("annotations", {})


def env(body: dict[str, Any]) -> dict[str, str]:
    trainer = next(c for c in body["spec"]["containers"] if c["name"] == "trainer")
    return {entry["name"]: entry["value"] for entry in trainer["env"]}


def test_torchrun_is_told_where_to_meet() -> None:
    found = env(children.pod(GANG, 3, 2, SETTINGS, gang=True))
    assert found["PET_NNODES"] == "4"
    assert found["PET_NPROC_PER_NODE"] == "2"
    assert found["PET_RDZV_ENDPOINT"] == "gpt-0-2.gpt-nodes:29500"
    assert found["PET_RDZV_ID"].endswith("-2"), "a stale store is never joined"
    assert found["AIFACTORY_ATTEMPT"] == "2"
    assert found["AIFACTORY_PROGRESS_URL"] == "http://operator:8080/v1/progress/ns/gpt"


def test_one_node_meets_itself() -> None:
    assert env(children.pod(ONE_NODE, 0, 0, SETTINGS, gang=False))["PET_RDZV_ENDPOINT"] == "localhost:0"


def test_a_node_that_is_ready_waits_for_one_that_still_pulls_its_image() -> None:
    """torchrun's own 60 s ended node 1 again and again, and used up the restarts (pytorch-operator#125)."""
    found = env(children.pod(GANG, 1, 0, SETTINGS, gang=True))
    assert found["PET_RDZV_CONF"] == "join_timeout=1800,read_timeout=1800"
    mine = job(container={"env": [{"name": "PET_RDZV_CONF", "value": "join_timeout=60"}]})
    trainer = children.pod(mine, 0, 0, SETTINGS, gang=False)["spec"]["containers"][0]
    assert [entry["value"] for entry in trainer["env"] if entry["name"] == "PET_RDZV_CONF"] == ["join_timeout=60"]


@pytest.mark.parametrize(
    ("grace", "kept", "wait"), [(None, 120, "110"), (600, 600, "550"), (30, 30, "28"), (20, 20, "19"), (0, 0, "1")]
)
def test_a_program_has_time_to_save_before_it_is_killed(grace: int | None, kept: int, wait: str) -> None:
    spec: dict[str, Any] = {"containers": [{"name": "trainer", "image": "t"}]}
    if grace is not None:
        spec["terminationGracePeriodSeconds"] = grace
    body = children.pod(job(template={"spec": spec}), 0, 0, SETTINGS, gang=False)
    assert body["spec"]["terminationGracePeriodSeconds"] == kept
    assert env(body)["PET_SHUTDOWN_TIMEOUT"] == wait, "torchrun must not kill its workers earlier"


def test_jobs_on_the_network_of_one_host_do_not_share_a_port() -> None:
    """The second one joined the store of the first (TorchDR#249)."""
    spec = {"hostNetwork": True, "containers": [{"name": "trainer", "image": "t"}]}
    one, two = job(nodes=2, template={"spec": spec}), job(nodes=2, template={"spec": spec})
    two = two.model_copy(update={"metadata": two.metadata.model_copy(update={"uid": "another"})})
    ends = [env(children.pod(owner, 1, 0, SETTINGS, gang=False))["PET_RDZV_ENDPOINT"] for owner in (one, two)]
    ports = {int(end.rpartition(":")[2]) for end in ends}
    assert len(ports) == 2
    assert all(20_000 <= port < 30_000 for port in ports)
    assert children.pod(one, 0, 0, SETTINGS, gang=False)["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    own = job(template={"spec": {**spec, "dnsPolicy": "Default"}})
    assert children.pod(own, 0, 0, SETTINGS, gang=False)["spec"]["dnsPolicy"] == "Default"


def test_without_a_launcher_the_plain_variables_are_set() -> None:
    found = env(children.pod(FULL, 1, 0, SETTINGS, gang=False))
    assert {name: found[name] for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK")} == {
        "MASTER_ADDR": "own-0-0.own-nodes",
        "MASTER_PORT": "29500",
        "WORLD_SIZE": "6",
        "NODE_RANK": "1",
    }
    assert not [name for name in found if name.startswith("PET_")]


@pytest.mark.parametrize("owner", [ONE_NODE, GANG, FULL, READS], ids=lambda owner: owner.metadata.name)
def test_every_variable_we_set_is_reserved(owner: Any) -> None:
    theirs = {"LR", "JOB"}
    may_be_set = rendezvous.optional_environment(owner).keys()
    found = env(children.pod(owner, 0, 0, SETTINGS, gang=False)).keys() - theirs - may_be_set
    assert found <= set(names.RESERVED_ENV)


def test_every_reserved_variable_is_set_by_one_launcher() -> None:
    set_ = [env(children.pod(owner, 0, 0, SETTINGS, gang=False)).keys() for owner in (GANG, FULL, READS)]
    assert set().union(*set_) >= set(names.RESERVED_ENV) - {checkers.VARIABLE}, "which tells a pod not to train"


@pytest.mark.parametrize(
    ("limits", "processes"),
    [
        ({}, 1),
        ({"nvidia.com/gpu": 8}, 8),
        ({"nvidia.com/gpu": "4"}, 4),
        ({"amd.com/gpu": 2, "cpu": 64}, 2),
        ({"nvidia.com/mig-1g.10gb": 3, "nvidia.com/mig-2g.20gb": "1"}, 4),
        ({"habana.ai/gaudi": 8}, 8),
        ({"aws.amazon.com/neuroncore": 2}, 2),
        ({"gpu.intel.com/i915": 2}, 2),
        ({"nvidia.com/gpu.shared": 2}, 2),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 50}, 1),
        ({"rdma/hca": 4}, 1),
        ({"membrane.io/gpu": 2}, 2),
        ({"nvidia.com/gpu": "1k"}, 1),
        ({"cpu": 0.5}, 1),
        ({"cpu": "8", "memory": "1Gi"}, 1),
    ],
)
def test_auto_starts_a_process_for_each_gpu(limits: dict[str, Any], processes: int) -> None:
    assert children.resolve_processes(job(container={"resources": {"limits": limits}}).spec) == processes


def test_a_written_number_of_processes_wins() -> None:
    assert children.resolve_processes(job(procPerNode=5, container=GPU).spec) == 5


@pytest.mark.parametrize(
    ("nodes", "gang", "served", "wanted"),
    [
        (2, None, True, True),
        (2, "auto", True, True),
        (2, "none", True, False),
        (2, None, False, False),
        (1, None, True, False),
    ],
)
def test_a_gang_is_for_several_pods_where_the_cluster_can(nodes: int, gang: Any, served: bool, wanted: bool) -> None:
    owner = job(nodes=nodes, **({"scheduling": {"gang": gang}} if gang else {}))
    plan = decide(observe(owner, gangs_served=served))
    assert ("PodGroup train-0" in created(plan)) is wanted
    pods = [body for body in bodies(plan) if body["kind"] == "Pod"]
    assert [("schedulingGroup" in body["spec"]) for body in pods] == [wanted] * nodes


def test_mounts_and_volumes_of_ours_win_over_those_of_the_same_place() -> None:
    theirs = {"volumeMounts": [{"name": "x", "mountPath": "/workspace"}, {"name": "x", "mountPath": "/x"}]}
    template = {
        "spec": {
            "containers": [{"name": "trainer", **theirs}],
            "volumes": [{"name": "x", "emptyDir": {}}, {"name": "aifactory-shm", "hostPath": {"path": "/"}}],
        }
    }
    spec = children.pod(job(template=template), 0, 0, SETTINGS, gang=False)["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/workspace"] == "aifactory-workspace"
    assert mounts["/x"] == "x"
    shm = next(volume for volume in spec["volumes"] if volume["name"] == "aifactory-shm")
    assert shm["emptyDir"] == {"medium": "Memory"}
    assert len(spec["volumes"]) == 4


def test_a_place_is_the_same_with_a_slash_at_its_end_and_memory_may_be_the_users() -> None:
    theirs = [
        {"name": "x", "mountPath": "/workspace/"},
        {"name": "mine", "mountPath": "/dev/shm"},
        {"name": "all", "mountPath": "/"},
        {"name": "x", "mountPath": "/X/"},
    ]
    template = {"spec": {"containers": [{"name": "trainer", "volumeMounts": theirs}]}}
    (trainer,) = children.pod(job(template=template), 0, 0, SETTINGS, gang=False)["spec"]["containers"]
    mounts = [(mount["mountPath"], mount["name"]) for mount in trainer["volumeMounts"]]
    assert [mount for mount in sorted(mounts) if mount[1] != "aifactory-token"] == [
        ("/", "all"),
        ("/X", "x"),
        ("/dev/shm", "mine"),
        ("/workspace", "aifactory-workspace"),
    ]


def test_the_template_is_not_changed_in_place() -> None:
    before = copy.deepcopy(FULL.spec.template.dump())
    children.pod(FULL, 0, 0, SETTINGS, gang=False)
    assert FULL.spec.template.dump() == before


def test_fields_we_do_not_know_are_passed_on_as_written() -> None:
    container = {
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"limits": {"cpu": "1"}, "claims": [{"name": "gpu"}]},
    }
    spec = {"containers": [{"name": "trainer", **container}], "tolerations": [{"operator": "Exists"}]}
    made = children.pod(job(template={"spec": spec}), 0, 0, SETTINGS, gang=False)["spec"]
    assert made["tolerations"] == spec["tolerations"]
    trainer = made["containers"][0]
    assert trainer["lifecycle"] == container["lifecycle"]
    assert trainer["resources"] == container["resources"]
    assert container["env"][0] in trainer["env"]


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        (None, []),
        ("high", []),
        ({"a": 1, "b": 2.5}, [("a", "1"), ("b", "2.5")]),
        ({"a": "x", "b": None, "c": {"d": 1}, "e": True, "f": 3}, [("f", "3")]),
        ({f"m{n:03}": n for n in range(100)}, [(f"m{n:03}", str(n)) for n in range(64)]),
    ],
)
def test_only_numbers_become_metrics_of_the_lineage(reported: Any, kept: list[tuple[str, str]]) -> None:
    body = children.model_version(GANG, 1, {**PUBLISHED, "metrics": reported}, "")
    assert [(metric["name"], metric["value"]) for metric in body["spec"]["lineage"]["metrics"]] == kept


keys = st.text("abcdefgh/-.", min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("xyz", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(keys, values, max_size=4), st.randoms())
def test_the_template_hash_does_not_depend_on_the_order_of_keys(extra: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        entries = [(key, shuffled(entry)) for key, entry in value.items()]
        random.shuffle(entries)
        return dict(entries)

    spec = {"nodeSelector": extra, "containers": [{"name": "trainer", "args": ["a"], "securityContext": extra}]}
    first, second = job(template={"spec": spec}), job(template={"spec": shuffled(spec)})
    assert children.template_hash(first.spec) == children.template_hash(second.spec)


SAME = [
    job(launcher="torchrun"),
    job(scheduling={"gang": "auto"}),
    job(procPerNode="auto"),
    job(failurePolicy={"maxRestarts": 9}),
    job(suspend=True),
    job("other"),
]
DIFFERENT = [
    job(nodes=2),
    job(launcher="none"),
    job(procPerNode=2),
    job(scheduling={"gang": "none"}),
    job(container={"image": "trainer:2"}),
    job(container={"args": ["--lr=1"]}),
    job(
        template={
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "trainer", "image": "trainer:1"}]},
        }
    ),
]


@pytest.mark.parametrize("owner", SAME, ids=lambda owner: str(owner.spec.dump()))
def test_what_does_not_shape_the_pods_keeps_their_hash(owner: Any) -> None:
    assert children.template_hash(owner.spec) == children.template_hash(job().spec)


def test_whatever_shapes_the_pods_changes_their_hash() -> None:
    hashes = [children.template_hash(owner.spec) for owner in [job(), *DIFFERENT]]
    assert len(set(hashes)) == len(hashes)


def test_an_upgrade_does_not_restart_training() -> None:
    """A new operator, or an API server that starts to serve PodGroups, must leave running jobs alone."""
    owner = job(nodes=2)
    labels = [
        children.pod(owner, 0, 0, settings, gang=gang)["metadata"]["labels"][children.LABEL_TEMPLATE_HASH]
        for settings, gang in ((SETTINGS, False), (replace(SETTINGS, agent_image="aifactory/agent:2"), True))
    ]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("hash_", "same"),
    [("", True), ("v1-0123456789", False), ("v9-0123456789", True)],
    ids=["of this spec", "of another spec", "of an operator we do not know"],
)
def test_pods_are_judged_by_the_rules_of_the_operator_that_made_them(hash_: str, same: bool) -> None:
    assert children.is_of(hash_ or children.template_hash(job().spec), job().spec) is same
