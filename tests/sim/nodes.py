"""Scheduler and kubelets: what becomes of pods, from Pending to gone.

Pods are placed on nodes with a number of slots; gangs (PodGroups) all at once or not at all. A kubelet starts, ends and
removes containers after delays drawn by chance; what a container does when it runs is decided in `programs`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

from aifactory.api import names
from aifactory.kube.resources import CONFIGMAPS, PODGROUPS, PODS, PVCS, Key
from tests.sim import cluster as server
from tests.sim.cluster import Body, Cluster, Commit, is_live, key_of, labels_of, node_body
from tests.sim.programs import Exit, Programs

KUBELET, SCHEDULER, NODE_CONTROLLER = "kubelet", "scheduler", "node-controller"
SLOTS = 24
NODES = ("node-a", "node-b", "node-c")
SIDE_CONTAINER = "side"
SERVES = (names.ROLE_SERVE, names.ROLE_SHADOW)
LOOK_SECONDS = (30.0, 90.0)
"""Until a kubelet looks at a pod to which nothing has happened."""
READY_FALSE = {"type": "Ready", "status": "False"}
LOST_SECONDS = 10.0
"""How long a node must be silent before its pods are given up (five minutes in reality)."""


class Nodes:
    """Everything that happens to pods by themselves."""

    def __init__(self, cluster: Cluster, programs: Programs, rng: random.Random) -> None:
        self._cluster = cluster
        self._programs = programs
        self._rng = rng
        self.lost: set[str] = set()
        """Nodes whose kubelet is silent."""
        self.full = False
        """No pod finds a place."""
        self.fetched: set[tuple[str, str]] = set()
        """UIDs of claims for inputs, and the digests of what is on them."""
        self._clearing: dict[str, Body] = {}
        """UIDs of pods whose containers have ended, and the status they get when they have been cleared away."""
        self._pass: asyncio.TimerHandle | None = None
        cluster.hooks.append(self._see)
        for node in NODES:
            cluster.create(server.NODES, node_body(node, "True"), KUBELET)
            self._tell(node, "True")

    # --- What happens to a cluster ---

    def fail(self, pod: Body, exit_: Exit) -> None:
        """The main container ends."""
        self._exit(key_of(pod), pod["metadata"]["uid"], exit_)

    def evict(self, pod: Body, *, reason: str = "EvictionByEvictionAPI") -> None:
        """Drain or preemption: marked, then deleted with its grace."""
        key = key_of(pod)
        self._set_condition(key, {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "drained"})
        self._cluster.delete(PODS, key, NODE_CONTROLLER)

    def evict_for_pressure(self, pod: Body) -> None:
        """The kubelet ends a pod because its node runs out of memory: the pod stays, Failed."""
        status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
        self._end(pod, status, Exit(137, "Error", ""), disrupted="TerminationByKubelet", late=self._rng.random() < 0.7)

    def stop(self, pod: Body, reason: str, code: int) -> None:
        """The kubelet ends a pod for a reason of its own (deadline, shutdown); the program may end with 0."""
        status = {"phase": "Failed", "reason": reason, "message": "it was told to end"}
        exit_ = Exit(code, "Completed" if code == 0 else "Error", "")
        self._end(pod, status, exit_, late=self._rng.random() < 0.7)

    def refuse(self, pod: Body, reason: str = "OutOfcpu") -> None:
        """The kubelet does not admit a pod that was placed on its node: none of its containers runs."""
        status = {"phase": "Failed", "reason": reason, "message": "Node didn't have enough resource: cpu"}
        self._cluster.patch_status(PODS, key_of(pod), status, KUBELET)

    def lose(self, node: str, *, given_up_after: float = LOST_SECONDS) -> None:
        """A node goes silent; after a while its pods are marked and deleted, and stay until the node is gone."""
        self.lost.add(node)
        self._later(min(given_up_after, LOST_SECONDS) / 2, self._tell_silence, node)
        self._later(given_up_after, self._give_up, node)

    def survivors_fail(self, node: str) -> None:
        """Ranks on other nodes wait for those on this one, give up, and end badly long before the node is given up."""
        uids = {labels_of(pod).get(names.LABEL_JOB_UID) for pod in self._on(node) if is_live(pod)} - {None}
        for pod in self._cluster.all(PODS):
            if labels_of(pod).get(names.LABEL_JOB_UID) in uids and pod["spec"].get("nodeName") not in self.lost:
                words = Exit(1, "Error", "NCCL timeout: a rank does not answer")
                self._later(self._rng.uniform(0.5, 8.0), self._exit, key_of(pod), pod["metadata"]["uid"], words)

    def recover(self, node: str) -> None:
        """The node is replaced by an empty one of the same name: what ran on it is gone for good."""
        if node in self.lost:
            self.lost.discard(node)
            self._tell(node, "True")
            for pod in self._on(node):
                self._cluster.purge(PODS, key_of(pod), "pod-gc")
        self._schedule_soon()

    def rejoin(self, node: str) -> None:
        """The node was only cut off: what runs there runs on, and what was given up meanwhile ends now."""
        if node not in self.lost:
            return
        self.lost.discard(node)
        self._tell(node, "True")
        for pod in self._on(node):
            key, uid = key_of(pod), pod["metadata"]["uid"]
            if "deletionTimestamp" in pod["metadata"]:
                self._later(self._rng.uniform(0.05, 4.0), self._terminate, key, uid)
            elif pod["status"]["phase"] == "Pending":
                self._later(self._rng.uniform(0.05, 2.0), self._start, key, uid)
            elif pod["status"]["phase"] == "Running" and uid in self._clearing:
                self._later(self._rng.uniform(0.05, 2.0), self._clear_away, key, uid)
            elif pod["status"]["phase"] == "Running":
                self._run(pod)
        self._schedule_soon()

    def make_room(self) -> None:
        self.full = False
        self._schedule_soon()

    # --- Seeing pods ---

    def _see(self, commit: Commit) -> None:
        if commit.resource == PODGROUPS:
            self._schedule_soon()
        if commit.resource == CONFIGMAPS and commit.type == "MODIFIED":
            # Kubelets look at their pods now and then, and then bring what they mount.
            for pod in self._cluster.all(PODS, key_of(commit.body).namespace):
                if key_of(commit.body).name in _mounted(pod):
                    seconds = self._rng.uniform(*LOOK_SECONDS)
                    self._later(seconds, self._bring, key_of(pod), pod["metadata"]["uid"])
        if commit.resource != PODS:
            return
        if commit.new is None:
            self._schedule_soon()
            return
        pod, key, uid = commit.new, key_of(commit.new), commit.new["metadata"]["uid"]
        if commit.old is None:
            self._schedule_soon()
        elif "nodeName" in pod["spec"] and "nodeName" not in commit.old["spec"]:
            self._later(self._rng.uniform(0.05, 2.0), self._start, key, uid)
        elif labels_of(pod) != labels_of(commit.old):
            self._later(self._rng.uniform(0.02, 1.0), self._bring, key, uid)
        if "deletionTimestamp" in pod["metadata"] and commit.old and "deletionTimestamp" not in commit.old["metadata"]:
            self._later(self._rng.uniform(0.05, 4.0), self._terminate, key, uid)

    # --- Scheduling ---

    def _schedule_soon(self) -> None:
        if self._pass is None:
            self._pass = self._cluster.loop.call_later(self._rng.uniform(0.01, 0.3), self._schedule)

    def _schedule(self) -> None:
        self._pass = None
        waiting = [
            pod
            for pod in self._cluster.objects[PODS].values()
            if "nodeName" not in pod["spec"] and "deletionTimestamp" not in pod["metadata"] and is_live(pod)
        ]
        groups: dict[str, list[Body]] = {}
        for pod in waiting:
            group = pod["spec"].get("schedulingGroup", {}).get("podGroupName")
            groups.setdefault(f"{pod['metadata']['namespace']}/{group or '-' + pod['metadata']['name']}", []).append(
                pod
            )
        for name, pods in groups.items():
            self._place(name, pods)

    def _place(self, name: str, pods: list[Body]) -> None:
        """A group at once, or a single pod."""
        namespace, _, group = name.partition("/")
        if not group.startswith("-"):
            found = self._cluster.find(PODGROUPS, namespace, group)
            least = found["spec"]["schedulingPolicy"]["gang"]["minCount"] if found else 10**9
            others = self._cluster.all(PODS, namespace)
            placed = [p for p in others if self._group(p) == group and "nodeName" in p["spec"]]
            if len(pods) + len(placed) < least:
                return
        free = [node for node in NODES if node not in self.lost for _ in range(SLOTS - self._used(node))]
        self._rng.shuffle(free)
        if self.full or len(free) < len(pods):
            for pod in pods:
                words = {
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
                self._set_condition(key_of(pod), {"type": "PodScheduled", "status": "False", **words})
            return
        for pod in pods:
            if not self._claims_bound(pod):
                continue
            bound = {**pod, "spec": {**pod["spec"], "nodeName": free.pop()}}
            conditions = _with(pod, {"type": "PodScheduled", "status": "True"})
            bound["status"] = {**pod["status"], "conditions": conditions}
            self._cluster.replace(PODS, bound, SCHEDULER)

    def _claims_bound(self, pod: Body) -> bool:
        """A pod is not placed while a claim of it is missing or on its way out."""
        for volume in pod["spec"].get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is None:
                continue
            found = self._cluster.find(PVCS, pod["metadata"]["namespace"], claim)
            if found is None or "deletionTimestamp" in found["metadata"]:
                self._later(1.0, self._schedule_soon)
                return False
        return True

    # --- A kubelet ---

    def _start(self, key: Key, uid: str) -> None:
        pod = self._mine(key, uid)
        if pod is None or "deletionTimestamp" in pod["metadata"] or not is_live(pod):
            return
        if not self._mount(pod):
            self._later(1.0, self._start, key, uid)
            return
        name = main_container(pod)
        state = {"running": {"startedAt": self._cluster.timestamp()}}
        status = {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "startTime": self._cluster.timestamp(),
            "containerStatuses": [{"name": name, "ready": False, "restartCount": 0, "state": state}],
        }
        self._cluster.patch_status(PODS, key, status, KUBELET)
        self._run(pod)

    def _run(self, pod: Body) -> None:
        """From now on the pod's program does its work."""
        key, uid = key_of(pod), pod["metadata"]["uid"]
        self._programs.started(pod, lambda seconds, exit_: self._later(seconds, self._exit, key, uid, exit_))
        self._bring(key, uid)
        if labels_of(pod).get(names.LABEL_ROLE) == names.ROLE_GATEWAY:
            self._later(self._rng.uniform(0.1, 2.0), self._proxy_answers, key, uid)
        if (said := self._programs.report(pod)) is not None and said.ready:
            self._set_condition(key, {"type": "Ready", "status": "True"})  # it has loaded while its node was away

    def _proxy_answers(self, key: Key, uid: str) -> None:
        pod = self._mine(key, uid)
        if pod is not None and pod["status"]["phase"] == "Running":
            self._set_condition(key, {"type": "Ready", "status": "True"})

    def _mount(self, pod: Body) -> bool:
        """Whether the ConfigMaps of a pod are there, and its inputs: what is mounted read-only no kubelet makes."""
        claim = self._claim_uid(pod)
        if any((claim, digest) not in self.fetched for digest in inputs_of(pod)):
            return False
        namespace = pod["metadata"]["namespace"]
        return all(self._cluster.find(CONFIGMAPS, namespace, name) is not None for name in _mounted(pod))

    def _bring(self, key: Key, uid: str) -> None:
        """A serving pod that runs gets its ConfigMap as it is now; its agent does what it says."""
        pod = self._mine(key, uid)
        if pod is None or pod["status"]["phase"] != "Running" or labels_of(pod).get(names.LABEL_ROLE) not in SERVES:
            return
        for name in _mounted(pod):
            found = self._cluster.find(CONFIGMAPS, key.namespace, name)
            if found is not None and (work := self._programs.told(pod, found["data"]["desired.json"])) is not None:
                turn, seconds = work
                self._later(seconds, self._loaded, key, uid, turn, seconds)

    def _loaded(self, key: Key, uid: str, turn: int, seconds: float) -> None:
        pod = self._cluster.objects[PODS].get(key)
        if pod is None or pod["metadata"]["uid"] != uid or pod["status"]["phase"] != "Running":
            return
        if self._programs.loaded(pod, turn, seconds) and self._mine(key, uid) is not None:
            self._set_condition(key, {"type": "Ready", "status": "True"})

    def _exit(self, key: Key, uid: str, exit_: Exit) -> None:
        pod = self._mine(key, uid)
        if pod is not None and pod["status"]["phase"] == "Running" and not _ended(pod):
            if labels_of(pod).get(names.LABEL_ROLE) == names.ROLE_INPUT and exit_.code == 0:
                self.fetched.add((self._claim_uid(pod), json.loads(exit_.message)["digest"]))
            keeps_running = exit_.side_container_runs
            phase = "Running" if keeps_running else "Succeeded" if exit_.code == 0 else "Failed"
            self._end(pod, {"phase": phase}, exit_, late=not keeps_running and self._rng.random() < 0.7)

    def _terminate(self, key: Key, uid: str) -> None:
        """SIGTERM has been sent and the grace used: the containers end, then the pod goes."""
        pod = self._mine(key, uid)
        if pod is None:
            return
        if pod["status"]["phase"] == "Running" and not _ended(pod) and self._rng.random() < 0.5:
            if self._rng.random() < 0.5:
                self._end(pod, {"phase": "Failed"}, Exit(143, "Error", ""))
            else:  # it wrote a checkpoint and ended as it was told to
                self._end(pod, {"phase": "Succeeded"}, Exit(0, "Completed", ""))
        self._later(self._rng.uniform(0.0, 0.5), self._gone, key, uid)

    def _gone(self, key: Key, uid: str) -> None:
        if self._mine(key, uid) is not None:
            self._cluster.purge(PODS, key, KUBELET)

    def _end(
        self, pod: Body, status: Mapping[str, Any], exit_: Exit, *, disrupted: str = "", late: bool = False
    ) -> None:
        """The main container ends. With `late` the pod's phase and its reason follow when it has been cleared away."""
        terminated: Body = {
            "exitCode": exit_.code,
            "reason": exit_.reason,
            "message": exit_.message,
            "finishedAt": self._cluster.timestamp(),
        }
        name = main_container(pod)
        conditions = _with(pod, READY_FALSE)
        if disrupted:
            conditions = [*conditions, {"type": "DisruptionTarget", "status": "True", "reason": disrupted}]
        containers = [{"name": name, "ready": False, "restartCount": 0, "state": {"terminated": terminated}}]
        if status["phase"] == "Running":
            containers.append({"name": SIDE_CONTAINER, "ready": True, "restartCount": 0, "state": {"running": {}}})
        body = {**status, "conditions": conditions, "containerStatuses": containers}
        if late:
            seconds = self._rng.uniform(0.05, 2.0)
            self._clearing[pod["metadata"]["uid"]] = body
            self._later(seconds, self._clear_away, key_of(pod), pod["metadata"]["uid"])
            body = {"phase": "Running", "containerStatuses": containers, "conditions": _with(pod, READY_FALSE)}
        self._cluster.patch_status(PODS, key_of(pod), body, KUBELET)

    def _clear_away(self, key: Key, uid: str) -> None:
        if (pod := self._mine(key, uid)) is not None and is_live(pod):
            self._cluster.patch_status(PODS, key, self._clearing.pop(uid), KUBELET)

    def _mine(self, key: Key, uid: str) -> Body | None:
        """The pod, if it is still that one and its kubelet works."""
        pod = self._cluster.objects[PODS].get(key)
        if pod is None or pod["metadata"]["uid"] != uid or pod["spec"].get("nodeName") in self.lost:
            return None
        return pod

    # --- Lost nodes ---

    def _tell_silence(self, node: str) -> None:
        if node in self.lost:
            self._tell(node, "Unknown")

    def _tell(self, node: str, ready: str) -> None:
        status = node_body(node, ready)["status"]
        self._cluster.patch_status(server.NODES, Key("", node), status, NODE_CONTROLLER)

    def _give_up(self, node: str) -> None:
        if node not in self.lost:
            return
        for pod in self._on(node):
            key = key_of(pod)
            self._set_condition(key, {"type": "Ready", "status": "False", "reason": "NodeNotReady"})
            if "deletionTimestamp" not in pod["metadata"] and is_live(pod):
                reason = {
                    "reason": "DeletionByTaintManager",
                    "message": "Taint manager: deleting due to NoExecute taint",
                }
                self._set_condition(key, {"type": "DisruptionTarget", "status": "True", **reason})
                self._cluster.delete(PODS, key, NODE_CONTROLLER)

    # --- Small things ---

    def _claim_uid(self, pod: Body) -> str:
        """UID of the claim for inputs in the pod's namespace."""
        claim = self._cluster.find(PVCS, pod["metadata"]["namespace"], names.INPUT_CLAIM)
        return str(claim["metadata"]["uid"]) if claim is not None else ""

    def _on(self, node: str) -> list[Body]:
        return [pod for pod in self._cluster.all(PODS) if pod["spec"].get("nodeName") == node]

    def _used(self, node: str) -> int:
        return sum(1 for pod in self._on(node) if is_live(pod))

    @staticmethod
    def _group(pod: Body) -> str | None:
        group: str | None = pod["spec"].get("schedulingGroup", {}).get("podGroupName")
        return group

    def _set_condition(self, key: Key, condition: Mapping[str, Any]) -> None:
        pod = self._cluster.objects[PODS].get(key)
        if pod is not None:
            self._cluster.patch_status(PODS, key, {"conditions": _with(pod, condition)}, KUBELET)

    def _later(self, seconds: float, what: Any, *arguments: Any) -> None:
        self._cluster.loop.call_later(seconds, what, *arguments)


def _mounted(pod: Body) -> list[str]:
    """Names of the ConfigMaps that a pod mounts."""
    return [volume["configMap"]["name"] for volume in pod["spec"].get("volumes", ()) if "configMap" in volume]


def main_container(pod: Body) -> str:
    """The container whose end is the pod's."""
    name: str = pod["spec"]["containers"][0]["name"]
    return name


def inputs_of(pod: Body) -> list[str]:
    """Digests of the inputs that a pod mounts."""
    mounts = (mount for container in pod["spec"]["containers"] for mount in container.get("volumeMounts", ()))
    paths = [mount["subPath"] for mount in mounts if mount["name"] == names.INPUT_CLAIM]
    return [path.rpartition("/")[2].replace("-", ":") for path in paths]


def _ended(pod: Body) -> bool:
    return any("terminated" in entry["state"] for entry in pod["status"].get("containerStatuses", ()))


def _with(pod: Body, condition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    others = [entry for entry in pod["status"].get("conditions", ()) if entry["type"] != condition["type"]]
    return [*others, condition]
