"""Objects of somebody who wants to be taken for us: copies of our children, under our labels and our owners' UIDs.

In another namespace nothing can belong to an object, whatever an owner reference says; the garbage collector removes it
when it has found that out. In the same namespace a child is what its owner controls; whoever may create pods there may
claim even that, and harms nobody but himself, so it is not done here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aifactory.api import names
from aifactory.kube.errors import ApiError
from aifactory.kube.resources import PODS, Resource
from tests.sim.cluster import Body, Cluster, labels_of
from tests.sim.programs import DIGEST
from tests.support.kinds import MODELVERSIONS, TRAININGJOBS

HOSTILE = {"stranger": "yes"}
"""A label that the operator does not look at."""
ANSWER = "stranger/answer"
"""Annotation: what the pod's program says before it ends well, at once."""
BROKEN = "stranger/broken"
"""Annotation: a serving pod whose agent says that the model does not load."""
EVIL = "s3://evil/backdoored"


def is_stranger(body: Mapping[str, Any]) -> bool:
    """It only looks like one of ours."""
    return labels_of(body).get("stranger") == "yes"


def copy_abroad(cluster: Cluster, resource: Resource, child: Body, namespace: str, name: str) -> None:
    """A copy of a child in another namespace, owner and all; a pod that runs to an end says what suits it."""
    _create(cluster, resource, child, namespace, name, list(child["metadata"].get("ownerReferences", ())))


def task_abroad(cluster: Cluster, owner: Body, namespace: str) -> None:
    """A publisher or verifier for an object of ours, in another namespace, whether that has one by now or not."""
    meta, status = owner["metadata"], owner.get("status", {})
    reference = {"apiVersion": names.API_VERSION, "kind": owner["kind"], "controller": True}
    if owner["kind"] == TRAININGJOBS.kind:
        role, number = names.ROLE_PUBLISH, status.get("output", {}).get("publishAttempt", 0)
        labels = {names.LABEL_JOB: meta["name"], names.LABEL_JOB_UID: meta["uid"]}
    else:
        assert owner["kind"] == MODELVERSIONS.kind
        role, number = names.ROLE_VERIFY, status.get("verifyAttempt", 0)
        labels = {names.LABEL_MODEL_VERSION: meta["name"], names.LABEL_ATTEMPT: str(number)}
    labels |= {names.LABEL_ROLE: role, names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE}
    task = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": role}]}}
    owners = [{**reference, "name": meta["name"], "uid": meta["uid"]}]
    _create(cluster, PODS, task, namespace, f"{meta['name']}-stranger-{number}", owners)


def pose(cluster: Cluster, pod: Body, name: str, *, broken: bool = False) -> None:
    """A pod of the same namespace with the labels of one of ours; nothing of ours controls it."""
    owners = [{**owner, "controller": False} for owner in pod["metadata"].get("ownerReferences", ())]
    _create(cluster, PODS, pod, pod["metadata"]["namespace"], name, owners, broken=broken)


def _create(
    cluster: Cluster,
    resource: Resource,
    original: Body,
    namespace: str,
    name: str,
    owners: list[Body],
    *,
    broken: bool = False,
) -> None:
    labels = {**labels_of(original), **HOSTILE}
    tasks = (names.ROLE_INPUT, names.ROLE_PROBE, names.ROLE_CHECK, names.ROLE_PUBLISH, names.ROLE_VERIFY)
    answers = labels.get(names.LABEL_ROLE) in (*tasks, names.ROLE_NODE)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners}
    if resource == PODS:
        answer = {"uri": EVIL, "digest": DIGEST, "files": 1, "sizeBytes": 1}
        metadata["annotations"] = {ANSWER: json.dumps(answer)} if answers else {BROKEN: "yes"} if broken else {}
    spec = {key: value for key, value in original.get("spec", {}).items() if key not in ("nodeName", "schedulingGroup")}
    if "template" in spec:  # its pods are strangers as well
        template = spec["template"]
        theirs = {**template["metadata"], "labels": {**template["metadata"]["labels"], **HOSTILE}}
        spec["template"] = {**template, "metadata": theirs}
    body = {"metadata": metadata, "spec": spec} | ({"data": original["data"]} if "data" in original else {})
    try:
        cluster.create(resource, body, "stranger")
    except ApiError:  # the name is taken, or no pod is admitted at the moment
        return
