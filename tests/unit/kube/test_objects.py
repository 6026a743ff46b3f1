"""What is read of an object as an API server sends it, and what is left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from aifactory.kube import objects
from aifactory.kube.objects import (
    Condition,
    DeploymentStatus,
    Metadata,
    NodeStatus,
    Pod,
    PodStatus,
    condition,
    decoder,
    same_but_version,
)

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "a",
        "namespace": "ns",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "labels": {"l": "1"},
        "annotations": {"left": "out"},
        "deletionTimestamp": "2026-01-02T03:04:05Z",
        "ownerReferences": [
            {"apiVersion": "g/v1", "kind": "Job", "name": "j", "uid": "ju", "controller": True, "x": 1},
            {"kind": "Queue", "name": "q", "uid": "qu"},
        ],
    },
    "spec": {"nodeName": "n1", "containers": [{"name": "main"}]},
    "status": {
        "phase": "Running",
        "reason": "Why",
        "message": "words",
        "podIP": "10.0.0.1",
        "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "ContainersReady", "status": "True"},
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"},
            {"type": "DisruptionTarget"},
        ],
        "containerStatuses": [
            {
                "name": "main",
                "image": "i:1",
                "imageID": "sha256:1",
                "state": {
                    "terminated": {
                        "exitCode": 3,
                        "reason": "Error",
                        "message": "m",
                        "finishedAt": "2026-01-02T03:04:05Z",
                    }
                },
            },
            {"name": "side", "state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}},
            {"name": "more", "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}},
            {"name": "new"},
        ],
        "initContainerStatuses": [{"name": "fetch"}],
    },
}


def test_a_pod() -> None:
    pod = decoder(Pod)(json.dumps(POD).encode())
    meta, status = pod.metadata, pod.status
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (meta.name, meta.namespace, meta.uid, meta.resource_version) == ("a", "ns", "u", "7")
    assert (meta.generation, meta.labels, meta.deletion_timestamp) == (2, {"l": "1"}, moment)
    assert [(o.api_version, o.kind, o.name, o.uid, o.controller) for o in meta.owner_references] == [
        ("g/v1", "Job", "j", "ju", True),
        ("", "Queue", "q", "qu", False),
    ]
    assert pod.spec.node_name == "n1"
    assert (status.phase, status.reason, status.message, status.pod_ip) == ("Running", "Why", "words", "10.0.0.1")
    assert [(c.type, c.status, c.reason, c.message) for c in status.conditions] == [
        ("Ready", "True", "", ""),
        ("PodScheduled", "False", "Unschedulable", "no node"),
        ("DisruptionTarget", "Unknown", "", ""),
    ]
    main, side, more, new = status.container_statuses
    assert (main.name, main.image, main.image_id) == ("main", "i:1", "sha256:1")
    ended = main.state.terminated
    assert ended is not None
    assert (ended.exit_code, ended.reason, ended.message, ended.finished_at) == (3, "Error", "m", moment)
    assert side.state.waiting is not None
    assert (side.state.waiting.reason, side.state.waiting.message) == ("ErrImagePull", "none")
    assert more.state.running is not None
    assert new.state == objects.ContainerState()
    assert [found.name for found in status.init_container_statuses] == ["fetch"]


def test_an_object_of_which_the_server_says_little() -> None:
    pod = decoder(Pod)(b'{"metadata":{"name":"a"}}')
    assert pod == Pod(metadata=Metadata(name="a"))
    meta, status = pod.metadata, pod.status
    assert (meta.namespace, meta.uid, meta.resource_version, meta.generation) == ("", "", "", 0)
    assert (meta.labels, meta.owner_references, meta.deletion_timestamp) == ({}, (), None)
    assert pod.spec.node_name == ""
    assert (status.phase, status.reason, status.message, status.pod_ip) == ("Pending", "", "", "")
    assert (status.conditions, status.container_statuses, status.init_container_statuses) == ((), (), ())
    empty = decoder(objects.ContainerStatus)(b'{"name":"c","state":{"waiting":{}}}')
    assert (empty.image, empty.image_id, empty.state.waiting) == ("", "", objects.Waiting(reason="", message=""))
    assert (empty.restart_count, empty.ready) == (0, False)
    ended = decoder(objects.Terminated)(b"{}")
    assert (ended.exit_code, ended.reason, ended.message, ended.finished_at) == (0, "", "", None)


def test_kinds_of_which_less_is_read() -> None:
    deployment = decoder(objects.Deployment)(
        b'{"metadata":{"name":"d"},"spec":{"replicas":3},"status":{"replicas":2,"readyReplicas":1}}'
    )
    assert (deployment.spec.replicas, deployment.status.replicas, deployment.status.ready_replicas) == (3, 2, 1)
    bare = decoder(objects.Deployment)(b'{"metadata":{"name":"d"}}')
    assert (bare.spec.replicas, bare.status.replicas, bare.status.ready_replicas) == (1, 0, 0)

    gang = decoder(objects.PodGroup)(
        b'{"metadata":{"name":"g"},"spec":{"schedulingPolicy":{"gang":{"minCount":4}}},'
        b'"status":{"conditions":[{"type":"Any","status":"True"}]}}'
    )
    assert gang.spec.scheduling_policy.gang.min_count == 4
    assert [found.type for found in gang.status.conditions] == ["Any"]
    bare_gang = decoder(objects.PodGroup)(b'{"metadata":{"name":"g"}}')
    assert (bare_gang.spec.scheduling_policy.gang.min_count, bare_gang.status.conditions) == (0, ())

    claim = decoder(objects.Claim)(b'{"metadata":{"name":"c"},"spec":{"accessModes":["ReadWriteMany"]}}')
    assert claim.spec.access_modes == (objects.READ_WRITE_MANY,)

    annotated = decoder(objects.AnnotatedMetadata)(b'{"name":"a","annotations":{"k":"v"}}')
    assert annotated.annotations == {"k": "v"}
    assert decoder(objects.AnnotatedMetadata)(b'{"name":"a"}').annotations == {}


def test_a_page_of_a_list_and_an_empty_one() -> None:
    decode = decoder(objects.ObjectList[objects.PartialObject])
    page = decode(b'{"metadata":{"resourceVersion":"7","continue":"t"},"items":[{"metadata":{"name":"a"}}]}')
    assert (page.metadata.resource_version, page.metadata.continue_) == ("7", "t")
    assert [found.metadata.name for found in page.items or ()] == ["a"]
    assert decode(b'{"metadata":{},"items":null}').items is None
    empty = decode(b"{}")
    assert (empty.metadata.resource_version, empty.metadata.continue_, empty.items) == ("", "", ())


def test_a_status_of_the_api_server() -> None:
    decode = decoder(objects.Status)
    found = decode(
        b'{"kind":"Status","status":"Failure","message":"m","reason":"Invalid","code":422,"details":{"name":"a",'
        b'"kind":"pods","uid":"u","retryAfterSeconds":3,"causes":[{"reason":"r","message":"cm","field":"f"}]}}'
    )
    assert (found.kind, found.status, found.message, found.reason, found.code) == (
        "Status",
        "Failure",
        "m",
        "Invalid",
        422,
    )
    details = found.details
    assert details is not None
    assert (details.name, details.kind, details.uid, details.retry_after_seconds) == ("a", "pods", "u", 3)
    assert details.causes == (objects.StatusCause(reason="r", message="cm", field="f"),)
    bare = decode(b'{"details":{"causes":[{}]}}')
    assert (bare.kind, bare.status, bare.message, bare.reason, bare.code) == ("", "", "", "", 0)
    assert bare.details is not None
    assert (bare.details.name, bare.details.kind, bare.details.uid, bare.details.retry_after_seconds) == ("", "", "", 0)
    assert bare.details.causes == (objects.StatusCause(reason="", message="", field=""),)
    assert decode(b"{}").details is None
    assert decoder(objects.StatusDetails)(b"{}").causes == ()


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        decoder(Pod)(b'{"metadata":{"name":7}}')


def test_a_condition_is_found_by_its_type() -> None:
    conditions = (Condition(type="A", status="True"), Condition(type="B"))
    assert condition(conditions, "B") == Condition(type="B", status="Unknown")
    assert condition(conditions, "C") is None


def test_views_that_differ_in_their_version_only() -> None:
    def pod(version: str, name: str = "a", phase: str = "Running") -> Pod:
        return Pod(metadata=Metadata(name=name, resource_version=version), status=PodStatus(phase=phase))

    assert same_but_version(pod("1"), pod("2")) is True
    assert same_but_version(pod("1"), pod("2", name="b")) is False
    assert same_but_version(pod("1"), pod("2", phase="Failed")) is False


def test_of_a_deployment_s_conditions_only_refusals_are_kept() -> None:
    def seen(type_: str, status: str, reason: str = "") -> bool:
        return bool(DeploymentStatus(conditions=(Condition(type=type_, status=status, reason=reason),)).conditions)

    assert seen("ReplicaFailure", "True", "FailedCreate")
    assert not seen("ReplicaFailure", "False")
    assert seen("Progressing", "False", "ReplicaSetCreateError")
    assert not seen("Progressing", "True", "ReplicaSetCreateError")
    assert not seen("Progressing", "False", "ProgressDeadlineExceeded"), "that pods are slow is told of the pods"
    assert not seen("Available", "False", "ReplicaSetCreateError")


def test_of_a_node_s_conditions_only_whether_it_is_ready_is_kept() -> None:
    ready, full = Condition(type="Ready", status="True"), Condition(type="DiskPressure", status="True")
    assert NodeStatus(conditions=(full, ready)).conditions == (ready,)


def test_of_a_node_s_labels_only_the_memory_of_its_devices_is_kept() -> None:
    kept = {"nvidia.com/gpu.memory": "81559"}
    labels = {**kept, "kubernetes.io/hostname": "a", "nvidia.com/gpu.memory.max": "1"}
    assert objects.NodeMetadata(name="a", labels=labels).labels == kept
    bare = [objects.NodeMetadata(name=name, labels={"kubernetes.io/hostname": name}).labels for name in "ab"]
    assert bare[0] == {}
    assert bare[0] is bare[1], "thousands of nodes share it"


def test_of_kueue_s_kinds_and_of_routes_little_may_be_said() -> None:
    waiting = decoder(objects.Workload)(
        b'{"metadata":{"name":"w"},"status":{"conditions":[{"type":"A","status":"True"}]}}'
    )
    assert waiting.spec.active
    assert waiting.metadata.creation_timestamp.utcoffset() is not None, "it is compared with the time of day"
    assert waiting.status.conditions[0].observed_generation == 0
    assert decoder(objects.WorkloadPriorityClass)(b'{"metadata":{"name":"p"}}').value == 0

    route = decoder(objects.Route)(
        b'{"metadata":{"name":"r"},"spec":{"parentRefs":[{"name":"g"}],"rules":[{"backendRefs":[{"name":"b"}]}]},'
        b'"status":{"parents":[{"parentRef":{"name":"g"},"conditions":[{"type":"Accepted","status":"True"}]}]}}'
    )
    (parent,) = route.spec.parent_refs
    assert (parent.kind, parent.namespace, parent.section_name) == ("Gateway", "", "")
    assert route.spec.rules[0].backend_refs[0].weight == 1
    assert route.status.parents[0].conditions[0].observed_generation == 0
    assert decoder(objects.Listener)(b'{"name":"http"}').port == 0
