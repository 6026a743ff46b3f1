"""The state machine: what users and fate may do, in any order, and what must hold afterwards.

Each rule is a step; between two of them pass from no time at all to seconds. When a run
ends, faults stop, and then: the declared state is reached, a fresh observer agrees, and nothing is written any more.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aifactory.api import names
from aifactory.engine.controller import SLOW_STATUS_DELAY
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, PODGROUPS, PODS, PVCS, SERVICES, Key, Resource
from tests.sim import goals, manifests, strangers
from tests.sim.cluster import Body, Breakage, is_live, key_of, labels_of
from tests.sim.connection import FAULTS
from tests.sim.nodes import NODES
from tests.sim.programs import SUCCESS, Exit
from tests.sim.world import SQUATTER, World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

JOBS = (manifests.key("job-a"), manifests.key("job-b"), manifests.key("job-a", manifests.OTHER))
POOLS = (manifests.key("pool-a"), manifests.key("pool-b"), manifests.key("pool-a", manifests.OTHER))
MODELS = ("gpt", "bert")
REACHED_SECONDS = 1800.0
"""Twice the longest wait there is: a queue's backoff of 300 s and a job's of 600 s."""
RELAPSES = 4
IDLE_SECONDS = 1200.0
"""Three times the longest period there is: a watch of 360 s."""
ELECTING_IDLE_SECONDS = 450.0
"""Where leases are renewed all the time a fake hour costs a real second."""
MOMENTS = (0.0, 0.0, 0.005, 0.02, 0.1, 0.5, 2.0)
"""Seconds between two steps: from the same moment to the next state of everything."""

MOST_WRITES_AN_HOUR = 4000
"""Where something does not work for an hour it is tried again, but not all the time."""
TASKS = (names.ROLE_INPUT, names.ROLE_PROBE, names.ROLE_PUBLISH, names.ROLE_VERIFY)
CALLS = (
    *(
        ("create", resource)
        for resource in (PODS, PODS, SERVICES, CONFIGMAPS, PVCS, DEPLOYMENTS, PODGROUPS, MODELVERSIONS)
    ),
    *(("patch_status", resource) for resource in (TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS)),
    *(("delete", resource) for resource in (PODS, DEPLOYMENTS, PODGROUPS)),
    *(("apply", resource) for resource in (SERVICES, CONFIGMAPS, DEPLOYMENTS)),
    *(("list", resource) for resource in (PODS, TRAININGJOBS)),
    ("watch", PODS),
    ("patch", DEPLOYMENTS),
)
"""What may not work for a while."""
HOLD = "team/hold"
"""Somebody's finalizer."""
CHILDREN = (SERVICES, CONFIGMAPS, DEPLOYMENTS, PODGROUPS, PVCS)

EXITS = (
    SUCCESS,
    Exit(0, "Completed", side_container_runs=True),
    Exit(1, "Error", "ValueError: loss is nan"),
    Exit(137, "OOMKilled"),
    Exit(93, "Error"),
)
WATCHED = (PODS, TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS, DEPLOYMENTS, SERVICES)


class Machine(RuleBasedStateMachine):
    """One run of the simulation."""

    steps: ClassVar[Counter[str]] = Counter()

    world: World
    last: str = ""

    @initialize(
        seed=st.integers(0, 2**32),
        replicas=st.sampled_from([1, 1, 2]),
        lease=st.sampled_from([60.0, 60.0, 30.0]),
        gangs=st.booleans(),
        two=st.booleans(),
        inputs=st.sampled_from(["", "", "data", "base"]),
        seconds=st.integers(0, 30),
    )
    def begin(self, seed: int, replicas: int, lease: float, gangs: bool, two: bool, inputs: str, seconds: int) -> None:
        """A factory at work: a job that makes a model, a version that was made by hand, and a pool for each.

        With `two` namespaces, the other one has a job, a version and a pool of the same names.
        """
        self.world = World(seed, replicas=replicas, gangs=gangs, lease_seconds=lease)
        self.world.programs.large = 0.3
        self.world.programs.bad_artifacts[manifests.BAD_INPUT] = "InvalidArtifact"
        bert = manifests.version_spec("bert", 1, "pvc://models/bert/1/good")
        self._create(TRAININGJOBS, JOBS[0], manifests.job_spec(count=2, model="gpt", inputs=inputs))
        self._create(MODELVERSIONS, manifests.key("bert-v1"), bert)
        self._create(INFERENCEPOOLS, POOLS[0], manifests.pool_spec("gpt", replicas=2))
        self._create(INFERENCEPOOLS, POOLS[1], manifests.pool_spec("bert", replicas=2))
        if two:
            self._create(TRAININGJOBS, JOBS[2], manifests.job_spec(count=2, model="bert"))
            self._create(MODELVERSIONS, manifests.key("bert-v1", manifests.OTHER), bert)
            self._create(INFERENCEPOOLS, POOLS[2], manifests.pool_spec("bert", replicas=1))
        self.world.advance(seconds)

    def count(self, rule_: str) -> None:
        """A step begins, some moments after the one before."""
        self.steps[rule_] += 1
        self.last = rule_
        self.world.advance(self.world.rng.choice(MOMENTS))

    # --- Time ---

    @rule(seconds=st.sampled_from([0.02, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.count("time passes")
        self.world.advance(seconds)

    # --- Users ---

    @rule(
        key=st.sampled_from(JOBS),
        count=st.sampled_from([1, 1, 2, 3]),
        model=st.sampled_from(["", *MODELS]),
        store=st.sampled_from(["", "s3://bucket"]),
        inputs=st.sampled_from(["", "", *manifests.INPUTS]),
    )
    def create_job(self, key: Key, count: int, model: str, store: str, inputs: str) -> None:
        self.count("create job")
        if self._find(TRAININGJOBS, key) is None:
            spec = manifests.job_spec(count=count, model=model, store=store, inputs=inputs)
            self._create(TRAININGJOBS, key, spec)

    @rule(key=st.sampled_from(JOBS), inputs=st.sampled_from([*manifests.INPUTS]))
    def edit_inputs(self, key: Key, inputs: str) -> None:
        self.count(f"edit inputs: {inputs or 'none'}")
        if (job := self._find(TRAININGJOBS, key)) is not None:
            self._edit(TRAININGJOBS, job, {"inputs": manifests.INPUTS[inputs]})

    @rule(namespace=st.sampled_from([manifests.NAMESPACE, manifests.OTHER]))
    def inputs_are_thrown_away(self, namespace: str) -> None:
        """Somebody needs the room, and deletes the claim with all inputs on it."""
        self.count("inputs are thrown away")
        key = Key(namespace, names.INPUT_CLAIM)
        if self._find(PVCS, key) is not None:
            self.world.cluster.delete(PVCS, key, "user")

    @rule(
        key=st.sampled_from(JOBS),
        edit=st.sampled_from(["resize", "image", "suspend", "resume", "break", "mend", "solo"]),
        number=st.integers(1, 3),
    )
    def edit_job(self, key: Key, edit: str, number: int) -> None:
        self.count(f"edit job: {edit}")
        job = self._find(TRAININGJOBS, key)
        if job is None:
            return
        trainer = job["spec"]["template"]["spec"]["containers"][0]
        match edit:
            case "resize":
                self._edit(TRAININGJOBS, job, {"nodes": {"count": number}})
            case "image":
                self._edit_trainer(job, {**trainer, "image": f"train:{number}"})
            case "suspend" | "resume":
                self._edit(TRAININGJOBS, job, {"suspend": edit == "suspend"})
            case "break":
                self._edit_trainer(job, {**trainer, "imagePullPolcy": "Always"})
            case "mend":
                self._edit_trainer(job, {k: v for k, v in trainer.items() if k != "imagePullPolcy"})
            case "solo":
                self._edit(TRAININGJOBS, job, {"scheduling": {"gang": "none" if number == 1 else "auto"}})

    @rule(
        namespace=st.sampled_from([manifests.NAMESPACE, manifests.NAMESPACE, manifests.OTHER]),
        model=st.sampled_from(MODELS),
        version=st.integers(1, 4),
        quality=st.sampled_from(["good", "good", "bad", "wrong", "unloadable", "large", "faulty"]),
    )
    def create_version(self, namespace: str, model: str, version: int, quality: str) -> None:
        self.count("create version")
        key, uri = Key(namespace, f"{model}-v{version}"), f"pvc://models/{model}/{version}/{quality}"
        if quality == "bad":
            self.world.programs.bad_artifacts[uri] = "DigestMismatch"
        if quality == "wrong":
            self.world.programs.wrong_models.add(uri)
        if quality == "unloadable":
            self.world.programs.unloadable.add(uri)
        if quality == "faulty":
            self.world.programs.faulty.add(uri)
        if quality == "large":
            self.world.programs.large_models.add(uri)
        if self._find(MODELVERSIONS, key) is None:
            self._create(MODELVERSIONS, key, manifests.version_spec(model, version, uri))

    @rule(
        key=st.sampled_from(POOLS),
        model=st.sampled_from(MODELS),
        version=st.integers(0, 4),
        replicas=st.integers(0, 3),
    )
    def create_or_change_pool(self, key: Key, model: str, version: int, replicas: int) -> None:
        self.count("create or change pool")
        spec = manifests.pool_spec(model, version=version, replicas=replicas)
        pool = self._find(INFERENCEPOOLS, key)
        if pool is None:
            self._create(INFERENCEPOOLS, key, spec)
        else:
            self.world.invariants.disturb(key_of(pool))
            self._edit(INFERENCEPOOLS, pool, spec)

    @rule(
        key=st.sampled_from(POOLS),
        version=st.integers(0, 4),
        image=st.sampled_from(["", "", "", "triton:1", "triton:2"]),
        strategy=st.sampled_from(["Auto", "Auto", "Surge", "Canary", "comparing", "Shadow", "Shadow"]),
    )
    def roll_pool(self, key: Key, version: int, image: str, strategy: str) -> None:
        """The wish changes, the number of pods does not: not one ready pod may be missing."""
        self.count("roll pool")
        pool = self._find(INFERENCEPOOLS, key)
        if pool is not None:
            model, replicas = pool["spec"]["models"][0]["name"], pool["spec"].get("replicas", 1)
            spec = manifests.pool_spec(model, version=version, replicas=replicas, image=image)
            rollout = {"strategy": None, "steps": None, "analysis": None, **manifests.ROLLOUTS[strategy]}
            if strategy == "Shadow":
                spec["gateway"] = manifests.gateway("Envoy")
            self._edit(INFERENCEPOOLS, pool, {**spec, "rollout": rollout})

    @rule(
        key=st.sampled_from(POOLS),
        asked=st.sampled_from(["promote", "abort", "pause", "resume", "retry"]),
        value=st.integers(0, 2),
    )
    def ask_pool(self, key: Key, asked: str, value: int) -> None:
        """Somebody annotates a pool, in the middle of a change or not."""
        self.count(f"ask pool to {asked}")
        if self._find(INFERENCEPOOLS, key) is not None:
            note = {"metadata": {"annotations": {f"{names.GROUP}/{asked}": str(value)}}}
            self.world.cluster.patch(INFERENCEPOOLS, key, note, "user", resource_version=None)

    @rule(key=st.sampled_from(POOLS), mode=st.sampled_from(["Envoy", "Envoy", "None", "GatewayAPI", "GatewayAPI"]))
    def edit_gateway(self, key: Key, mode: str) -> None:
        """The way to the pods changes, the pods do not."""
        self.count(f"edit gateway: {mode}")
        pool = self._find(INFERENCEPOOLS, key)
        if pool is None:
            return
        if mode != "Envoy" and (
            (pool["spec"].get("rollout") or {}).get("strategy") == "Shadow" or manifests.sleeps(pool)
        ):
            return  # the API server would refuse it
        self._edit(INFERENCEPOOLS, pool, {"gateway": manifests.gateway(mode)})

    @rule(key=st.sampled_from(POOLS), broken=st.booleans())
    def break_pool(self, key: Key, broken: bool) -> None:
        """A typo that only the API server finds; what is served goes on."""
        self.count("break pool" if broken else "mend pool")
        if (pool := self._find(INFERENCEPOOLS, key)) is not None:
            self._edit(INFERENCEPOOLS, pool, {"template": manifests.BROKEN_TEMPLATE if broken else None})

    @rule(key=st.sampled_from(POOLS), replicas=st.integers(0, 4))
    def scale_pool(self, key: Key, replicas: int) -> None:
        self.count("scale pool")
        pool = self._find(INFERENCEPOOLS, key)
        if pool is not None:
            self.world.invariants.disturb(key_of(pool))
            self._edit(INFERENCEPOOLS, pool, {"replicas": replicas})

    @rule(key=st.sampled_from(POOLS), how=st.sampled_from([*manifests.AUTOSCALING]))
    def edit_autoscaling(self, key: Key, how: str) -> None:
        self.count(f"edit autoscaling: {how}")
        if (pool := self._find(INFERENCEPOOLS, key)) is not None:
            self.world.invariants.disturb(key_of(pool))
            way = {"gateway": manifests.gateway("Envoy")} if how == "zero" else {}  # the API server asks for it
            self._edit(INFERENCEPOOLS, pool, {"autoscaling": manifests.autoscaling(how), **way})

    @rule(key=st.sampled_from(POOLS), requests=st.sampled_from([0, 3, 7, 10, 12, 30]))
    def clients_come_and_go(self, key: Key, requests: int) -> None:
        self.count("clients come and go")
        self.world.programs.ask(key, requests, self.world.loop.now)

    @rule(key=st.sampled_from(POOLS), seconds=st.sampled_from([50.0, 120.0]), then=st.sampled_from([0, 3, 10]))
    def nobody_asks_for_long(self, key: Key, seconds: float, then: int) -> None:
        """A pool that may go to zero does, if nothing else is in its way; and then somebody asks, or not."""
        self.count("nobody asks for long")
        if (pool := self._find(INFERENCEPOOLS, key)) is not None:
            self.world.invariants.disturb(key_of(pool))
            zero = {"autoscaling": manifests.autoscaling("zero"), "gateway": manifests.gateway("Envoy")}
            self._edit(INFERENCEPOOLS, pool, zero)
            self.world.programs.ask(key, 0, self.world.loop.now)
            self.world.advance(seconds)
            self.world.programs.ask(key, then, self.world.loop.now)

    @rule(data=st.data())
    def metrics_fall_silent(self, data: st.DataObject) -> None:
        """Nobody can read any more what a serving pod has to do, or somebody can again."""
        self.count("metrics fall silent")
        if (pod := self._draw_pod(data, names.ROLE_SERVE)) is not None:
            mute = self.world.programs.mute
            if mute.pop(uid := pod["metadata"]["uid"], None) is None:
                mute[uid] = self.world.loop.now

    @rule(data=st.data(), foreground=st.booleans(), held=st.sampled_from([0.0, 0.0, 5.0, 300.0]))
    def delete_object(self, data: st.DataObject, foreground: bool, held: float) -> None:
        """With `held` somebody's finalizer keeps it for so many seconds."""
        self.count("delete object")
        resource, body = self._draw(data, TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS)
        if body is None or body.get("status", {}).get("usedBy"):
            return  # the chart's admission policy refuses it
        key, cluster = key_of(body), self.world.cluster
        if held and "deletionTimestamp" not in body["metadata"]:
            finalizers = {"metadata": {"finalizers": [*body["metadata"]["finalizers"], HOLD]}}
            cluster.patch(resource, key, finalizers, "user", resource_version=None)
            cluster.loop.call_later(held, cluster.drop_finalizer, resource, key, HOLD, "user")
        cluster.delete(resource, key, "user", foreground=foreground)

    @rule(data=st.data())
    def replace_object(self, data: st.DataObject) -> None:
        """`kubectl replace --force`: another object of the same name, while the old one's children are still there."""
        self.count("replace object")
        resource, body = self._draw(data, TRAININGJOBS, INFERENCEPOOLS)
        if body is None:
            return
        key = key_of(body)
        self.world.invariants.disturb(key)
        self.world.cluster.delete(resource, key, "user")
        if self._find(resource, key) is None:  # it was not waiting for its dependents
            self._create(resource, key, body["spec"])

    @rule(key=st.sampled_from([*JOBS, *POOLS]))
    def take_name(self, key: Key) -> None:
        """Somebody else has a Service of a name that we need; a job or pool says so until it is gone."""
        self.count("take name")
        if self._find(SERVICES, key) is None:
            self._create(SERVICES, key, {}, SQUATTER)

    @rule(data=st.data(), how=st.sampled_from(["copy abroad", "task abroad", "pose", "pose broken"]))
    def stranger(self, data: st.DataObject, how: str) -> None:
        """Somebody makes objects that look like ours."""
        self.count(f"stranger: {how}")
        if how == "task abroad":
            _, owner = self._draw(data, TRAININGJOBS, MODELVERSIONS)
            if owner is not None:
                strangers.task_abroad(self.world.cluster, owner, _another(owner["metadata"]["namespace"]))
            return
        resource, child = self._draw(data, PODS, *(CHILDREN if how == "copy abroad" else ()))
        if child is None or strangers.is_stranger(child) or "ownerReferences" not in child["metadata"]:
            return
        name = child["metadata"]["name"]
        if how == "copy abroad":
            strangers.copy_abroad(self.world.cluster, resource, child, _another(child["metadata"]["namespace"]), name)
        else:
            strangers.pose(self.world.cluster, child, f"posing-{name}", broken=how == "pose broken")

    @rule(data=st.data())
    def status_is_lost(self, data: st.DataObject) -> None:
        """The object comes back from a backup, which holds no status."""
        self.count("status is lost")
        resource, body = self._draw(data, TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS)
        if body is not None:
            lost = dict.fromkeys(body.get("status", {}))
            self.world.cluster.patch_status(resource, key_of(body), lost, "user")

    @rule(data=st.data())
    @precondition(lambda self: self.last != "delete child")
    def delete_child(self, data: st.DataObject) -> None:
        """Somebody deletes what is not theirs."""
        self.count("delete child")
        resource, body = self._draw(data, PODS, SERVICES, DEPLOYMENTS)
        if body is not None:
            self._disturb_pool_of(body)
            self.world.cluster.delete(resource, key_of(body), "user")

    @rule(data=st.data())
    def label_is_taken(self, data: st.DataObject) -> None:
        """Somebody edits the label by which we find a child: no watch shows it any more, and its name is taken."""
        self.count("label is taken")
        resource, body = self._draw(data, PODS, *CHILDREN)
        if body is not None and labels_of(body).get(names.LABEL_MANAGED_BY) and not strangers.is_stranger(body):
            self.world.invariants.note_refusal(body)
            self.world.take_label(resource, body)

    @rule()
    @precondition(lambda self: self.world.unlabelled)
    def labels_are_put_back(self) -> None:
        self.count("labels are put back")
        self.world.put_labels_back()

    # --- Programs and nodes ---

    @rule(data=st.data(), exit_=st.sampled_from(EXITS))
    def pod_ends(self, data: st.DataObject, exit_: Exit) -> None:
        self.count("pod ends")
        if (pod := self._draw_pod(data, names.ROLE_NODE)) is not None:
            self.world.nodes.fail(pod, exit_)

    @rule(key=st.sampled_from(JOBS))
    def job_succeeds(self, key: Key) -> None:
        self.count("job succeeds")
        labels = {names.LABEL_JOB: key.name, names.LABEL_ROLE: names.ROLE_NODE}
        for pod in self.world.cluster.all(PODS, key.namespace, **labels):
            self.world.nodes.fail(pod, SUCCESS)

    @rule(key=st.sampled_from(JOBS), step=st.integers(1, 1000))
    def progress(self, key: Key, step: int) -> None:
        self.count("progress")
        job = self._find(TRAININGJOBS, key)
        if job is not None:
            uid, attempt = job["metadata"]["uid"], job.get("status", {}).get("attempt", 0)
            for process in self.world.processes:
                self.world.do(lambda p=process: p.report(uid, *key, attempt, step))

    @rule(data=st.data(), how=st.sampled_from(["drain", "pressure", "force"]))
    def pod_is_evicted(self, data: st.DataObject, how: str) -> None:
        self.count(f"pod is evicted: {how}")
        pod = self._draw_pod(data)
        if pod is None:
            return
        self._disturb_pool_of(pod)
        match how:
            case "drain":
                self.world.nodes.evict(pod)
            case "pressure" if is_live(pod):
                self.world.nodes.evict_for_pressure(pod)
            case _:
                self.world.cluster.purge(PODS, key_of(pod), "user")

    @rule(data=st.data(), how=st.sampled_from(["deadline", "shutdown", "refused"]))
    def pod_is_stopped(self, data: st.DataObject, how: str) -> None:
        """A kubelet ends a training pod, whose program may end with 0 then, or does not admit it at all."""
        self.count(f"pod is stopped: {how}")  # the world goes on, so the pod is looked for afterwards
        pod = self._draw_pod(data, names.ROLE_NODE)
        phase = pod["status"].get("phase") if pod is not None else None
        if pod is None or phase != ("Pending" if how == "refused" else "Running") or not pod["spec"].get("nodeName"):
            return
        if how == "refused":
            self.world.nodes.refuse(pod)
        else:
            self.world.nodes.stop(pod, "DeadlineExceeded" if how == "deadline" else "NodeShutdown", 0)

    @rule(data=st.data(), how=st.sampled_from(["delete", "drain", "pressure", "force", "OOM", "no answer", "node"]))
    def task_dies(self, data: st.DataObject, how: str) -> None:
        """A fetcher, probe, publisher or verifier ends before it has an answer."""
        tasks = [pod for pod in self.world.cluster.all(PODS) if labels_of(pod).get(names.LABEL_ROLE) in TASKS]
        running = [key_of(pod) for pod in tasks if is_live(pod)]
        self.count(f"task dies: {how}" if running else "no task dies")
        if not running:
            return
        key = data.draw(st.sampled_from(sorted(running)), label="task")
        pod = self.world.cluster.find(PODS, *key)
        if pod is None or not is_live(pod):
            return
        nodes, node = self.world.nodes, pod["spec"].get("nodeName")
        match how:
            case "drain":
                nodes.evict(pod)
            case "pressure":
                nodes.evict_for_pressure(pod)
            case "OOM":
                nodes.fail(pod, Exit(137, "OOMKilled"))
            case "no answer":
                nodes.fail(pod, Exit(1, "Error", "Traceback (most recent call last): ..."))
            case "node" if node and len(nodes.lost) < len(NODES) - 1:
                nodes.lose(node)
            case "delete":
                self.world.cluster.delete(PODS, key, "user")
            case _:
                self.world.cluster.purge(PODS, key, "user")

    @rule(
        node=st.sampled_from(NODES),
        what=st.sampled_from(["lost", "lost hard", "lost hard", "replaced", "replaced", "back"]),
    )
    def node(self, node: str, what: str) -> None:
        """Lost hard: nothing is given up for minutes, but the ranks on other nodes notice at once."""
        self.count(f"node {what}")
        nodes = self.world.nodes
        if what == "back":
            nodes.rejoin(node)
        elif what == "replaced" or len(nodes.lost) >= len(NODES) - 1:
            nodes.recover(node)
        elif what == "lost":
            nodes.lose(node)
        else:
            nodes.lose(node, given_up_after=300.0)
            nodes.survivors_fail(node)

    @rule(
        what=st.sampled_from(
            ["full", "room", "quota", "no quota", "store away", "store back", "keys refused", "keys good"]
        )
    )
    def environment(self, what: str) -> None:
        self.count(f"environment: {what}")
        self.world.invariants.note_everywhere()
        match what:
            case "full":
                self.world.nodes.full = True
            case "room":
                self.world.nodes.make_room()
            case "quota" | "no quota":
                self.world.cluster.pod_quota_exhausted = what == "quota"
            case "keys refused" | "keys good":
                self.world.programs.keys_refused = what == "keys refused"
            case _:
                self.world.programs.store_away = what == "store away"

    # --- Faults between an operator and the API server ---

    @rule(
        chance=st.sampled_from([0.0, 0.05, 0.3, 0.8]), kind=st.sampled_from(["any", *FAULTS]), number=st.integers(0, 1)
    )
    def calls_fail(self, chance: float, kind: str, number: int) -> None:
        self.count("calls fail" if chance else "calls work")
        faults = self._process(number).connection.faults
        faults.calls = chance
        faults.kinds = FAULTS if kind == "any" else (kind,)  # type: ignore[assignment]

    @rule(
        call=st.sampled_from(CALLS),
        how=st.sampled_from(["500", "503", "denied", "hang"]),
        namespace=st.sampled_from([None, manifests.NAMESPACE, manifests.OTHER]),
        seconds=st.sampled_from([*[0.0] * 8, *[60.0] * 5, 600.0, 600.0, 3600.0]),
    )
    def one_verb_breaks(self, call: tuple[str, Resource], how: str, namespace: str | None, seconds: float) -> None:
        """While everything else works, for minutes or for an hour."""
        self.count(f"{call[0]} breaks for {seconds:.0f} s or more")
        self.world.cluster.broken = Breakage(*call, how, None if call[0] in ("list", "watch") else namespace)
        before = sum(process.connection.calls for process in self.world.processes)
        self.world.advance(seconds)
        made = sum(process.connection.calls for process in self.world.processes) - before
        assert made < MOST_WRITES_AN_HOUR, f"{made} writes in {seconds:.0f} s while {call} did not work"

    @rule()
    @precondition(lambda self: self.world.cluster.broken)
    def it_is_mended(self) -> None:
        self.count("it is mended")
        self.world.mend()

    @rule(resource=st.sampled_from(WATCHED), seconds=st.sampled_from([0.0, 0.3, 3.0, 30.0]), number=st.integers(0, 1))
    def events_lag(self, resource: Resource, seconds: float, number: int) -> None:
        self.count("events lag" if seconds else "events come at once")
        connection = self._process(number).connection
        connection.faults.lag[resource] = seconds
        connection.wake()

    @rule(what=st.sampled_from(["cut", "stall", "compact", "duplicates"]), number=st.integers(0, 1))
    def watches(self, what: str, number: int) -> None:
        self.count(f"watches: {what}")
        connection = self._process(number).connection
        match what:
            case "cut":
                self.world.do(connection.cut)
            case "stall":
                connection.stall()
            case "compact":
                self.world.cluster.compact()
                self.world.do(connection.cut)
            case "duplicates":
                connection.faults.duplicates = 0.3

    @rule(number=st.integers(0, 1), away=st.sampled_from([0.1, 2.0, 60.0]))
    def operator_is_killed(self, number: int, away: float) -> None:
        self.count("operator is killed")
        self.world.kill(number % self.world.replicas, away=away)

    @rule(number=st.integers(0, 1), writes=st.integers(1, 6))
    def operator_crashes_after_writes(self, number: int, writes: int) -> None:
        self.count("operator crashes after writes")
        self.world.crash_after_writes(number % self.world.replicas, writes)

    @rule(number=st.integers(0, 1))
    @precondition(lambda self: self.world.replicas > 1)
    def lease_is_out_of_reach(self, number: int) -> None:
        """A leader loses its lease and another one takes over, both alive."""
        self.count("lease is out of reach")
        self._process(number).connection.faults.lease_away = True

    @rule(
        moment=st.sampled_from(["now", "after a write", "after two writes", "between two tries"]),
        seconds=st.sampled_from([1.0, 35.0, 75.0]),
        wait=st.booleans(),
    )
    def operator_is_stopped(self, moment: str, seconds: float, wait: bool) -> None:
        """Stopped in the middle of something and continued, as a paused machine: its timers are late."""
        self.count(f"operator is stopped {moment}")
        number = next((n for n, process in enumerate(self.world.processes) if process.leading), 0)
        match moment:
            case "now":
                self.world.stop(number, seconds)
            case "between two tries":
                self.world.stop_between_tries(number, seconds)
            case _:
                self.world.stop_after_writes(number, 1 if moment == "after a write" else 2, seconds)
        for pool in self.world.cluster.all(INFERENCEPOOLS)[:1]:  # something to write
            self.world.invariants.disturb(key_of(pool))
            self._edit(INFERENCEPOOLS, pool, {"replicas": 1 + pool["spec"].get("replicas", 1) % 3})
        if wait:
            self.world.advance(seconds + 1.0)

    @rule(number=st.integers(0, 1))
    @precondition(lambda self: self.world.replicas > 1)
    def operator_is_terminated(self, number: int) -> None:
        self.count("operator is terminated")
        self.world.terminate(number)

    # --- The end ---

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if sys.exc_info()[0] is None:
                settle(self.world)
        finally:
            self.world.close()

    # --- Small things ---

    def _find(self, resource: Resource, key: Key) -> Body | None:
        return self.world.cluster.find(resource, *key)

    def _create(self, resource: Resource, key: Key, spec: Body, labels: dict[str, str] | None = None) -> None:
        body = manifests.body(key.name, spec, key.namespace)
        body["metadata"]["labels"] = labels or {}
        self.world.cluster.create(resource, body, "user")

    def _edit(self, resource: Resource, body: Body, spec: dict[str, Any]) -> None:
        self.world.cluster.patch(resource, key_of(body), {"spec": spec}, "user", resource_version=None)

    def _edit_trainer(self, job: Body, trainer: Body) -> None:
        self._edit(TRAININGJOBS, job, {"template": {"spec": {"containers": [trainer]}}})

    def _process(self, number: int) -> Any:
        return self.world.processes[number % self.world.replicas]

    def _draw(self, data: st.DataObject, *resources: Resource, **labels: str) -> tuple[Resource, Body | None]:
        """One of the objects there are, by name: that is what a failure prints."""
        found = {f"{r.kind} {key_of(b)}": (r, b) for r in resources for b in self.world.cluster.all(r, **labels)}
        if not found:
            return resources[0], None
        return found[data.draw(st.sampled_from(list(found)), label="object")]

    def _draw_pod(self, data: st.DataObject, role: str = "") -> Body | None:
        return self._draw(data, PODS, **({names.LABEL_ROLE: role} if role else {}))[1]

    def _disturb_pool_of(self, body: Body) -> None:
        if pool := labels_of(body).get(names.LABEL_POOL):
            self.world.invariants.disturb(Key(body["metadata"]["namespace"], pool))


def _another(namespace: str) -> str:
    return manifests.OTHER if namespace == manifests.NAMESPACE else manifests.NAMESPACE


def settle(world: World) -> None:
    """Faults stop: the declared state is reached, a fresh observer agrees, and nothing is written any more."""
    world.check()
    world.heal()
    for pool in world.cluster.all(INFERENCEPOOLS):  # what somebody has paused somebody lets go on
        asked = {f"{names.GROUP}/pause": None, f"{names.GROUP}/resume": f"at {world.loop.now}"}
        note = {"metadata": {"annotations": asked}}
        world.cluster.patch(INFERENCEPOOLS, key_of(pool), note, "user", resource_version=None)
    for _ in range(RELAPSES):
        world.until(lambda: _unsettled(world), REACHED_SECONDS)
        # A status that is not urgent may be late, old views still have their effects, and probes may be due: of a pod
        # that has just come it takes two looks, five seconds apart, to know what it does, and 15 s more of its pool.
        world.advance(SLOW_STATUS_DELAY + 30.0)
        if not (unsettled := _unsettled(world)):
            break
    assert not unsettled, f"was reached {RELAPSES} times and left again: {unsettled}"
    before = Counter(world.invariants.writes)
    world.advance(IDLE_SECONDS if world.replicas == 1 else ELECTING_IDLE_SECONDS)
    written = world.invariants.writes - before
    assert not written, world.tell(f"written though nothing happened: {dict(written)}")


def _unsettled(world: World) -> str:
    """What is not yet as it should be. A key that has failed many times may wait for five minutes for its turn."""
    if waiting := _nobody_sees(world) or goals.missing(world) or _scales_soon(world):
        return waiting
    differences = goals.differences_of_fresh_view(world)
    return "a fresh observer disagrees: " + "\n".join(differences) if differences else ""


def _scales_soon(world: World) -> str:
    """A pool that stands still for another reason goes to its number of pods one after another, in status alone."""
    for pool in world.cluster.all(INFERENCEPOOLS):
        if (pool.get("status", {}).get("scaling") or {}).get("pending"):
            return f"pool {key_of(pool)} is about to scale"
    return ""


def _nobody_sees(world: World) -> str:
    leaders = [process for process in world.processes if process.leading]
    if not leaders:
        return "no operator leads"
    return "a watch is silent" if any(process.connection.silent for process in leaders) else ""


def wanted_steps() -> int:
    """Steps a run of the tests should make; nights ask for more."""
    return int(os.environ.get("AIFACTORY_SIM_STEPS", "50000"))
