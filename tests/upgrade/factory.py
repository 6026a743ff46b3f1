"""What is upgraded, and what is seen of it: a release of the chart, and a factory at work in a namespace."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.cluster import objects
from tests.cluster.conftest import SYSTEM
from tests.cluster.traffic import Traffic
from tests.support.chart import CHART
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for
from tests.upgrade.previous import REGISTRY

KINDS = ("trainingjobs", "modelversions", "inferencepools")
CRDS = tuple(f"{kind}.aifactory.dev" for kind in KINDS)
MANAGED = "app.kubernetes.io/managed-by=aifactory"
ROLES = ("node", "serve", "gateway")
"""Of the pods that nobody may lose; others run to an end and go."""
PATIENCE_SECONDS = 180


class Release:
    """Release `aifactory` of the chart."""

    def __init__(self, cluster: Kubectl, helm: Callable[..., str]) -> None:
        self._cluster, self._helm = cluster, helm

    def refuse_objects(self) -> None:
        """Nobody's work is there: the CRDs go, and everything of theirs with them."""
        for kind in KINDS:
            there = self._cluster.run("get", f"{kind}.aifactory.dev", "-A", "-o", "name", check=False).out.split()
            assert not there, f"delete them first, for this suite takes the CRDs away: {', '.join(there)}"

    def remove(self) -> None:
        """Everything of ours, as docs/upgrade.md says."""
        self._helm("uninstall", "aifactory", "-n", SYSTEM, "--wait", "--ignore-not-found")
        self._cluster.run("delete", "crd", *CRDS, "--ignore-not-found", "--timeout=60s")
        self._cluster.run("delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=90s")

    def install(self, chart: str, *values: str) -> None:
        """Into a cluster that has never had it."""
        self._helm("install", "aifactory", chart, "-n", SYSTEM, "--create-namespace", "--wait", *_set(values))

    def install_this(self) -> None:
        """Today's chart as it comes."""
        self.install(str(CHART))

    def upgrade(self, *values: str) -> None:
        """To today's chart, with these values and no others."""
        self._helm("upgrade", "aifactory", str(CHART), "-n", SYSTEM, "--wait", "--reset-values", *_set(values))

    def rollback(self, revision: int) -> None:
        """To what an earlier command made."""
        self._helm("rollback", "aifactory", str(revision), "-n", SYSTEM, "--wait")

    def test(self) -> str:
        """What `helm test` says."""
        return self._helm("test", "aifactory", "-n", SYSTEM)

    def wait_until_leads(self, image: str) -> None:
        """Wait until the operator that leads is of this image."""
        wait_for(f"an operator of {image} to lead", self._leader, lambda seen: seen == image, seconds=60)

    def _leader(self) -> str:
        holder = self._cluster.within("kube-system").get("lease", "aifactory.dev")["spec"].get("holderIdentity") or ""
        pod = self._cluster.within(SYSTEM).get("pod", str(holder).rpartition("/")[2]) if holder else {}
        return str(pod["spec"]["containers"][0]["image"]) if pod else ""


def _set(values: tuple[str, ...]) -> list[str]:
    return [f"--set={value}" for value in values]


def training(name: str, *options: str, then: str = "", **spec: Any) -> Json:
    """A job of the release before: one node that trains the small model, with as much of a core as it may use."""
    words = ["torchrun", "-m", "aifactory_trainer.pretrain", *options]
    command = ["sh", "-c", f"{' '.join(words)} && {then}"] if then else words
    found = objects.job(name, command, image=f"{REGISTRY}/trainer:0.1.0", **spec)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["cpu"] = "500m"
    container["resources"]["requests"] = {"cpu": "50m"}  # a pool that changes needs room beside them
    return found


class Factory:
    """It, since the release before has made it.

    `ended` has made version 1 of tiny. `trains` goes on for ever. `about-to-end` is through with its training and waits
    for a file before it publishes another version. Pool `front` follows tiny through a gateway, pool `pinned` is
    asked directly; clients ask both all the time.
    """

    def __init__(self, within: Kubectl) -> None:
        self.within = within
        output = {"model": {"name": "tiny", "format": "huggingface"}}
        within.apply(training("ended", "--steps=20", output=output))
        within.wait_condition("tjob", "ended", "Complete", seconds=PATIENCE_SECONDS)
        within.wait_condition("mver", "tiny-v1", "Ready", seconds=PATIENCE_SECONDS)
        gateway: Json = {"gateway": {"mode": "Envoy"}, "drain": {"preStopSeconds": 10, "timeoutSeconds": 20}}
        within.apply(
            objects.pool("front", "tiny", replicas=2, **gateway), objects.pool("pinned", "tiny", version=1, replicas=1)
        )
        for pool in ("front", "pinned"):
            within.wait_condition("ipool", pool, "Ready", seconds=PATIENCE_SECONDS)
        wait = "until [ -e /tmp/end ]; do sleep 0.2; done"
        within.apply(
            training("about-to-end", "--steps=20", then=wait, output=output),
            training("trains", "--steps=1000000", "--checkpoint-every=50"),
        )
        within.wait("tjob", "about-to-end", "to have trained", lambda f: step(f) == 20, seconds=PATIENCE_SECONDS)
        within.wait("tjob", "trains", "to train", step, seconds=PATIENCE_SECONDS)
        self.traffic = {
            "front": Traffic(within, "front", "tiny", every_way=True, kinds=("http new", "http kept", "openai new")),
            "pinned": Traffic(within, "pinned", "tiny", every_way=True, kinds=("http new",)),
        }
        for traffic in self.traffic.values():
            traffic.wait_for_every_way()

    def pods(self) -> dict[str, Json]:
        """Pods that train, serve or lead requests, by their UID."""
        found = self.within.list("pods", MANAGED)
        kept = (pod for pod in found if pod["metadata"]["labels"].get("aifactory.dev/role") in ROLES)
        return {pod["metadata"]["uid"]: pod for pod in kept if "deletionTimestamp" not in pod["metadata"]}

    def names(self) -> dict[str, str]:
        """Those pods' names by their UID."""
        return {uid: pod["metadata"]["name"] for uid, pod in self.pods().items()}

    def truths(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Of every object whether it is Ready, and since when."""
        found = {}
        for kind in KINDS:
            for each in self.within.list(f"{kind}.aifactory.dev"):
                told = condition(each, "Ready")
                found[kind, each["metadata"]["name"]] = (told["status"], told["lastTransitionTime"])
        return found

    def patch(self, kind: str, name: str, spec: Json) -> Json:
        """Change a spec; returns the object once the operator has answered that and it is as Ready as it can be.

        A job that trains has no Ready=True to wait for, only an answer.
        """
        self.within.run("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))
        return self.within.wait(kind, name, "to have been answered", _answered, seconds=60)

    def trains_on(self) -> None:
        """Wait until two later steps of the job that trains have been told, one after another."""
        for _ in range(2):
            before = step(self.within.get("tjob", "trains"))
            wait_for(
                f"job trains to be past step {before}",
                lambda: step(self.within.get("tjob", "trains")),
                partial(operator.lt, before),
                seconds=90,
            )

    def lost_nothing(self) -> None:
        """Every client has had more answers, none has failed; no container of ours was started again."""
        for pool, traffic in self.traffic.items():
            traffic.wait_for_more()
            assert traffic.failed() == {}, f"{pool}: {traffic.failed()}: {traffic.last_failures()}"
        for pod in self.pods().values():
            counts = {each["name"]: each["restartCount"] for each in pod["status"]["containerStatuses"]}
            assert not any(counts.values()), (pod["metadata"]["name"], counts)
        job = self.within.get("tjob", "trains")["status"]
        assert (job["attempt"], (job.get("restarts") or {}).get("total", 0)) == (0, 0), job

    def wait_for_images(self, registry: str) -> None:
        """Wait until everything that serves or leads requests has the images of a release, and is Ready.

        Two pools are never on their way at the same time: the release says maxConcurrentRollouts=1.
        """

        def others() -> tuple[list[str], list[str]]:
            found = [
                f"{pod['metadata']['name']}: {each['image']}"
                for pod in self.pods().values()
                if pod["metadata"]["labels"]["aifactory.dev/role"] != "node"
                for each in pod["spec"]["containers"]
                if not each["image"].startswith(f"{registry}/")
            ]
            pools = self.within.list("inferencepools.aifactory.dev")
            found += [f"{each['metadata']['name']} is not Ready" for each in pools if not _ready(each)]
            return found, [each["metadata"]["name"] for each in pools if each["status"]["phase"] == "RollingOut"]

        wait_for(
            f"all pools to have the images of {registry}",
            others,
            lambda seen: not seen[0] and not seen[1],
            seconds=300,
            never=lambda seen: len(seen[1]) > 1,
        )


def step(job: Json) -> int:
    """What the training program has reported."""
    return int((job.get("status", {}).get("progress") or {}).get("step", 0))


def _answered(found: Json) -> bool:
    return bool(found["status"].get("observedGeneration") == found["metadata"]["generation"]) and (
        found["kind"] != "InferencePool" or _ready(found)
    )


def _ready(found: Json) -> bool:
    told = condition(found, "Ready")
    return (told["status"], told["observedGeneration"]) == ("True", found["metadata"]["generation"])
