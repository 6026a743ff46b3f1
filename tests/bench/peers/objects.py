"""The same job in each side's words: so many pods with one container on a shared claim, all made again if one fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.objects import JOBS, job
from tests.bench.plane import CLAIM, NAMESPACE

Json = dict[str, Any]

RUNTIME: Final = "torch-distributed"
RUNTIMES: Final = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes"
MAX_RESTARTS: Final = 100
_JOB: Final = re.compile(r"job-\d{4}")


@dataclass(frozen=True)
class Kind:
    """What a user of a side writes.

    Attributes:
        path: where it is created.
        resource: its plural.
        done: what its status says once a job has ended well (journal.Write.phase).
        make: of a name, a number of nodes, and whether the pods end by themselves.
    """

    path: str
    resource: str
    done: str
    make: Callable[[str, int, bool], Json]


def job_of(name: str) -> str:
    """The job of an object that it has led to, by how each side's names begin.

    Raises ValueError where it is of none.
    """
    if found := _JOB.match(name):
        return found[0]
    raise ValueError(f"{name} is no job's")


def _pod_template(container: str, short: bool) -> Json:
    mounts = [{"name": "workspace", "mountPath": "/workspace"}]
    trainer = {"name": container, "image": "trainer", "command": ["torchrun", "train.py"], "volumeMounts": mounts}
    volumes = [{"name": "workspace", "persistentVolumeClaim": {"claimName": CLAIM}}]
    template: Json = {"spec": {"restartPolicy": "Never", "containers": [trainer], "volumes": volumes}}
    if short:
        template["metadata"] = {"labels": {"bench/duration": "short"}}
    return template


def _jobset_spec(container: str, nodes: int, short: bool, labels: dict[str, str]) -> Json:
    # Without backoffLimit a Job would start one pod after another before it fails.
    workers = {"parallelism": nodes, "completions": nodes, "backoffLimit": 0}
    template = {"metadata": {"labels": labels}, "spec": {**workers, "template": _pod_template(container, short)}}
    return {
        "failurePolicy": {"maxRestarts": MAX_RESTARTS},
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": template}],
    }


def jobset(name: str, nodes: int, short: bool) -> Json:
    """A JobSet of one Job."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": _jobset_spec("trainer", nodes, short, {}),
    }


def runtime(short: bool) -> Json:
    """The runtime for PyTorch that Trainer comes with, and in it what makes all pods again if one fails."""
    spec = _jobset_spec("node", 1, short, {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"})
    del spec["replicatedJobs"][0]["replicas"]
    for derived in ("parallelism", "completions"):
        del spec["replicatedJobs"][0]["template"]["spec"][derived]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": RUNTIME, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": spec}},
    }


def trainjob(name: str, nodes: int, short: bool) -> Json:
    """A TrainJob on that runtime, which says how long its pods run."""
    del short
    trainer = {"image": "trainer", "command": ["torchrun", "train.py"], "numNodes": nodes}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"runtimeRef": {"name": RUNTIME}, "trainer": trainer},
    }


def _in(group: str, plural: str) -> str:
    return f"/apis/{group}/namespaces/{NAMESPACE}/{plural}"


KINDS: Final = {
    "ours": Kind(JOBS, "trainingjobs", "Succeeded", lambda name, nodes, short: job(name, nodes, short=short)),
    "jobset": Kind(_in("jobset.x-k8s.io/v1alpha2", "jobsets"), "jobsets", "Completed", jobset),
    "trainer": Kind(_in("trainer.kubeflow.org/v1alpha1", "trainjobs"), "trainjobs", "Complete", trainjob),
}
