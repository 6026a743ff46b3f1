"""What a cluster should look like once faults have stopped, said independently of the planners.

`missing(world)` names the first thing that is not as declared, or returns "". `differences_of_fresh_view` asks the real
planners on empty stores that were filled a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aifactory.api import names
from aifactory.app import shell, wiring
from aifactory.app.domains import make
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Domain
from aifactory.engine.plan import Delete
from aifactory.kube.patch import merge_difference
from aifactory.kube.resources import BUDGETS, CONFIGMAPS, DEPLOYMENTS, HTTPROUTES, PODGROUPS, PODS, SERVICES
from aifactory.serving.domain import Serving
from aifactory.training import rendezvous
from aifactory.training.evidence import KEPT_ATTEMPTS
from tests.sim import manifests
from tests.sim.cluster import Body, encode, is_live, is_ready, key_of, labels_of, owner_uids
from tests.sim.nodes import inputs_of
from tests.sim.operator import options
from tests.sim.programs import DIGEST, digest_of
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

PERMANENT = {"DigestMismatch", "InvalidArtifact"}


def missing(world: World) -> str:
    """Why the declared state is not reached; "" when it is."""
    return next(_wrongs(world), "")


def _wrongs(world: World) -> Iterable[str]:
    objects = world.cluster.objects
    for body in objects[MODELVERSIONS].values():
        yield from _version(world, body)
    for body in objects[TRAININGJOBS].values():
        yield from _job(world, body)
    for body in objects[INFERENCEPOOLS].values():
        yield from _pool(world, body)
    yield from _orphans(world)


def _orphans(world: World) -> Iterable[str]:
    everything = [(key, body) for found in world.cluster.objects.values() for key, body in found.items()]
    alive = {(key.namespace, body["metadata"]["uid"]) for key, body in everything}
    for key, body in everything:
        if "deletionTimestamp" in body["metadata"]:
            yield f"{body['kind']} {key} is still being deleted"
        if any((key.namespace, uid) not in alive for uid in owner_uids(body)):
            yield f"{body['kind']} {key} has lost its owner"


def _job(world: World, job: Body) -> Iterable[str]:
    (namespace, name), status, spec = key_of(job), job.get("status", {}), job["spec"]
    says = f"job {namespace}/{name}: {status.get('phase')} {status.get('reason')}"
    if status.get("observedGeneration") != job["metadata"]["generation"]:
        yield f"{says}: generation {job['metadata']['generation']} not observed"
    uid = job["metadata"]["uid"]
    pods = [p for p in world.cluster.all(PODS, namespace, **{names.LABEL_JOB_UID: uid}) if _trains(p)]
    kept = [pod for pod in pods if not is_live(pod) and labels_of(pod)[names.LABEL_ATTEMPT] != _attempt(status)]
    pods = [pod for pod in pods if pod not in kept]
    live = [pod for pod in pods if is_live(pod)]
    true = _true(status)
    if len(kept) > KEPT_ATTEMPTS or len({labels_of(pod)[names.LABEL_ATTEMPT] for pod in kept}) < len(kept):
        yield f"{says}: {len(kept)} pods of earlier attempts are kept"
    if true & {"Complete", "Failed"}:
        if live:
            yield f"{says}: {len(live)} pods live on"
        return
    if spec.get("suspend"):
        if pods or "Suspended" not in true:
            yield f"{says}: is to be suspended, {len(pods)} pods"
        return
    wanted = {f"{names.INPUTS_MOUNT}/{wish['name']}": _digest(wish) for wish in spec.get("inputs", ())}
    running = all(pod["status"]["phase"] in ("Running", "Succeeded") for pod in pods)
    fits = all(_mounted(pod) == wanted for pod in pods)
    blocked = _blocked(world, job)
    if blocked and not (running and fits and len(pods) == spec["nodes"]["count"]):
        # Pods that were there before the edit run on; when one has failed, the others go as well.
        ended = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if ended or "InputsReady" in true or status.get("reason") not in blocked:
            yield f"{says}: its inputs can not be had, which it should say; {len(pods)} pods, {len(ended)} ended"
        role = {names.LABEL_JOB_UID: uid, names.LABEL_ROLE: names.ROLE_INPUT}
        if any(map(is_live, world.cluster.all(PODS, namespace, **role))):
            yield f"{says}: others of its inputs are being fetched"
        return
    if _invalid(spec):
        # Pods that were there before the mistake was made run on; when one has failed, the others go as well.
        ended = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if ended or "Stalled" not in true or status.get("reason") != "PodRejected":
            yield f"{says}: its pods are refused, which it should say; {len(pods)} pods, {len(ended)} ended"
        return
    ended = [pod for pod in pods if pod not in live]
    if ended and not live:
        yield f"{says}: all pods have ended"
        return
    count, attempt = spec["nodes"]["count"], _attempt(status)
    indices = sorted(labels_of(pod)[names.LABEL_NODE_INDEX] for pod in pods)
    if indices != [str(index) for index in range(count)]:
        yield f"{says}: pods {indices} of {count}"
    if any(labels_of(pod)[names.LABEL_ATTEMPT] != attempt for pod in pods):
        yield f"{says}: pods of another attempt than {attempt}"
    if count > 1 and not _has_service(world, job, rendezvous.service_name(name)):
        yield f"{says}: it has no Service"
    gang = world.gangs and count > 1 and spec.get("scheduling", {}).get("gang") != "none"
    gangs = world.cluster.all(PODGROUPS, namespace, **{names.LABEL_JOB_UID: uid})
    if [group["metadata"]["name"] for group in gangs] != ([f"{name}-{attempt}"] if gang else []):
        yield f"{says}: PodGroups {[group['metadata']['name'] for group in gangs]}"
    if any(group["spec"]["schedulingPolicy"]["gang"]["minCount"] != count for group in gangs):
        yield f"{says}: a PodGroup of another size than {count}"
    for role in (names.ROLE_PROBE, names.ROLE_INPUT, names.ROLE_CHECK):
        if world.cluster.all(PODS, namespace, **{names.LABEL_JOB_UID: uid, names.LABEL_ROLE: role}):
            yield f"{says}: a pod that had to {role} is left"
    if not fits or (not blocked and ("InputsReady" in true) != bool(wanted)):
        yield f"{says}: its pods have not the inputs {wanted}"
    if not running or "Running" not in true or "Ready" not in true:
        yield f"{says}: not running; True are {sorted(true)}"


def _blocked(world: World, job: Body) -> set[str]:
    """Reasons one of which a job tells that has an input which is not to be had."""
    found = set()
    for wish in job["spec"].get("inputs", ()):
        if wish.get("uri") in world.programs.bad_artifacts:
            found.add(world.programs.bad_artifacts[wish["uri"]])
        if "modelVersion" not in wish or _has(job, wish):
            continue
        version = world.cluster.find(MODELVERSIONS, job["metadata"]["namespace"], wish["modelVersion"])
        if version is None or "Ready" not in _true(version.get("status", {})):
            found |= {"WaitingForModel", "ModelNotReady"}
    return found


def _has(job: Body, wish: Mapping[str, Any]) -> bool:
    """The version was there once: that it is gone by now, or bad, changes nothing."""
    entries = job.get("status", {}).get("inputs", ())
    return any(entry.get("modelVersion") == wish["modelVersion"] and entry["phase"] == "Ready" for entry in entries)


def _digest(wish: Mapping[str, Any]) -> str:
    return DIGEST if "modelVersion" in wish else digest_of(wish["uri"])


def _mounted(pod: Body) -> dict[str, str]:
    """Digests of a pod's inputs, by where they are mounted."""
    trainer = pod["spec"]["containers"][0]
    mounts = [mount for mount in trainer.get("volumeMounts", ()) if mount["name"] == names.INPUT_CLAIM]
    return {mount["mountPath"]: digest for mount, digest in zip(mounts, inputs_of(pod), strict=True)}


def _attempt(status: Mapping[str, Any]) -> str:
    return str(status.get("attempt", 0))


def _version(world: World, version: Body) -> Iterable[str]:
    (namespace, name), status = key_of(version), version.get("status", {})
    says = f"version {namespace}/{name}"
    true = _true(status)
    uri = version["spec"]["source"]["uri"]
    wrong = "ValidationFailed" if uri in world.programs.wrong_models else None
    bad = world.programs.bad_artifacts.get(uri, wrong)
    if "Ready" not in true and not (bad and "Stalled" in true and status["reason"] == bad):
        yield f"{says}: {status.get('reason')}, True are {sorted(true)}"
    if "Ready" in true and world.cluster.all(PODS, namespace, **{names.LABEL_MODEL_VERSION: name}):
        yield f"{says} is Ready and a verifier is left"
    pools = world.cluster.all(INFERENCEPOOLS, namespace)
    users = sorted(pool["metadata"]["name"] for pool in pools if name in _uses(pool))
    if [use["name"] for use in status.get("usedBy", ())] != users:
        yield f"{says}: used by {users}, status says {status.get('usedBy')}"


def _pool(world: World, pool: Body) -> Iterable[str]:
    (namespace, name), status, spec = key_of(pool), pool.get("status", {}), pool["spec"]
    says = f"pool {namespace}/{name}: {status.get('phase')} {status.get('reason')}"
    if status.get("observedGeneration") != pool["metadata"]["generation"]:
        yield f"{says}: generation not observed"
    if not _has_service(world, pool):
        yield f"{says}: it has no Service"
    yield from _gateway(world, pool, says)
    true, wanted = _true(status), manifests.pods_of(pool)
    if len(spec["models"]) > 1:
        yield from _several(world, pool, says)
        return
    target = _target(world, namespace, spec["models"][0])
    # Evicted pods stay as Failed until somebody cleans up; they do not count.
    mine = {names.LABEL_POOL: name}
    pods = [pod for pod in world.cluster.all(PODS, namespace, **mine) if is_live(pod) and not _is_proxy(pod)]
    deployments = [each for each in world.cluster.all(DEPLOYMENTS, namespace, **mine) if not _is_proxy(each)]
    scaling = spec.get("autoscaling")
    if (
        scaling
        and all(map(is_ready, pods))
        and len(pods) == wanted
        and (pods or (manifests.sleeps(pool) and deployments))
    ):
        needed = -(-world.programs.demand.get(key_of(pool), 0) // manifests.TARGET)
        # What is judged by pods keeps one.
        settled = (status.get("rollout") or {}).get("phase") == "Complete"
        least = scaling["minReplicas"] if settled else max(1, scaling["minReplicas"])
        if wanted != min(max(needed, least), scaling["maxReplicas"]):
            yield f"{says}: {wanted} pods, {status.get('scaling')} and {needed} are needed"
    stable = (status.get("stable") or {}).get("modelVersion", "")
    if any(world.cluster.find(CONFIGMAPS, *key_of(deployment)) is None for deployment in deployments):
        # It went while a label was missing from the Deployment: without its version it can not be made again.
        if target is not None and _loads(world, namespace, target["metadata"]["name"]) and not _invalid(spec):
            yield f"{says}: a Deployment lacks its ConfigMap"
        return
    if not deployments and wanted and (target is None or stable) and "Available" in true:
        yield f"{says}: Available without a deployment"
    if target is None:
        if "Ready" in true:
            yield f"{says}: Ready without a version to serve"
        # A version that does not load may be the stable one: a pool of no pods has no way to find out.
        if len(pods) > wanted or not all(is_ready(pod) or world.programs.load_error(pod) for pod in pods):
            yield f"{says}: {len(pods)} pods, which serve what was wanted before, of {wanted}"
        return
    change = status.get("rollout") or {}
    if _invalid(spec):
        aborted = change.get("reason") == "RolloutAborted"  # somebody was quicker than the refusal
        if not aborted and ("Stalled" not in true or status.get("reason") != "PodRejected"):
            yield f"{says}: its pods are refused, which it should say"
        if len(pods) > wanted:
            yield f"{says}: {len(pods)} pods, which serve what was wanted before, of {wanted}"
        return
    if not wanted and change.get("phase") == "Progressing" and change.get("strategy") in ("Canary", "Shadow"):
        if pods:
            yield f"{says}: {len(pods)} pods, wanted {wanted}"
        return  # there are no requests to split: it stands still
    if _is_taken_back(world, change, target) or not _loads(world, namespace, target["metadata"]["name"]):
        if wanted and "Ready" in true:
            yield f"{says}: Ready with a version that does not load"
        if stable and stable != target["metadata"]["name"] and len(pods) > wanted:
            yield f"{says}: {len(pods)} pods, wanted {wanted}: what failed is not taken back"
        # A stable revision whose deployment somebody deleted is gone for good if the template has changed since; and
        # one that was made of a version while the pool had no pods may not load either.
        if (
            deployments
            and stable != target["metadata"]["name"]
            and _loads(world, namespace, stable)
            and len([p for p in pods if is_ready(p) and _answers_from(world, p, _find(world, namespace, stable))])
            != wanted
        ):
            yield f"{says}: {len(pods)} pods of the stable version, wanted {wanted}"
        return
    if strays := [pod["metadata"]["name"] for pod in pods if not _answers_from(world, pod, target)]:
        yield f"{says}: pods {strays} do not answer from {target['metadata']['name']}"
    if len(deployments) != 1 or len(pods) != wanted or not all(map(is_ready, pods)):
        yield f"{says}: {len(deployments)} deployments, {len(pods)} pods, wanted {wanted}"
    if "Ready" not in true or stable != target["metadata"]["name"]:
        yield f"{says}: serves {stable}, not {target['metadata']['name']}; True are {sorted(true)}"


def _several(world: World, pool: Body, says: str) -> Iterable[str]:
    """Each model is served that has a version which loads, by every pod, and what is told of it is true."""
    (namespace, name), status = key_of(pool), pool["status"]
    pods = [pod for pod in world.cluster.all(PODS, namespace, **{names.LABEL_POOL: name}) if is_live(pod)]
    pods = [pod for pod in pods if not _is_proxy(pod)]
    if len(pods) != manifests.pods_of(pool) or not all(map(is_ready, pods)):
        yield f"{says}: {len(pods)} pods, {sum(map(is_ready, pods))} of them ready"
    targets = {wish["name"]: _target(world, namespace, wish) for wish in pool["spec"]["models"]}
    told = {model["name"]: model for model in status["models"]}
    good = True
    for model, target in targets.items():
        loads = target is not None and _loads(world, namespace, target["metadata"]["name"])
        good = good and loads
        state, number = told[model]["state"], told[model].get("version")
        if target is not None and loads and (state, number) != ("Serving", target["spec"]["version"]):
            yield f"{says}: {model} is {state} with version {number}, and {target['metadata']['name']} is there"
        if not loads and state not in ("Failed", "Waiting"):
            yield f"{says}: {model} is {state}, though nothing of it loads"
        for pod in pods:
            answered = world.programs.answers(pod).get(model, {}).get("version")
            if answered != number:
                yield f"{says}: {pod['metadata']['name']} answers {model} from {answered}, told is {number}"
    if ("Ready" in _true(status)) != good:
        yield f"{says}: True are {sorted(_true(status))}, all models are as they shall be: {good}"


def _is_taken_back(world: World, change: Body, target: Body) -> bool:
    """For a reason that lasts, though it loads."""
    faulty = target["spec"]["source"]["uri"] in world.programs.faulty
    return change.get("reason") == "RolloutAborted" or (faulty and change.get("reason") == "AnalysisFailed")


def _gateway(world: World, pool: Body, says: str) -> Iterable[str]:
    """Proxies are there where they are wanted, and the Service leads to them, or nothing of them is there."""
    namespace, name = key_of(pool)
    mine = {names.LABEL_POOL: name}
    proxies = [pod for pod in world.cluster.all(PODS, namespace, **mine) if is_live(pod) and _is_proxy(pod)]
    parts = [each for kind in (DEPLOYMENTS, CONFIGMAPS, BUDGETS) for each in world.cluster.all(kind, namespace, **mine)]
    parts = [part for part in parts if _is_proxy(part)]
    hosts = [each for each in world.cluster.all(SERVICES, namespace, **mine) if key_of(each).name != name]
    service = world.cluster.find(SERVICES, namespace, name)
    leads = service is not None and service["spec"]["selector"][names.LABEL_ROLE] == names.ROLE_GATEWAY
    mode = (pool["spec"].get("gateway") or {}).get("mode")
    found = world.cluster.find(HTTPROUTES, namespace, name)
    if (found is not None) != (mode == "GatewayAPI"):
        yield f"{says}: mode {mode}, and its HTTPRoute is there: {found is not None}"
    if mode == "GatewayAPI":
        sets = world.cluster.all(DEPLOYMENTS, namespace, **mine)
        if proxies or parts or leads or len(hosts) != len(sets):
            yield f"{says}: {len(proxies)} proxies, {len(parts)} objects, {len(hosts)} Services for {len(sets)} sets"
        return
    if mode != "Envoy":
        if proxies or parts or hosts or leads:
            yield f"{says}: {len(proxies)} proxies, {len(parts)} objects, {len(hosts)} Services and no gateway wanted"
        return
    sets = [each for each in world.cluster.all(DEPLOYMENTS, namespace, **mine) if not _is_proxy(each)]
    if not sets and not parts:
        return  # it has never had anything to lead to
    if len(proxies) != 2 or not all(map(is_ready, proxies)) or len(parts) != 3 or not leads:
        yield f"{says}: {len(proxies)} proxies, {len(parts)} objects, its Service leads to them: {leads}"
    if len(hosts) != 1 + len(sets):
        yield f"{says}: {len(hosts)} headless Services for {len(sets)} sets of pods"


def _is_proxy(body: Body) -> bool:
    return labels_of(body).get(names.LABEL_ROLE) == names.ROLE_GATEWAY


def _find(world: World, namespace: str, version: str) -> Body | None:
    return world.cluster.find(MODELVERSIONS, namespace, version)


def _answers_from(world: World, pod: Body, version: Body | None) -> bool:
    served = world.programs.served(pod)
    return version is None or served is None or served["uri"] == version["spec"]["source"]["uri"]


def _loads(world: World, namespace: str, name: str) -> bool:
    version = world.cluster.find(MODELVERSIONS, namespace, name)
    return version is not None and version["spec"]["source"]["uri"] not in world.programs.unloadable


def _target(world: World, namespace: str, wish: Mapping[str, Any]) -> Body | None:
    versions = [
        version
        for version in world.cluster.all(MODELVERSIONS, namespace)
        if version["spec"]["model"] == wish["name"]
        and "Ready" in _true(version.get("status", {}))
        and wish.get("version") in (None, version["spec"]["version"])
    ]
    return max(versions, key=lambda version: int(version["spec"]["version"]), default=None)


# --- A fresh observer -------------------------------------------------------------------------------------------------


def differences_of_fresh_view(world: World) -> list[str]:
    """What an operator that starts now would write, or would say otherwise, about objects that are settled."""
    return [*world.do(lambda: list(_differences(world)))]


def _differences(world: World) -> Iterable[str]:
    cluster = Cluster(make(options("observer", elect=False)), world.served)
    for kind in wiring.watched(cluster):
        for body in world.cluster.all(kind.resource):
            shell.handle(kind, None, body)
    for child in cluster.children.values():
        labels = {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE} if child.selector is None else {}
        for body in world.cluster.all(child.resource, **labels):
            cluster.objects(child).put_response(encode(body))
    for domain in cluster.domains:
        if isinstance(domain, Serving):
            for pod in world.cluster.all(PODS):
                domain.book.set_error(pod["metadata"]["uid"], world.programs.load_error(pod))
        for body in world.cluster.all(domain.resource):
            yield from _difference_of(world, domain, cluster, body)


def _difference_of(world: World, domain: Domain[Any, Any], cluster: Cluster, body: Body) -> Iterable[str]:
    key = key_of(body)
    stored = cluster.stored(domain.resource).get(*key)
    assert stored is not None
    assert stored.model is not None
    plan = domain.plan(domain.gather(stored.model, cluster), world.cluster.now())
    refused = bool(_invalid(body["spec"])) and "Suspended" not in _true(body.get("status", {}))
    if plan is None:
        return
    if refused and domain.resource != MODELVERSIONS:
        if due := [write for write in plan.writes if isinstance(write, Delete)]:
            yield f"{domain.resource.kind} {key}: would write {due}"
        return  # what it would say comes from the API server's refusal, which a plan alone does not have
    if plan.writes:
        yield f"{domain.resource.kind} {key}: would write {plan.writes}"
    if plan.status.dump() != body.get("status"):
        yield f"{domain.resource.kind} {key}: {_difference(body.get('status', {}), plan.status.dump())}"


def _difference(stands: Mapping[str, Any], would: Mapping[str, Any]) -> str:
    def keyed(status: Mapping[str, Any]) -> dict[str, Any]:
        return {**status, "conditions": {entry["type"]: entry for entry in status.get("conditions", ())}}

    difference = merge_difference(keyed(stands), keyed(would))
    return f"the status would change by {difference} from {merge_difference(keyed(would), keyed(stands))}"


def _has_service(world: World, body: Body, name: str = "") -> bool:
    """A Service of its own: of its name, or of this one."""
    found = world.cluster.find(SERVICES, body["metadata"]["namespace"], name or body["metadata"]["name"])
    return found is not None and body["metadata"]["uid"] in owner_uids(found)


def _uses(pool: Body) -> set[str]:
    status = pool.get("status", {})
    sets = [status.get("stable") or {}, status.get("candidate") or {}]
    parts = [*status.get("resolved", ()), *sets, *(each for one in sets for each in one.get("models", ()))]
    return {part.get("modelVersion", "") for part in parts} - {""}


def _trains(pod: Body) -> bool:
    return labels_of(pod).get(names.LABEL_ROLE) == names.ROLE_NODE


def _invalid(spec: Mapping[str, Any]) -> bool:
    containers = (spec.get("template") or {}).get("spec", {}).get("containers", ())
    return any("imagePullPolcy" in container for container in containers)


def _true(status: Mapping[str, Any]) -> set[str]:
    return {entry["type"] for entry in status.get("conditions", ()) if entry["status"] == "True"}
