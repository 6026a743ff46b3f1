"""What must hold after every single change, whatever happens around it.

A violation is written down when it happens and raised by the world afterwards: raised here it would end up in the
reconcile loop, which turns failures into retries.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.engine.apply import Applied
from aifactory.kube.patch import merge_difference
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, EVENTS, LEASES, PODS, PVCS, SERVICES, Key
from aifactory.serving import traffic
from aifactory.serving.route import set_host
from aifactory.serving.state import RevisionView
from tests.sim import manifests
from tests.sim.cluster import REPLICASETS, Body, Cluster, Commit, is_live, is_ready, key_of, labels_of, owner_uids
from tests.sim.nodes import SIDE_CONTAINER, inputs_of
from tests.sim.strangers import is_stranger
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

OURS = (TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS)
TASKS = (names.ROLE_INPUT, names.ROLE_PROBE, names.ROLE_CHECK, names.ROLE_PUBLISH, names.ROLE_VERIFY)
JOBS_AND_POOLS = (
    ("TrainingJob", "job-a"),
    ("TrainingJob", "job-b"),
    ("InferencePool", "pool-a"),
    ("InferencePool", "pool-b"),
)
"""Whom a version, or the claim for inputs, may concern."""
CALM_SECONDS = 30.0
"""After a fault that killed serving pods, or an edit of the wish, how long fewer pods may be ready."""

NEWS_SECONDS = 3.0
"""From a pod's readiness to a plan that knows of it, when nothing is slow."""
UNHEARD_SECONDS = 40.0
"""What a pod has told counts for 25 s, and is looked at every ten."""
SEEN_AGAIN_SECONDS = 60.0
"""Whoever puts our label back on a child gives it back to us when the watch tells so, which may lag by half of this."""


class Invariants:
    """Watches every commit. `operators` are the actors whose changes are ours."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.violations: list[str] = []
        self.writes: Counter[str] = Counter()
        """Changes made by operators, by verb and kind; leases aside."""
        self.journal: deque[str] = deque(maxlen=30)
        """The last changes made by operators, for messages."""
        self.disturbed: dict[Key, float] = defaultdict(lambda: -CALM_SECONDS)
        """When something last happened to a pool that may cost ready pods."""
        self.verified: set[str] = set()
        """UIDs of versions that have been Ready."""
        self.served: Callable[[Body], Body | None] = lambda _: None
        """The version that a serving pod answers from."""
        self.mute: Mapping[str, float] = {}
        """Since when nobody can read a pod's metrics, by UID."""
        self.asked: Mapping[Key, float] = {}
        """When the last of the requests of each pool has come or gone."""
        self.led: Mapping[Key, Mapping[str, int]] = {}
        """Where Gateways lead the requests of each pool: Services and their parts."""
        self.demand: Mapping[Key, int] = {}
        """Requests that each pool has."""
        self.lag: Callable[[], float] = lambda: 0.0
        """How many seconds behind the views of the operators may be."""
        self._numbers: Counter[tuple[str, str]] = Counter()
        """The highest number that has been Ready, by namespace and model."""
        self._ready_since: dict[str, float] = {}
        """UID of each ready serving pod."""
        self._suspended: set[str] = set()
        """UIDs of jobs that somebody has suspended at least once, or Kueue may have."""
        self._attempts: Counter[str] = Counter()
        """The highest attempt that each job has told, by UID: a status may get lost."""
        self._used: dict[str, int] = {}
        """The last attempt of each job that has run or was stopped: it may get no more pods."""
        self._ended: set[str] = set()
        """UIDs of jobs that have been Complete or Failed."""
        self._done: set[tuple[str, str]] = set()
        """Jobs' UIDs and node indices whose program has ended well by itself."""
        self._checked: set[str] = set()
        """UIDs of versions that a verifier of their own has found good."""
        self._fetched: set[tuple[str, str]] = set()
        """Namespaces, and digests that fetchers of ours have said they fetched there."""
        self._probed: set[str] = set()
        self._asked: set[str] = set()
        """UIDs of jobs whose program was asked what is in the way, whatever it said."""
        """UIDs of jobs whose store a probe of their own has found good."""
        self._published: set[tuple[str, str]] = set()
        """UIDs of jobs and what publishers of their own have said they published."""
        self._facts: dict[tuple[str, Key], float] = {}
        """When something last happened that concerns an object."""
        self._given_back: dict[str, float] = {}
        """UIDs of pods that got our label back, and when."""
        self._flips: dict[tuple[str, str], float] = {}
        """When a condition last flipped."""
        self._proxied: dict[Key, float] = {}
        """When a pool last had a proxy that was ready."""
        cluster.hooks.append(self.see)

    def see(self, commit: Commit) -> None:
        ours = commit.actor.startswith("operator")
        if ours and commit.resource not in (LEASES, EVENTS):
            self.writes[f"{commit.type} {commit.resource.kind}"] += 1
            self.journal.append(f"[{commit.time:.2f} s] {commit.actor} {describe(commit)}")
        self._note_facts(commit, ours)
        if ours and commit.old is not None and (is_stranger(commit.old) or "squatter" in labels_of(commit.old)):
            self.wrong(f"{describe(commit)}: it is not ours")
        if commit.resource == PODS and is_stranger(commit.body):
            return  # whatever becomes of it
        if commit.resource == PODS:
            self._pod(commit, ours)
        elif commit.resource == TRAININGJOBS and commit.new is not None:
            self._job(commit, ours)
        elif commit.resource == MODELVERSIONS:
            self._version(commit, ours)
        elif commit.resource == DEPLOYMENTS and ours:
            if labels_of(commit.body).get(names.LABEL_ROLE) == names.ROLE_GATEWAY:
                self._proxies_go(commit)
            else:
                self._deployment(commit)
        elif commit.resource == CONFIGMAPS and ours and commit.new is not None:
            self._assignment(commit.new)
            self._led(commit.new)
        elif commit.resource == SERVICES and ours and commit.new is not None:
            self._selected(commit.new)
        elif commit.resource == INFERENCEPOOLS and ours and commit.new is not None:
            self._switched(commit)
            self._scaled(commit)
            self._weights(commit.new)
            self._routed(commit.new)
        if commit.resource in OURS and commit.new is not None:
            self._status(commit, ours)

    def disturb(self, pool: Key) -> None:
        self.disturbed[pool] = self._cluster.loop.now

    # --- Pods ---

    def _pod(self, commit: Commit, ours: bool) -> None:
        pod = commit.body
        labels = labels_of(pod)
        if labels.get(names.LABEL_ROLE) == names.ROLE_GATEWAY and is_ready(commit.old or pod):
            self._proxied[Key(pod["metadata"]["namespace"], labels[names.LABEL_POOL])] = commit.time
        if labels.get(names.LABEL_ROLE) == names.ROLE_SERVE and not ours:
            was = commit.old is not None and is_ready(commit.old)
            if was and (commit.new is None or not is_ready(commit.new)) and commit.actor != "deployment-controller":
                self.disturb(Key(pod["metadata"]["namespace"], labels[names.LABEL_POOL]))
            if commit.new is not None and is_ready(commit.new):
                self._ready_since.setdefault(pod["metadata"]["uid"], commit.time)
        if commit.actor == "kubelet" and labels.get(names.LABEL_ROLE) in TASKS:
            self._task(pod)
        if labels.get(names.LABEL_ROLE) != names.ROLE_NODE:
            return
        if commit.actor == "kubelet" and _ended_well(pod):
            self._done.add((labels[names.LABEL_JOB_UID], labels[names.LABEL_NODE_INDEX]))
        if not ours:
            if commit.old is not None and not _is_labelled(commit.old) and _is_labelled(pod):
                self._given_back[pod["metadata"]["uid"]] = commit.time
            return
        if commit.type == "ADDED":
            self._no_other_attempt_lives(pod)
            self._pod_was_due(pod)
        else:
            self._deletion_was_due(pod)

    def _task(self, pod: Body) -> None:
        """A pod of a task; what it has found out is true even if it is told to end at that moment."""
        if labels_of(pod)[names.LABEL_ROLE] == names.ROLE_CHECK:
            ends = [entry["state"].get("terminated") for entry in pod["status"].get("containerStatuses", ())]
            if any(ends) or not is_live(pod):
                self._asked.update(owner_uids(pod))
            return
        for entry in pod["status"].get("containerStatuses", ()):
            end = entry["state"].get("terminated")
            if end is None or end["exitCode"] or not end["message"]:
                continue
            if labels_of(pod)[names.LABEL_ROLE] == names.ROLE_VERIFY:
                self._checked.update(owner_uids(pod))
            elif labels_of(pod)[names.LABEL_ROLE] == names.ROLE_PROBE:
                self._probed.update(owner_uids(pod))
            elif labels_of(pod)[names.LABEL_ROLE] == names.ROLE_INPUT:
                self._fetched.add((pod["metadata"]["namespace"], json.loads(end["message"])["digest"]))
            else:
                uri = json.loads(end["message"])["uri"]
                self._published.update((owner, uri) for owner in owner_uids(pod))

    def _no_other_attempt_lives(self, pod: Body) -> None:
        labels = labels_of(pod)
        same = {name: labels[name] for name in (names.LABEL_JOB_UID, names.LABEL_NODE_INDEX)}
        for other in self._cluster.all(PODS, pod["metadata"]["namespace"], **same):
            if other["metadata"]["name"] == pod["metadata"]["name"] or is_stranger(other) or not _is_labelled(other):
                continue
            given_back = self._given_back.get(other["metadata"]["uid"])
            if given_back is not None and self._cluster.loop.now - given_back < SEEN_AGAIN_SECONDS:
                continue
            if is_live(other):
                self.wrong(f"pod {pod['metadata']['name']} was created while {other['metadata']['name']} lives")

    def _pod_was_due(self, pod: Body) -> None:
        labels, name = labels_of(pod), pod["metadata"]["name"]
        if int(labels[names.LABEL_ATTEMPT]) <= self._used.get(labels[names.LABEL_JOB_UID], -1):
            self.wrong(f"pod {name} was created though its attempt had run or was stopped before")
        namespace = pod["metadata"]["namespace"]
        if unknown := [digest for digest in inputs_of(pod) if (namespace, digest) not in self._fetched]:
            self.wrong(f"pod {name} was created before its inputs {unknown} had been fetched")
        job = self._cluster.find(TRAININGJOBS, namespace, labels[names.LABEL_JOB])
        if job is not None and job["metadata"]["uid"] == labels[names.LABEL_JOB_UID]:
            until = (job.get("status", {}).get("restarts") or {}).get("nextAttemptTime", "")
            if until > self._cluster.timestamp():
                self.wrong(f"pod {name} was created before {until}")
            if job["spec"].get("output", {}).get("store") and job["metadata"]["uid"] not in self._probed:
                self.wrong(f"pod {name} was created before its job's store was found good")
            if job["spec"].get("check") == "always" and job["metadata"]["uid"] not in self._asked:
                self.wrong(f"pod {name} was created before its program was asked what is in the way")

    def _deletion_was_due(self, pod: Body) -> None:
        """A pod of the attempt that is on is only deleted for a suspension, a queue, after the end, or with its job."""
        labels = labels_of(pod)
        job = self._cluster.find(TRAININGJOBS, pod["metadata"]["namespace"], labels[names.LABEL_JOB])
        if job is None or job["metadata"]["uid"] not in owner_uids(pod) or job["metadata"]["uid"] in self._suspended:
            return
        if "deletionTimestamp" in job["metadata"]:
            return
        current = self._attempts[job["metadata"]["uid"]]
        if int(labels[names.LABEL_ATTEMPT]) >= current and job["metadata"]["uid"] not in self._ended:
            self.wrong(f"pod {pod['metadata']['name']} of the current attempt {current} was deleted")

    # --- Jobs and versions ---

    def _job(self, commit: Commit, ours: bool) -> None:
        new, old = commit.body, commit.old or {}
        uid, name = new["metadata"]["uid"], new["metadata"]["name"]
        if new["spec"].get("suspend") or names.KUEUE_QUEUE in labels_of(new):
            self._suspended.add(uid)
        now, before = new.get("status", {}), old.get("status", {})
        if _finished(new):
            self._ended.add(uid)
        self._attempts[uid] = max(self._attempts[uid], now.get("attempt", 0))
        if not ours:
            self._used.pop(uid, None)  # a lost status takes with it what it said of the attempt
            return
        if _conditions(new) & {"Running", "Suspended"} and now.get("startTime"):  # born suspended it has had no pods
            self._used[uid] = now.get("attempt", 0)
        if now.get("attempt", 0) < before.get("attempt", 0):
            self.wrong(f"attempt of job {name} fell from {before['attempt']} to {now.get('attempt', 0)}")
        if _finished(old) and _conditions(old) & {"Complete", "Failed"} != _conditions(new) & {"Complete", "Failed"}:
            self.wrong(f"job {name} had ended and does not stay so")
        failed = "Failed" in _conditions(new) - _conditions(old)
        if failed and before.get("phase") == "Publishing":
            self.wrong(f"the result of job {name} is given up")
        if "Complete" in _conditions(new) - _conditions(old) and "output" in new["spec"]:
            versions = self._cluster.all(MODELVERSIONS, new["metadata"]["namespace"], **{names.LABEL_JOB_UID: uid})
            if not versions:
                self.wrong(f"job {name} is Complete and its ModelVersion does not exist")
        if "Complete" in _conditions(new) - _conditions(old):
            indices = (str(index) for index in range(now["nodes"]["desired"]))
            if undone := [index for index in indices if (uid, index) not in self._done]:
                self.wrong(f"job {name} is Complete and its nodes {undone} have never ended well by themselves")

    def _version(self, commit: Commit, ours: bool) -> None:
        meta = commit.body["metadata"]
        if "Ready" in _conditions(commit.body):
            self.verified.add(meta["uid"])
            if ours and meta["uid"] not in self._checked:
                self.wrong(f"version {key_of(commit.body)} is Ready and no verifier of its own has found it good")
            model = (meta["namespace"], commit.body["spec"]["model"])
            self._numbers[model] = max(self._numbers[model], commit.body["spec"]["version"])
        job = labels_of(commit.body).get(names.LABEL_JOB_UID)
        if ours and commit.type == "ADDED" and job is not None:
            spec = commit.body["spec"]
            if spec["version"] <= self._numbers[meta["namespace"], spec["model"]]:
                self.wrong(f"version {key_of(commit.body)} has a number that was Ready before")
            if (job, commit.body["spec"]["source"]["uri"]) not in self._published:
                self.wrong(f"version {key_of(commit.body)} is not what a publisher of job {job} has published")
            made = self._cluster.all(MODELVERSIONS, **{names.LABEL_JOB_UID: job})
            if len(made) > 1:
                self.wrong(f"job {job} made {len(made)} versions: {[v['metadata']['name'] for v in made]}")

    # --- Pools ---

    def _deployment(self, commit: Commit) -> None:
        body = commit.body
        meta = body["metadata"]
        if commit.type == "ADDED":
            for name in meta["annotations"][names.LABEL_MODEL_VERSION].split(" + "):
                version = self._cluster.find(MODELVERSIONS, meta["namespace"], name)
                if version is not None and version["metadata"]["uid"] not in self.verified:
                    self.wrong(f"deployment {meta['name']} serves {name}, which was never Ready")
            return
        pool = self._cluster.find(INFERENCEPOOLS, meta["namespace"], labels_of(body)[names.LABEL_POOL])
        if pool is None or pool["metadata"]["uid"] not in owner_uids(body):
            return
        if commit.new is None:
            self._let_go(pool, labels_of(body)[names.LABEL_REVISION])
        key = key_of(pool)
        if self._cluster.loop.now - self.disturbed[key] < CALM_SECONDS:
            return
        ready: Counter[str] = Counter()
        known = 0
        theirs = self._replica_sets(pool, body)
        serving = {names.LABEL_POOL: key.name, names.LABEL_ROLE: names.ROLE_SERVE}
        for pod in self._cluster.all(PODS, key.namespace, **serving):
            if is_ready(pod) and not is_stranger(pod) and theirs & set(owner_uids(pod)):
                ready[labels_of(pod)[names.LABEL_REVISION]] += 1
                known += self._known(pod)
        revision = labels_of(body)[names.LABEL_REVISION]
        left = min(ready[revision], 0 if commit.new is None else commit.new["spec"]["replicas"])
        kept = sum(ready.values()) - ready[revision] + left
        wanted = min(manifests.pods_of(pool), known)
        if kept < wanted:
            what = "deleted" if commit.new is None else f"scaled to {commit.new['spec']['replicas']}"
            self.wrong(f"{meta['name']} was {what}, which leaves pool {key.name} {kept} of {wanted} ready pods")

    def _assignment(self, config: Body) -> None:
        """Pods are told to serve nothing but what has been found good."""
        if "desired.json" not in config.get("data", {}):
            return
        for model in json.loads(config["data"]["desired.json"])["models"]:
            name = f"{model['name']}-v{model['version']}"
            version = self._cluster.find(MODELVERSIONS, config["metadata"]["namespace"], name)
            if version is not None and version["metadata"]["uid"] not in self.verified:
                self.wrong(f"pods of {config['metadata']['name']} are told to serve {name}, which was never Ready")

    def _selected(self, service: Body) -> None:
        """Pods that get copies of requests are found by a name of their own, by which no client asks."""
        selector, name = service["spec"]["selector"], service["metadata"]["name"]
        mixed = names.LABEL_ROLE not in selector
        copied = selector.get(names.LABEL_ROLE) == names.ROLE_SHADOW
        if mixed or (copied and name == selector[names.LABEL_POOL]):
            self.wrong(f"Service {name} leads clients to pods that get copies of requests")

    def _led(self, config: Body) -> None:
        """No route of a gateway leads to pods that get copies."""
        for file, text in config.get("data", {}).items():
            if not file.startswith("routes-"):
                continue
            for route in json.loads(text)["resources"][0]["virtual_hosts"][0]["routes"]:
                led = {**route.get("route", {}), "request_mirror_policies": []}
                if "-shadow" in json.dumps(led):
                    self.wrong(f"{config['metadata']['name']} leads clients to pods that get copies: {led}")

    def _switched(self, commit: Commit) -> None:
        """When pods are said to have changed over, all that are ready do answer from the new version."""
        assert commit.new is not None
        before, now = (body.get("status", {}).get("stable") or {} for body in (commit.old or {}, commit.new))
        change = commit.new["status"].get("rollout") or {}
        if change.get("strategy") != "HotSwap" or before.get("revision") == now.get("revision"):
            return
        namespace, name = key_of(commit.new)
        set_ = now.get("deployment", f"{name}-{now['revision']}").removeprefix(f"{name}-")
        for pod in self._cluster.all(PODS, namespace, **{names.LABEL_POOL: name, names.LABEL_REVISION: set_}):
            served = self.served(pod)
            if not is_ready(pod) or is_stranger(pod) or not _is_labelled(pod) or served is None or not self._known(pod):
                continue
            if served["version"] != now["version"]:
                told = f"pool {name} is said to serve version {now['version']}"
                self.wrong(f"{told} and pod {pod['metadata']['name']} answers from {served['version']}")

    def _scaled(self, commit: Commit) -> None:
        """The number that autoscaling decides: within its limits, and not down too soon or by what is not known."""
        assert commit.new is not None
        pool, spec = key_of(commit.new), commit.new["spec"].get("autoscaling")
        before, now = (body.get("status", {}).get("scaling") or {} for body in (commit.old or {}, commit.new))
        if not spec or not now or now.get("replicas") == before.get("replicas"):
            return
        if not spec["minReplicas"] <= now["replicas"] <= spec["maxReplicas"]:
            self.wrong(f"pool {pool} is to have {now['replicas']} pods, which its limits do not allow")
        if before and now["replicas"] == 0:
            self._asleep(pool, spec)
        if not before or now["replicas"] > before["replicas"] or now["decisions"][0]["metric"] != "inFlightRequests":
            return
        ups = [each["time"] for each in now["decisions"] if each["to"] > each["from"]]
        since = (self._cluster.now() - datetime.fromisoformat(ups[0])).total_seconds() if ups else math.inf
        if since < spec["stabilizationSeconds"] - 1:
            self.wrong(f"pool {pool} is scaled down {since:.0f} s after it was scaled up")
        unheard = self._cluster.loop.now - UNHEARD_SECONDS - self.lag()
        serving = {names.LABEL_POOL: pool.name, names.LABEL_ROLE: names.ROLE_SERVE}
        for pod in self._cluster.all(PODS, pool.namespace, **serving):
            mute = self.mute.get(pod["metadata"]["uid"], math.inf)
            if is_ready(pod) and not is_stranger(pod) and _is_labelled(pod) and mute < unheard and self._known(pod):
                self.wrong(f"pool {pool} is scaled down, and nobody knows what {pod['metadata']['name']} has to do")

    def _asleep(self, pool: Key, spec: Body) -> None:
        """The last pod goes when nobody asks, and has not for long."""
        since = self._cluster.loop.now - self.asked.get(pool, -math.inf)
        if self.demand.get(pool, 0) and since > UNHEARD_SECONDS + self.lag():
            self.wrong(f"pool {pool} is scaled to zero, and has {self.demand[pool]} requests")
        if not self.demand.get(pool, 0) and since < spec.get("idleSeconds", 600) - 1:
            self.wrong(f"pool {pool} is scaled to zero {since:.0f} s after it was asked")

    def _weights(self, body: Body) -> None:
        """What a gateway would be told: all requests go somewhere, and none to what is not ready or was taken back."""
        namespace, name = key_of(body)
        sets: dict[str, list[Body]] = defaultdict(list)
        for pod in self._cluster.all(PODS, namespace, **{names.LABEL_POOL: name, names.LABEL_ROLE: names.ROLE_SERVE}):
            set_ = labels_of(pod).get(names.LABEL_REVISION)  # labels are taken off pods here
            if set_ and is_ready(pod) and not is_stranger(pod) and "deletionTimestamp" not in pod["metadata"]:
                sets[set_].append(pod)
        views = [RevisionView(Applied(each, each), each, len(pods), ready=len(pods)) for each, pods in sets.items()]
        try:
            pool = InferencePool.model_validate(body)
        except ValidationError:
            return  # the operator can not read it either, and leaves everything as it is
        weights = dict(traffic.weights(pool, views))
        if weights and sum(weights.values()) != 100:
            self.wrong(f"pool {name}: weights {weights} are not 100 together")
        if weights.keys() - sets.keys():
            self.wrong(f"pool {name}: weights {weights} go to pods that are not ready")
        change, stable = pool.status.rollout, traffic.stable_pods(pool)
        failed = change is not None and (change.phase, change.strategy) == ("Failed", "Canary")
        if failed and stable in sets and weights != {stable: 100}:
            self.wrong(f"pool {name}: what was taken back gets requests: {weights}")

    def _let_go(self, pool: Body, pods: str) -> None:
        """Pods go after the Gateway leads to them no more."""
        if (pool["spec"].get("gateway") or {}).get("mode") != "GatewayAPI":
            return
        try:
            host = set_host(InferencePool.model_validate(pool), pods)
        except ValidationError:
            return
        if host in self.led.get(key_of(pool), {}):
            self.wrong(f"pool {key_of(pool)}: pods {pods} go, and the Gateway leads to them")

    def _routed(self, pool: Body) -> None:
        """A pool with a gateway is Ready only when its Service leads there, and somebody is there."""
        mode = (pool["spec"].get("gateway") or {}).get("mode")
        true = _conditions(pool)
        observed = pool["status"].get("observedGeneration") == pool["metadata"]["generation"]
        says = "Ready" in true and "Reconciling" not in true and observed
        if mode == "GatewayAPI" and says and not self.led.get(key_of(pool)):
            self.wrong(f"pool {key_of(pool)} is Ready and no Gateway leads to it")
        if mode != "Envoy" or "Ready" not in true or "Reconciling" in true:
            return  # where writes fail for long, what was true of the former spec stands beside that
        if pool["status"].get("observedGeneration") != pool["metadata"]["generation"]:
            return  # another number of pods is written down first, before the rest of a new spec is looked at
        service = self._own_service(pool)
        if service is not None and service["spec"]["selector"][names.LABEL_ROLE] != names.ROLE_GATEWAY:
            self.wrong(f"pool {key_of(pool)} is Ready and its Service does not lead to its gateway")
        role = {names.LABEL_POOL: key_of(pool).name, names.LABEL_ROLE: names.ROLE_GATEWAY}
        there = any(is_ready(pod) for pod in self._cluster.all(PODS, key_of(pool).namespace, **role))
        known = self._proxied.get(key_of(pool), -math.inf) + NEWS_SECONDS + self.lag()
        if not there and known < self._cluster.loop.now:
            self.wrong(f"pool {key_of(pool)} is Ready and has no proxy that answers")

    def _proxies_go(self, commit: Commit) -> None:
        """Proxies are removed after the Service leads to the serving pods."""
        meta = commit.body["metadata"]
        pool = self._cluster.find(INFERENCEPOOLS, meta["namespace"], labels_of(commit.body)[names.LABEL_POOL])
        if commit.new is not None or pool is None or pool["metadata"]["uid"] not in owner_uids(commit.body):
            return
        service = self._own_service(pool)
        if service is not None and service["spec"]["selector"][names.LABEL_ROLE] == names.ROLE_GATEWAY:
            self.wrong(f"the gateway of pool {key_of(pool)} was removed while requests are led to it")

    def _own_service(self, pool: Body) -> Body | None:
        found = self._cluster.find(SERVICES, *key_of(pool))
        return found if found is not None and pool["metadata"]["uid"] in owner_uids(found) else None

    def _replica_sets(self, pool: Body, deployment: Body) -> set[str]:
        """UIDs of those between a pool and its pods: an earlier pool of the name may still have some that are ready."""
        namespace = pool["metadata"]["namespace"]
        found = [deployment, *self._cluster.all(DEPLOYMENTS, namespace)]
        own = {each["metadata"]["uid"] for each in found if pool["metadata"]["uid"] in owner_uids(each)}
        sets = self._cluster.all(REPLICASETS, namespace)
        return {each["metadata"]["uid"] for each in sets if own & set(owner_uids(each))}

    def _known(self, pod: Body) -> bool:
        """The pod is ready for long enough for its Deployment to say so, and for us to have heard it."""
        known_since = self._ready_since[pod["metadata"]["uid"]] + NEWS_SECONDS + self.lag()
        return known_since < self._cluster.loop.now

    # --- Status ---

    def _status(self, commit: Commit, ours: bool) -> None:
        """A condition flips only if something has happened that concerns the object since it last flipped."""
        assert commit.new is not None
        uid, kind, key = commit.new["metadata"]["uid"], commit.resource.kind, key_of(commit.new)
        before, now = _statuses(commit.old or {}), _statuses(commit.new)
        horizon = self._facts.get((kind, key), 0.0) + NEWS_SECONDS + self.lag()
        for type_, status in now.items():
            if not ours or before.get(type_, status) == status:
                continue
            if self._flips.get((uid, type_), 0.0) > horizon:
                self.wrong(f"{kind} {key}: {type_} turned {status} though nothing had happened since it last changed")
            self._flips[uid, type_] = commit.time

    def _note_facts(self, commit: Commit, ours: bool) -> None:
        status_only = commit.type == "MODIFIED" and ours and commit.resource in OURS
        for concerned in _concerned(commit, status_only=status_only):
            self._facts[concerned] = commit.time

    def note(self, pool: Key) -> None:
        """A fact about a pool that is not in the API server."""
        self._facts["InferencePool", pool] = self._cluster.loop.now

    def note_refusal(self, child: Mapping[str, Any]) -> None:
        """The API server's answer is a fact about whoever wanted the child."""
        for concerned in _by_labels(child):
            self._facts[concerned] = self._cluster.loop.now

    def note_sending(self, actor: str, kind: str) -> None:
        """A write leaves a process: nobody else may lead by now. What was sent before that may arrive later."""
        leases = (body for key, body in self._cluster.objects[LEASES].items() if key.name == names.lease(None))
        holder = str(next((lease["spec"].get("holderIdentity") or "" for lease in leases), "")).rpartition("/")[2]
        if holder not in ("", actor):
            self.wrong(f"{actor} writes {kind} though {holder} leads by now")

    def note_everywhere(self) -> None:
        """A fault of the API server itself may concern anybody."""
        for resource in OURS:
            for key in self._cluster.objects[resource]:
                self._facts[resource.kind, key] = self._cluster.loop.now

    def wrong(self, words: str) -> None:
        self.violations.append(f"[{self._cluster.loop.now:.2f} s] {words}")


def describe(commit: Commit) -> str:
    """One line about a change: what became different in status and spec."""
    what = f"{commit.type} {commit.resource.kind} {key_of(commit.body)}"
    if commit.old is None or commit.new is None:
        return what
    parts = [merge_difference(commit.old.get(part, {}), commit.new.get(part, {})) for part in ("spec", "status")]
    for part in parts:
        part.pop("conditions", None)
    before, now = _statuses(commit.old), _statuses(commit.new)
    flips = {type_: status for type_, status in now.items() if before.get(type_) != status}
    if not any(parts) and not flips:
        flips = {type_: words for type_, words in _words(commit.new).items() if _words(commit.old).get(type_) != words}
    return f"{what} {' '.join(str(part) for part in (*parts, flips) if part)}"


def _concerned(commit: Commit, *, status_only: bool) -> Iterable[tuple[str, Key]]:
    """The objects of ours whose status may depend on a change."""
    body = commit.body
    namespace = body["metadata"].get("namespace", "")
    if commit.resource in OURS and not status_only:
        yield commit.resource.kind, key_of(body)
    yield from _by_labels(body)
    if commit.resource == MODELVERSIONS or (commit.resource == PVCS and key_of(body).name == names.INPUT_CLAIM):
        for kind, name in JOBS_AND_POOLS:
            yield kind, Key(namespace, name)
    if commit.resource == INFERENCEPOOLS:
        for model in (body.get("status", {}), (commit.old or {}).get("status", {})):
            sets = [model.get("stable") or {}, model.get("candidate") or {}]
            for part in (*model.get("resolved", ()), *sets, *(each for one in sets for each in one.get("models", ()))):
                yield "ModelVersion", Key(namespace, part.get("modelVersion", ""))


def _by_labels(body: Mapping[str, Any]) -> Iterable[tuple[str, Key]]:
    """Whom a child belongs to."""
    labels = labels_of(body)
    for label, kind in (
        (names.LABEL_JOB, "TrainingJob"),
        (names.LABEL_POOL, "InferencePool"),
        (names.LABEL_MODEL_VERSION, "ModelVersion"),
    ):
        if label in labels:
            yield kind, Key(body["metadata"].get("namespace", ""), labels[label])


def _is_labelled(child: Body) -> bool:
    """Whoever takes this label from a child takes the child from us."""
    return labels_of(child).get(names.LABEL_MANAGED_BY) == names.LABEL_MANAGED_BY_VALUE


def _ended_well(pod: Body) -> bool:
    """The main container has ended with 0, and not because the pod was told to end, which its phase comes with."""
    containers = pod["status"].get("containerStatuses", ())
    ends = [entry["state"].get("terminated") for entry in containers if entry["name"] != SIDE_CONTAINER]
    told = any(entry["type"] == "DisruptionTarget" for entry in pod["status"].get("conditions", ()))
    return (
        bool(ends)
        and (len(ends) < len(containers) or not is_live(pod))
        and all(end is not None and end["exitCode"] == 0 for end in ends)
        and not (told or pod["status"].get("reason") or "deletionTimestamp" in pod["metadata"])
    )


def _statuses(body: Mapping[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions", ())}


def _words(body: Mapping[str, Any]) -> dict[str, str]:
    return {
        entry["type"]: f"{entry.get('reason')}: {entry.get('message')}"
        for entry in body.get("status", {}).get("conditions", ())
    }


def _conditions(body: Mapping[str, Any]) -> set[str]:
    """Types of the conditions that are True."""
    return {type_ for type_, status in _statuses(body).items() if status == "True"}


def _finished(job: Mapping[str, Any]) -> bool:
    return bool(_conditions(job) & {"Complete", "Failed"})
