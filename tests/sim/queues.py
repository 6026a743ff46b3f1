"""Kueue, as far as a job sees it: quota for a number of pods, given in the order of arrival, taken back on demand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from aifactory.api import names
from aifactory.kube.resources import PODS, RESOURCEFLAVORS, WORKLOADPRIORITYCLASSES, WORKLOADS
from tests.sim.cluster import Body, Cluster, Commit, is_live, key_of, labels_of

KUEUE = "kueue"
FLAVOR = "gpu-node"
SERVED = frozenset({WORKLOADS, RESOURCEFLAVORS, WORKLOADPRIORITYCLASSES})


class Queues:
    """One queue for all; `wrong` hears what must not be."""

    def __init__(self, cluster: Cluster, rng: random.Random, wrong: Callable[[str], None], quota: int) -> None:
        self._cluster = cluster
        self._rng = rng
        self._wrong = wrong
        self.quota = quota
        self._due = False
        cluster.create(RESOURCEFLAVORS, {"metadata": {"name": FLAVOR}, "spec": {"nodeLabels": {"gpu": "yes"}}}, KUEUE)
        cluster.hooks.append(self._see)

    def of(self, job: str) -> Body:
        """The Workload of a job; there must be one."""
        (found,) = self._cluster.all(WORKLOADS, **{names.LABEL_JOB: job})
        return found

    def preempt(self, job: str) -> None:
        """Take a job's quota back; it comes after all others then."""
        self._tell(self.of(job), Evicted=("True", "Preempted"), Preempted=("True", "InCohortReclamation"))

    def used(self) -> int:
        return sum(_size(found) for found in self._cluster.all(WORKLOADS) if _reserves(found))

    def _see(self, commit: Commit) -> None:
        if commit.resource == WORKLOADS:
            if not self._due:
                self._due = True
                self._cluster.loop.call_later(self._rng.uniform(0.01, 0.5), self._schedule)
            gave_back = commit.old is not None and _reserves(commit.old) and not _reserves(commit.body)
            if gave_back and commit.new is not None and (left := self._training(commit.new)):
                self._wrong(f"the quota of {left} was given back while they live")
        elif commit.resource == PODS and commit.type == "ADDED":
            labels = labels_of(commit.body)
            queued = [w for w in self._cluster.all(WORKLOADS) if _job(w) == labels.get(names.LABEL_JOB_UID)]
            trains = labels.get(names.LABEL_ROLE) == names.ROLE_NODE
            if trains and queued and not any(map(_reserves, queued)):
                self._wrong(f"pod {commit.body['metadata']['name']} was made without quota")

    def _training(self, workload: Body) -> list[str]:
        mine = {names.LABEL_JOB_UID: _job(workload), names.LABEL_ROLE: names.ROLE_NODE}
        return [pod["metadata"]["name"] for pod in self._cluster.all(PODS, **mine) if is_live(pod)]

    def _schedule(self) -> None:
        self._due = False
        waiting = [w for w in self._cluster.all(WORKLOADS) if not _reserves(w) and not _is(w, "Finished")]
        # Who was preempted comes after those that were there then, and is not preempted back and forth.
        for found in sorted(waiting, key=lambda w: (_is(w, "Evicted"), int(w["metadata"]["resourceVersion"]))):
            if self.used() + _size(found) <= self.quota:
                flavors = {"name": "node", "flavors": {"nvidia.com/gpu": FLAVOR}}
                admission = {"clusterQueue": "all", "podSetAssignments": [flavors]}
                over = {"Evicted": ("False", "QuotaReserved"), "Preempted": ("False", "QuotaReserved")}
                given = {"QuotaReserved": ("True", "QuotaReserved"), "Admitted": ("True", "Admitted")}
                self._tell(found, admission, **over, **given)
            elif not _is(found, "QuotaReserved") and not _told(found):
                self._tell(found, QuotaReserved=("False", "Pending"))

    def _tell(self, workload: Body, admission: Body | None = None, **conditions: tuple[str, str]) -> None:
        kept = [one for one in workload.get("status", {}).get("conditions", ()) if one["type"] not in conditions]
        now = self._cluster.timestamp()
        told = [
            {"type": type_, "status": status, "reason": reason, "message": reason, "lastTransitionTime": now}
            for type_, (status, reason) in conditions.items()
        ]
        status: dict[str, Any] = {"conditions": [*kept, *told]}
        if admission is not None:
            status["admission"] = admission
        self._cluster.patch_status(WORKLOADS, key_of(workload), status, KUEUE)


def _is(workload: Body, type_: str) -> bool:
    found = workload.get("status", {}).get("conditions", ())
    return any(one["type"] == type_ and one["status"] == "True" for one in found)


def _told(workload: Body) -> bool:
    return any(one["type"] == "QuotaReserved" for one in workload.get("status", {}).get("conditions", ()))


def _reserves(workload: Body) -> bool:
    return _is(workload, "QuotaReserved") and not _is(workload, "Finished")


def _size(workload: Body) -> int:
    return int(workload["spec"]["podSets"][0]["count"])


def _job(workload: Body) -> str:
    return str(workload["metadata"]["ownerReferences"][0]["uid"])
