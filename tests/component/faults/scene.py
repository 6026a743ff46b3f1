"""A handful of jobs that go through a fault, and what must be true of them after it.

Before the fault: `stays` runs on two nodes, `ends` and `goes` on one. During it, unseen by the operator: `ends`
ends well, `goes` is deleted, `comes` is created. After it all of that must be known, nothing may have been done twice,
and a job created then must get its pod as on any other day.
"""

from __future__ import annotations

import time

from tests.cluster import objects
from tests.component import pods
from tests.component.faults.site import Site
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

PODS_IN_ALL = 6
"""stays 2, ends 1, goes 1, comes 1, after 1."""


class Scene:
    """The jobs of one test in its namespace."""

    def __init__(self, ns: Kubectl, site: Site) -> None:
        self.ns = ns
        self._site = site
        assert ns.namespace is not None
        self._namespace = ns.namespace
        self._uids: dict[str, str] = {}

    def before(self) -> Scene:
        """Three jobs that run."""
        self.ns.apply(
            objects.job("stays", ["true"], nodes=2), objects.job("ends", ["true"]), objects.job("goes", ["true"])
        )
        names = {"stays-0-0", "stays-1-0", "ends-0-0", "goes-0-0"}
        self._wait_pods(names)
        for name in sorted(names):
            pods.run(self.ns, name)
        for job in ("stays", "ends", "goes"):
            self.ns.wait_condition("tjob", job, "Running")
        self._uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.ns.list("pods")}
        return self

    def meanwhile(self) -> Scene:
        """What happens while the operator may not see it."""
        pods.end(self.ns, "ends-0-0", 0)
        self.ns.run("delete", "tjob", "goes", "--wait=false")
        self.ns.apply(objects.job("comes", ["true"]))
        return self

    def after(self, seconds: float = 90) -> float:
        """Everything is as if nothing had been; returns how long that took."""
        started = time.monotonic()
        self._wait_pods({"stays-0-0", "stays-1-0", "ends-0-0", "comes-0-0"}, seconds)
        wait_for("ends to be Complete", self._jobs, lambda jobs: _complete(jobs["ends"]), seconds=seconds)
        took = time.monotonic() - started
        self.ns.apply(objects.job("after", ["true"]))
        self._wait_pods({"stays-0-0", "stays-1-0", "ends-0-0", "comes-0-0", "after-0-0"})
        wait_for("every job to be observed", self._jobs, lambda jobs: all(_observed(job) for job in jobs.values()))
        self._nothing_twice()
        return took

    def _nothing_twice(self) -> None:
        found = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.ns.list("pods")}
        assert {name: found[name] for name in ("stays-0-0", "stays-1-0")} == {
            name: self._uids[name] for name in ("stays-0-0", "stays-1-0")
        }, "pods that ran were replaced"
        jobs = self._jobs()
        restarts = {name: (job["status"].get("restarts") or {}).get("total", 0) for name, job in jobs.items()}
        assert restarts == dict.fromkeys(("stays", "ends", "comes", "after"), 0), restarts
        created = len(self._site.pods_created(self._namespace))
        assert created == PODS_IN_ALL, f"{created} pods were created where {PODS_IN_ALL} were asked for"

    def _jobs(self) -> dict[str, Json]:
        return {job["metadata"]["name"]: job for job in self.ns.list("tjob")}

    def _wait_pods(self, names: set[str], seconds: float = 60) -> None:
        wait_for(
            f"the pods {sorted(names)}",
            lambda: ({pod["metadata"]["name"] for pod in self.ns.list("pods")}, self._site.operator.words()[-1500:]),
            lambda seen: seen[0] == names,
            seconds=seconds,
        )


def _complete(job: Json) -> bool:
    return condition(job, "Complete").get("status") == "True"


def _observed(job: Json) -> bool:
    return bool(job.get("status", {}).get("observedGeneration") == job["metadata"]["generation"])
