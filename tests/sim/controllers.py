"""The cluster's own controllers, as far as ours lean on them: Deployments, garbage collection, claims, Gateways."""

from __future__ import annotations

import random
from typing import Any

from aifactory.kube.resources import DEPLOYMENTS, GATEWAYS, HTTPROUTES, PODS, PVCS, Key, Resource
from aifactory.serving.autoscale import DELETION_COST
from tests.sim.cluster import (
    FOREGROUND,
    PVC_PROTECTION,
    REPLICASETS,
    Body,
    Cluster,
    Commit,
    is_live,
    is_ready,
    key_of,
    owner_uids,
)

DEPLOYMENT_CONTROLLER, GARBAGE_COLLECTOR = "deployment-controller", "garbage-collector"
GATEWAY_CONTROLLER = "gateway-controller"

SECONDS, ABROAD_SECONDS = (0.02, 1.5), (5.0, 40.0)
"""Until the garbage collector comes; until it knows that an owner is in another namespace, where none can be."""


class GarbageCollector:
    """Deletes what has lost its owner, after a while, and lifts the finalizers that wait for somebody."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._releasing = False
        self._alive: set[tuple[str, str]] = set()
        """Namespace and UID of what exists and does not wait for its dependents to go."""
        cluster.hooks.append(self._see)

    def _see(self, commit: Commit) -> None:
        namespace, uid = key_of(commit.body).namespace, commit.body["metadata"]["uid"]
        if commit.type == "ADDED":
            self._alive.add((namespace, uid))
            if owners := owner_uids(commit.body):
                # An owner that is not there or about to go: the dependent was made from an old view. One that is in
                # another namespace is not there either, which takes longer to find out.
                abroad = any(uid_ in owners and namespace_ != namespace for namespace_, uid_ in self._alive)
                seconds = self._rng.uniform(*(ABROAD_SECONDS if abroad else SECONDS))
                self._cluster.loop.call_later(seconds, self._check, commit.resource, key_of(commit.body), uid, owners)
        elif commit.type == "DELETED":
            self._alive.discard((namespace, uid))
            self._later(self._collect, namespace, uid)
            for owner in owner_uids(commit.body):
                self._later(self._finish_foreground, namespace, owner)
            if commit.resource == PODS:
                self._release_soon()
        elif "deletionTimestamp" in commit.body["metadata"]:
            if FOREGROUND in commit.body["metadata"]["finalizers"]:
                self._alive.discard((namespace, uid))
                self._later(self._collect, namespace, uid)
                self._later(self._finish_foreground, namespace, uid)
            if commit.resource == PVCS:
                self._release_soon()

    def _check(self, resource: Resource, key: Key, uid: str, owners: list[str]) -> None:
        found = self._cluster.objects[resource].get(key)
        alive = any((key.namespace, owner) in self._alive for owner in owners)
        if found is not None and found["metadata"]["uid"] == uid and not alive:
            self._cluster.delete(resource, key, GARBAGE_COLLECTOR)

    def _collect(self, namespace: str, owner: str) -> None:
        for resource, objects in list(self._cluster.objects.items()):
            for key, body in list(objects.items()):
                owners = owner_uids(body) if key.namespace == namespace else []
                if owner in owners and not any((namespace, other) in self._alive for other in owners):
                    self._cluster.delete(resource, key, GARBAGE_COLLECTOR)

    def _finish_foreground(self, namespace: str, owner: str) -> None:
        """An owner that waits for its dependents goes when the last one has gone."""
        everything = [(r, k, b) for r, objects in self._cluster.objects.items() for k, b in objects.items()]
        if any(owner in owner_uids(body) and key.namespace == namespace for _, key, body in everything):
            return
        for resource, key, body in everything:
            if body["metadata"]["uid"] == owner:
                self._cluster.drop_finalizer(resource, key, FOREGROUND, GARBAGE_COLLECTOR)

    def _release_soon(self) -> None:
        if not self._releasing:
            self._releasing = True
            self._later(self._release_claims)

    def _release_claims(self) -> None:
        self._releasing = False
        for key, claim in list(self._cluster.objects[PVCS].items()):
            if "deletionTimestamp" in claim["metadata"]:
                if any(_uses(pod, key) for pod in self._cluster.all(PODS)):
                    self._release_soon()
                else:
                    self._cluster.drop_finalizer(PVCS, key, PVC_PROTECTION, GARBAGE_COLLECTOR)

    def _later(self, what: Any, *arguments: Any) -> None:
        self._cluster.loop.call_later(self._rng.uniform(*SECONDS), what, *arguments)


class DeploymentController:
    """Keeps as many pods as each Deployment wants. One ReplicaSet each; the template never changes with ours."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._names = 0
        self._due: set[Key] = set()
        cluster.hooks.append(self._see)

    def _see(self, commit: Commit) -> None:
        if commit.resource == DEPLOYMENTS:
            self._soon(key_of(commit.body))
        elif commit.resource == PODS:
            owner = next(iter(commit.body["metadata"].get("ownerReferences", ())), None)
            if owner is not None and owner["kind"] == "ReplicaSet":
                self._soon(Key(commit.body["metadata"]["namespace"], owner["name"].removesuffix("-rs")))

    def _soon(self, key: Key) -> None:
        if key not in self._due:
            self._due.add(key)
            self._cluster.loop.call_later(self._rng.uniform(0.01, 0.5), self._reconcile, key)

    def _reconcile(self, key: Key) -> None:
        self._due.discard(key)
        deployment = self._cluster.objects[DEPLOYMENTS].get(key)
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            return
        replica_set = self._replica_set(deployment)
        pods = [p for p in self._cluster.all(PODS, key.namespace) if _controls(replica_set["metadata"]["uid"], p)]
        active = [pod for pod in pods if is_live(pod) and "deletionTimestamp" not in pod["metadata"]]
        wanted = deployment["spec"].get("replicas", 1)
        for _ in range(wanted - len(active)):
            self._create_pod(deployment, replica_set)
        # As in reality: those that do not serve go first, then those that cost least.
        for pod in sorted(active, key=lambda pod: (is_ready(pod), _cost(pod), pod["metadata"]["uid"]))[
            : max(0, len(active) - wanted)
        ]:
            self._cluster.delete(PODS, key_of(pod), DEPLOYMENT_CONTROLLER)
        self._report(key, replica_set["metadata"]["uid"])

    def _report(self, key: Key, replica_set: str) -> None:
        """Count again: what was done a moment ago shows."""
        pods = [p for p in self._cluster.all(PODS, key.namespace) if _controls(replica_set, p)]
        active = [pod for pod in pods if is_live(pod) and "deletionTimestamp" not in pod["metadata"]]
        ready = sum(1 for pod in active if is_ready(pod))
        status = {
            "observedGeneration": self._cluster.objects[DEPLOYMENTS][key]["metadata"]["generation"],
            "replicas": len(active),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "updatedReplicas": len(active),
        }
        self._cluster.patch_status(DEPLOYMENTS, key, status, DEPLOYMENT_CONTROLLER)

    def _replica_set(self, deployment: Body) -> Body:
        meta = deployment["metadata"]
        name = f"{meta['name']}-rs"
        found = self._cluster.find(REPLICASETS, meta["namespace"], name)
        if found is not None and meta["uid"] in owner_uids(found):
            return found
        if found is not None:
            self._cluster.purge(REPLICASETS, key_of(found), GARBAGE_COLLECTOR)
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": meta["name"], "uid": meta["uid"]}
        body = {
            "metadata": {
                "name": name,
                "namespace": meta["namespace"],
                "labels": deployment["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{**owner, "controller": True}],
            }
        }
        return self._cluster.create(REPLICASETS, body, DEPLOYMENT_CONTROLLER)

    def _create_pod(self, deployment: Body, replica_set: Body) -> None:
        self._names += 1
        meta, template = deployment["metadata"], deployment["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True}
        owner |= {"name": replica_set["metadata"]["name"], "uid": replica_set["metadata"]["uid"]}
        annotations = template["metadata"].get("annotations", {})
        body = {
            "metadata": {
                "name": f"{meta['name']}-{self._names}",
                "namespace": meta["namespace"],
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
        }
        if not self._cluster.pod_quota_exhausted and not self._cluster.breakage("create", PODS, meta["namespace"]):
            self._cluster.create(PODS, body, DEPLOYMENT_CONTROLLER)
        else:
            seconds = 1.0 if self._cluster.pod_quota_exhausted else self._rng.uniform(5.0, 15.0)
            self._cluster.loop.call_later(seconds, self._soon, key_of(deployment))


class GatewayController:
    """Takes every route, each as it is a moment later, and says so. `led` is where requests are led by then."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._due: set[Key] = set()
        self.led: dict[Key, dict[str, int]] = {}
        """Services and their parts, by the key of the route."""
        cluster.hooks.append(self._see)

    def _see(self, commit: Commit) -> None:
        key = key_of(commit.body)
        if commit.resource == HTTPROUTES and key not in self._due:
            self._due.add(key)
            self._cluster.loop.call_later(self._rng.uniform(0.01, 1.5), self._take, key)

    def _take(self, key: Key) -> None:
        self._due.discard(key)
        found = self._cluster.objects[HTTPROUTES].get(key)
        if found is None:
            self.led.pop(key, None)
            return
        (rule, *_) = found["spec"]["rules"]
        self.led[key] = {ref["name"]: ref["weight"] for ref in rule["backendRefs"] if ref["weight"]}
        generation = found["metadata"]["generation"]
        told = {"status": "True", "message": "", "observedGeneration": generation, "lastTransitionTime": "then"}
        conditions = [{"type": each, "reason": each, **told} for each in ("Accepted", "ResolvedRefs")]
        parents = [{"parentRef": ref, "conditions": conditions} for ref in found["spec"]["parentRefs"]]
        self._cluster.patch_status(HTTPROUTES, key, {"parents": parents}, GATEWAY_CONTROLLER)


def make_gateway(cluster: Cluster, namespace: str) -> None:
    """A Gateway `public` that its controller has taken on."""
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    body = {"metadata": {"name": "public", "namespace": namespace}, "spec": {"listeners": [listener]}}
    cluster.create(GATEWAYS, body, "user")
    conditions = [{"type": each, "status": "True", "reason": each} for each in ("Accepted", "Programmed")]
    status = {"conditions": conditions, "addresses": [{"value": "192.0.2.7"}]}
    cluster.patch_status(GATEWAYS, Key(namespace, "public"), status, GATEWAY_CONTROLLER)


def _cost(pod: Body) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, 0))


def _controls(uid: str, body: Body) -> bool:
    return any(owner["uid"] == uid and owner.get("controller") for owner in body["metadata"].get("ownerReferences", ()))


def _uses(pod: Body, claim: Key) -> bool:
    """A placed pod that has not ended mounts the claim."""
    if pod["metadata"]["namespace"] != claim.namespace or "nodeName" not in pod["spec"] or not is_live(pod):
        return False
    volumes = pod["spec"].get("volumes", ())
    return any(volume.get("persistentVolumeClaim", {}).get("claimName") == claim.name for volume in volumes)
