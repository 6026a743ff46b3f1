"""The objects an InferencePool makes: golden files, Kubernetes' own types, and what a template can not override."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aifactory.api import names
from aifactory.serving import assignment, disruption, shape, traffic
from aifactory.serving.state import Settings
from aifactory_contract.desired import parse
from tests.unit.golden import assert_golden, assert_known_to_kubernetes, assert_restricted
from tests.unit.serving.builders import SETTINGS, pool, version

GOLDEN = Path(__file__).parent / "golden"
OWN = pool(
    drain={"preStopSeconds": 0, "timeoutSeconds": 5},
    template={
        "metadata": {"labels": {"team": "nlp"}, "annotations": {"note": "keep"}},
        "spec": {
            "nodeSelector": {"gpu": "h100"},
            "containers": [
                {
                    "name": "triton",
                    "image": "own/triton:1",
                    "env": [{"name": "LOG", "value": "1"}],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                },
                {"name": "side", "image": "side:1"},
            ],
            "initContainers": [{"name": "warm", "image": "warm:1"}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        },
    },
)
ON_GPUS = {
    "spec": {
        "containers": [
            {"name": "triton", "image": "aifactory/server-vllm:1", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
        ]
    }
}
BUCKET = version(4, uri="s3://bucket/tiny/4", secret="s3")
MIRROR = replace(SETTINGS, hub_endpoint="https://hub.example.com")


def objects(owner: Any, model: Any, settings: Settings = SETTINGS) -> list[dict[str, Any]]:
    image = shape.image_of(owner, settings)
    revision = shape.revision_of(owner, model, image)
    return [
        traffic.service(owner, openai=model.generates_text),
        assignment.config(owner, model, revision),
        shape.deployment(owner, model, settings, revision, image, 3),
        disruption.budget(owner),
    ]


CASES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "plain": lambda: objects(pool(), version(1)),
    "own-settings": lambda: objects(OWN, BUCKET),
    "mirror": lambda: objects(pool(), version(1, uri="hf://org/tiny@main"), MIRROR),
    "torch-export": lambda: objects(pool(), version(1, format="torch-export")),
    "vllm": lambda: objects(pool(runtime={"engine": "vllm"}, template=ON_GPUS), version(1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_objects_are_the_golden_ones(case: str) -> None:
    assert_golden(GOLDEN / f"{case}.yaml", CASES[case]())


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str) -> None:
    for body in CASES[case]():
        assert_known_to_kubernetes(body)


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_found_by_our_label_and_goes_with_its_pool(case: str) -> None:
    for body in CASES[case]():
        assert body["metadata"]["labels"][names.LABEL_MANAGED_BY] == names.LABEL_MANAGED_BY_VALUE
        assert body["metadata"]["ownerReferences"][0]["kind"] == "InferencePool"


def template(case: str) -> dict[str, Any]:
    return CASES[case]()[2]["spec"]["template"]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    spec = template(case)["spec"]
    assert_restricted(spec)
    assert spec["automountServiceAccountToken"] is False
    for name in ("triton", "agent"):
        found = next(c for c in (*spec["containers"], *spec["initContainers"]) if c["name"] == name)
        assert found["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("case", CASES)
def test_service_and_deployment_select_the_pods(case: str) -> None:
    service, _, deployment, budget = CASES[case]()
    labels = template(case)["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels
    assert budget["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert names.LABEL_REVISION in deployment["spec"]["selector"]["matchLabels"]
    assert names.LABEL_REVISION not in service["spec"]["selector"], "every revision answers"


@pytest.mark.parametrize("case", CASES)
def test_every_mount_has_its_volume_and_every_port_its_name(case: str) -> None:
    spec = template(case)["spec"]
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(set(volumes)) == len(volumes)
    for container in (*spec["containers"], *spec["initContainers"]):
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= set(volumes)
    ports = {port["name"] for one in (*spec["containers"], *spec["initContainers"]) for port in one.get("ports", ())}
    assert {port["targetPort"] for port in CASES[case]()[0]["spec"]["ports"]} <= ports
    config = next(volume for volume in spec["volumes"] if volume["name"] == "aifactory-desired")
    assert config["configMap"]["name"] == CASES[case]()[1]["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_readiness_is_the_agents_word_alone(case: str) -> None:
    spec = template(case)["spec"]
    agent = next(container for container in spec["initContainers"] if container["name"] == "agent")
    assert agent["restartPolicy"] == "Always", "a native sidecar"
    assert agent["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert all("readinessProbe" not in container for container in spec["containers"])


def test_a_language_model_has_a_door_for_openais_api_and_no_other_has() -> None:
    service = CASES["plain"]()[0]
    assert service["spec"]["ports"][-1]["port"] == names.OPENAI_PORT
    agent, door = template("plain")["spec"]["initContainers"]
    assert (door["name"], door["image"], door["restartPolicy"]) == ("openai", agent["image"], "Always")
    assert (
        door["readinessProbe"]["httpGet"] == door["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "openai"}
    )
    assert all(mount.get("readOnly") for mount in door["volumeMounts"])
    assert "openai" not in json.dumps(CASES["torch-export"]())


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_written_for_the_agent_it_can_read(case: str) -> None:
    config = CASES[case]()[1]
    desired = parse(config["data"]["desired.json"])
    assert desired.revision == config["metadata"]["labels"][names.LABEL_REVISION]
    assert len(desired.models) == 1


def test_the_agent_is_told_all_about_the_model() -> None:
    desired = json.loads(CASES["own-settings"]()[1]["data"]["desired.json"])
    revision = CASES["own-settings"]()[1]["metadata"]["labels"][names.LABEL_REVISION]
    assert desired == {
        "pool": "chat",
        "revision": revision,
        "models": [
            {
                "name": "tiny",
                "version": 4,
                "uri": "s3://bucket/tiny/4",
                "digest": f"sha256:{4:064}",
                "format": "huggingface",
                "secret": "s3",
            }
        ],
    }


@pytest.mark.parametrize(
    ("drain", "grace", "pre_stop"),
    [
        (None, 75, {"preStop": {"sleep": {"seconds": 15}}}),
        ({"preStopSeconds": 3}, 63, {"preStop": {"sleep": {"seconds": 3}}}),
        ({"timeoutSeconds": 9}, 24, {"preStop": {"sleep": {"seconds": 15}}}),
        ({"preStopSeconds": 0, "timeoutSeconds": 9}, 9, None),
    ],
)
def test_draining_takes_as_long_as_is_asked_for(drain: Any, grace: int, pre_stop: Any) -> None:
    owner = pool(**({"drain": drain} if drain is not None else {}))
    spec = objects(owner, version(1))[2]["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace
    assert spec["containers"][0].get("lifecycle") == pre_stop


def test_what_a_template_says_of_its_pods_end_and_names_is_kept() -> None:
    def spec(**settings: Any) -> Any:
        template = {"spec": {"containers": [{"name": "triton"}], **settings}}
        return objects(pool(template=template), version(1))[2]["spec"]["template"]["spec"]

    assert spec(terminationGracePeriodSeconds=600)["terminationGracePeriodSeconds"] == 600
    assert "dnsPolicy" not in spec()
    assert spec(hostNetwork=True)["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert spec(hostNetwork=True, dnsPolicy="Default")["dnsPolicy"] == "Default"


OURS = {names.LABEL_MANAGED_BY: "aifactory", names.LABEL_POOL: "chat", names.LABEL_ROLE: "serve"}


@pytest.mark.parametrize("label", [*OURS, names.LABEL_REVISION])
def test_a_template_can_not_override_our_labels(label: str) -> None:
    owner = pool(template={"metadata": {"labels": {label: "theirs", "team": "a"}}})
    deployment = objects(owner, version(1))[2]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (
        labels[label] == {**OURS, names.LABEL_REVISION: deployment["metadata"]["labels"][names.LABEL_REVISION]}[label]
    )
    assert labels["team"] == "a"


def test_a_template_bears_no_other_label_of_ours_and_needs_none_at_all() -> None:
    for theirs in ({"annotations": {"note": "keep"}}, {"labels": {"aifactory.dev/job": "mine"}}):
        deployment = objects(pool(template={"metadata": theirs}), version(1))[2]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels == {**OURS, names.LABEL_REVISION: deployment["metadata"]["labels"][names.LABEL_REVISION]}


@pytest.mark.parametrize("path", ["/tmp", "/dev/shm/"])
def test_what_a_template_mounts_for_files_that_pass_is_kept(path: str) -> None:
    theirs = {"name": "triton", "volumeMounts": [{"name": "cache", "mountPath": path}]}
    spec = {"containers": [theirs], "volumes": [{"name": "cache", "emptyDir": {}}]}
    triton = objects(pool(template={"spec": spec}), version(1))[2]["spec"]["template"]["spec"]["containers"][0]
    found = [mount["name"] for mount in triton["volumeMounts"] if mount["mountPath"].rstrip("/") == path.rstrip("/")]
    assert found == ["cache"]


def test_ports_and_hooks_of_the_template_come_beside_ours() -> None:
    theirs = {
        "name": "triton",
        "ports": [{"containerPort": 8000, "name": "mine"}, {"containerPort": 9000, "name": "debug"}],
        "lifecycle": {"postStart": {"sleep": {"seconds": 1}}},
    }
    owner = pool(template={"spec": {"containers": [theirs]}})
    triton = objects(owner, version(1))[2]["spec"]["template"]["spec"]["containers"][0]
    assert {port["name"]: port["containerPort"] for port in triton["ports"]} == {
        "http": 8000,
        "grpc": 8001,
        "metrics": 8002,
        "debug": 9000,
    }
    assert triton["lifecycle"] == {"postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 15}}}


def test_the_template_is_not_changed_in_place() -> None:
    assert OWN.spec.template is not None
    before = copy.deepcopy(OWN.spec.template.dump())
    objects(OWN, version(1))
    assert OWN.spec.template.dump() == before


def revision(owner: Any, model: Any = None, settings: Settings = SETTINGS) -> str:
    return shape.revision_of(owner, model or version(1), shape.image_of(owner, settings))


def test_replicas_and_the_way_of_wishing_do_not_make_a_revision() -> None:
    same = [pool(), pool(replicas=7), pool(replicas=None), pool(wish={"name": "tiny", "version": 1})]
    same.append(pool(drain={"preStopSeconds": 15, "timeoutSeconds": 60}))
    assert len({revision(owner) for owner in same}) == 1


def test_whatever_shapes_the_pods_makes_a_revision() -> None:
    different = [
        revision(pool()),
        revision(pool(), version(2)),
        revision(pool(), version(1, digest="sha256:b")),
        revision(pool(), version(1, uri="pvc://other/tiny/1")),
        revision(pool(), version(1, secret="s3")),
        revision(pool(drain={"timeoutSeconds": 1})),
        revision(pool(template={"spec": {"nodeSelector": {"a": "b"}}})),
        revision(pool(template={"metadata": {"labels": {"a": "b"}}})),
        revision(pool(), settings=replace(SETTINGS, server_image="aifactory/server:2")),
    ]
    assert len(set(different)) == len(different)


def test_what_becomes_known_about_a_version_later_makes_no_revision() -> None:
    assert revision(pool(), version(1, message="3 files", reason="Verified")) == revision(pool())
    assert revision(pool(), version(1, deleting=True)) == revision(pool())


def test_an_agent_of_another_release_makes_no_revision() -> None:
    """An upgrade that changes nothing a user wrote, nor Triton's image, must not roll a pool."""
    assert revision(pool(), settings=replace(SETTINGS, agent_image="aifactory/agent:2")) == revision(pool())


def test_a_pool_with_an_image_of_its_own_is_none_of_the_installations_business() -> None:
    newer = replace(SETTINGS, server_image="aifactory/server:2")
    assert revision(OWN, settings=newer) == revision(OWN)


def test_a_shape_of_a_version_that_is_not_known_here_has_no_name() -> None:
    assert shape.revision_of(pool(), version(1), "image", "v0") == ""


@pytest.mark.parametrize(
    ("size", "room"), [(0, "256Mi"), (1, "257Mi"), (1024**2, "258Mi"), (16 * 1024**3, "33024Mi"), (None, None)]
)
def test_the_model_has_room_on_the_nodes_disk(size: int | None, room: str | None) -> None:
    spec = objects(pool(), version(1, size_bytes=size))[2]["spec"]["template"]["spec"]
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "aifactory-repository")
    agent = next(container for container in spec["initContainers"] if container["name"] == "agent")
    assert volume["emptyDir"].get("sizeLimit") == room
    assert agent["resources"]["requests"].get("ephemeral-storage") == room
    assert_known_to_kubernetes(objects(pool(), version(1, size_bytes=size))[2])


def test_the_size_of_a_model_changes_no_revision() -> None:
    """Pods that an earlier release has made without it stay."""
    made = {objects(pool(), version(1, size_bytes=size))[2]["metadata"]["name"] for size in (None, 1, 2)}
    assert len(made) == 1


def test_a_drain_takes_one_pod_at_a_time_and_is_never_held_up_by_one_that_does_not_work() -> None:
    spec = disruption.budget(pool())["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_pods_of_a_revision_are_spread_over_nodes_if_that_is_possible() -> None:
    spec = template("plain")["spec"]
    (constraint,) = spec["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert constraint["labelSelector"]["matchLabels"] == CASES["plain"]()[2]["spec"]["selector"]["matchLabels"]


def test_a_template_may_spread_its_pods_in_its_own_way_or_not_at_all() -> None:
    for theirs in ([], [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]):
        owner = pool(template={"spec": {"topologySpreadConstraints": theirs}})
        made = objects(owner, version(1))[2]
        assert made["spec"]["template"]["spec"]["topologySpreadConstraints"] == theirs
