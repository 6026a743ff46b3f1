"""The gateway of a pool: proxies between its Service and its serving pods, where `spec.gateway.mode` asks for them.

All that the proxies need is in the pool's namespace: their files are a ConfigMap that the kubelet brings, and serving
pods are found by headless Services. So they serve, restart and follow pods while operator and API server are away.

What always holds: the pool's Service leads to proxies only once there are some that answer, and they are removed only
after it leads elsewhere. From one set of serving pods to the next, as in a Surge, the files do not change: the proxies
lead to all ready pods alike, unless `traffic.weights` says otherwise. Proxies that are to have another Secret are made
anew, one by one: while it is missing those that run go on as they were.
"""

from __future__ import annotations

from aifactory.api import names
from aifactory.api.inferencepool import DEFAULT_GATEWAY_REPLICAS, Gateway, InferencePool
from aifactory.engine import apply
from aifactory.engine.plan import Delete, Write
from aifactory.engine.podspec import Json, restricted_pod
from aifactory.serving import apikeys, assignment, disruption, envoy, holding, route, scaling, shape, steps, traffic
from aifactory.serving.objects import metadata, selector
from aifactory.serving.state import Observed, RevisionView

_SPARE_SECONDS = 5
"""From the last answer to the end of a pod."""
_HASH_LENGTH = 8


def name(pool: str) -> str:
    """Name of the gateway's Deployment, ConfigMap and PodDisruptionBudget."""
    return f"{pool}-gateway"


def is_wanted(pool: InferencePool) -> bool:
    """Whether requests are to go through proxies."""
    return pool.spec.gateway is not None and pool.spec.gateway.mode == "Envoy"


def replicas(pool: InferencePool) -> int:
    """Proxies that there shall be."""
    wish = pool.spec.gateway.replicas if pool.spec.gateway is not None else None
    return DEFAULT_GATEWAY_REPLICAS if wish is None else wish


def takes_requests(observed: Observed) -> bool:
    """Whether the pool's Service is to lead to the gateway now.

    Where it leads to serving pods it does so until a proxy answers; a new one may lead to proxies that are to come.
    """
    view = observed.gateway
    return is_wanted(observed.pool) and (view.routed or view.ready > 0 or observed.service is None)


def is_in_place(observed: Observed) -> bool:
    """Whether requests take the way that the spec asks for."""
    view = observed.gateway
    if not is_wanted(observed.pool):
        return not view.routed and route.is_in_place(observed)
    return view.routed and view.deployment is not None and as_asked(observed) >= replicas(observed.pool)


def as_asked(observed: Observed) -> int:
    """Proxies that are ready; none while one answers that was made with other Secrets than the spec names."""
    view, wanted = observed.gateway, secrets(observed.pool)
    others = any(pod.ready and not pod.terminating and pod.revision != wanted for pod in view.pods)
    return 0 if others else view.ready


def walls(pool: InferencePool) -> envoy.Walls:
    """What the spec has the proxies ask of clients."""
    spec = pool.spec.gateway
    return envoy.Walls(keys=bool(spec and spec.api_keys), tls=bool(spec and spec.tls))


def secrets(pool: InferencePool) -> str:
    """Stands for the Secrets that proxies are made with; empty where there are none."""
    spec, kinds = pool.spec.gateway, walls(pool)
    named = [part.secret_ref.name for part in (spec.api_keys, spec.tls) if part is not None] if spec else []
    return f"{kinds.suffix.lstrip('-')}-{apply.content_hash(named)[:_HASH_LENGTH]}" if named else ""


def writes(observed: Observed) -> tuple[Write, ...]:
    """What brings the gateway to what it should be, and its files to its pods; or removes it where nobody wants it."""
    return _kept(observed) if is_wanted(observed.pool) else _removed(observed)


def _kept(observed: Observed) -> tuple[Write, ...]:
    pool, view = observed.pool, observed.gateway
    if not observed.revisions and view.config is None and view.deployment is None:
        return ()  # there is nothing to lead to, and its files would change with the first pods
    leads = routes(observed)
    digest, config = config_map(pool, leads)
    wanted = {body["metadata"]["name"]: body for body in services(pool, leads)}
    there = {service.name: service for service in view.services}
    found: list[Write] = [*apply.ensure(config, view.config)]
    for host, body in wanted.items():
        found += apply.ensure(body, there.get(host))
    kept = wanted.keys() | route.kept_services(observed)
    found += (Delete("Service", child.name, child.uid) for host, child in there.items() if host not in kept)
    image = observed.settings.gateway_image
    found += apply.ensure(deployment(pool, image, view.first or digest), view.deployment)
    if view.budget is not None or replicas(pool) > disruption.MAX_UNAVAILABLE:
        found += apply.ensure(budget(pool), view.budget)
    if view.files == digest:  # the ConfigMap comes first: the kubelet would bring the old one
        found += (
            assignment.nudge(pod.name, digest)
            for pod in sorted(view.pods, key=lambda pod: pod.name)
            if not pod.terminating and pod.told != digest and (pod.told or digest != view.first)
        )
    return tuple(found)


def _removed(observed: Observed) -> tuple[Write, ...]:
    """All of it goes once the pool's Service leads to the serving pods; what is under way is finished."""
    view = observed.gateway
    if view.routed:
        return ()
    parts = (("Deployment", view.deployment), ("ConfigMap", view.config), ("PodDisruptionBudget", view.budget))
    found = [Delete(kind, child.name, child.uid) for kind, child in parts if child is not None]
    kept = route.kept_services(observed)
    gone = (child for child in view.services if child.name not in kept)
    return (*found, *(Delete("Service", child.name, child.uid) for child in gone))


def is_told(observed: Observed) -> bool:
    """Whether proxies that requests go through have been brought where they lead to now, as far as is known here."""
    view = observed.gateway
    if not view.routed or not is_wanted(observed.pool):
        return True
    digest, _ = config_map(observed.pool, routes(observed))
    known = (pod.told or view.first for pod in view.pods if not pod.terminating)
    return view.files == digest and all(told == digest for told in known)


def routes(observed: Observed) -> envoy.Routes:
    """Where the gateway leads to now."""
    pool = observed.pool
    weights = dict(traffic.weights(pool, observed.revisions))
    stable = traffic.stable_pods(pool)
    live = sorted(
        (view for view in observed.revisions if not view.terminating),
        key=lambda view: (view.revision != stable, view.revision),
    )
    sets = tuple(
        envoy.Pods(
            view.revision,
            set_host(pool, view.revision),
            _versions(observed, view),
            weights.get(view.revision, 0) if weights else None,
        )
        for view in live
    )
    spec = pool.spec.gateway or Gateway()
    return envoy.Routes(
        pool=pool.metadata.name,
        model="" if observed.on_demand else _checked_model(observed),
        openai=observed.generates_text,
        everybody=envoy.Pods("pods", host(pool)),
        sets=sets,
        mirror=_mirror(observed),
        awaited=scaling.wanted(pool) > 0,
        access_log=bool(spec.access_log),
        walls=walls(pool),
        rate_limit=spec.rate_limit,
        max_request_bytes=spec.max_request_bytes,
        timeout_seconds=spec.timeout_seconds,
        prompt_bytes=spec.stickiness.prompt_bytes if spec.stickiness is not None else None,
        hold=_hold(pool),
    )


def _hold(pool: InferencePool) -> holding.Hold | None:
    spec = pool.spec.autoscaling
    if spec is None or not scaling.sleeps(pool):
        return None
    return holding.Hold(
        spec.max_held_requests or holding.DEFAULT_REQUESTS, spec.hold_seconds or holding.DEFAULT_SECONDS
    )


def _mirror(observed: Observed) -> envoy.Mirror | None:
    """What gets copies of requests now."""
    pool, change = observed.pool, observed.pool.status.rollout
    if change is None or change.phase != "Progressing" or change.strategy != steps.SHADOW or not change.mirror:
        return None
    view = next((each for each in observed.shadows if each.revision == traffic.shadow_pods(change.revision)), None)
    if view is None or view.terminating:
        return None
    return envoy.Mirror(envoy.Pods(view.revision, set_host(pool, view.revision)), change.mirror)


def _checked_model(observed: Observed) -> str:
    """The model by which pods are asked whether they are ready: of several one that is served, and goes on being."""
    pool, stable = observed.pool, observed.pool.status.stable
    served = {each.name for each in (stable.models or ())} if stable is not None else set()
    wished = [wish.name for wish in pool.spec.models]
    return next((name for name in wished if name in served), wished[0])


def _versions(observed: Observed, view: RevisionView) -> tuple[int | str, ...]:
    """What a set of pods answers from: two versions while it changes over, in one pod this and in another that."""
    pool, status = observed.pool, observed.pool.status
    told = [found for found in (status.stable, status.candidate) if found is not None]
    if observed.has_several:
        there = (found for found in told if traffic.pods_of(pool, found) == view.revision)
        return tuple(sorted({f"{each.name}@{each.version}" for found in there for each in found.models or ()}))
    known = {found.version for found in told if found.version and traffic.pods_of(pool, found) == view.revision}
    return tuple(sorted(known or {one.version for one in observed.versions if one.name == view.model_version}))


def host(pool: InferencePool) -> str:
    """The headless Service of all serving pods."""
    return f"{pool.metadata.name}-pods"


def set_host(pool: InferencePool, pods: str) -> str:
    """The headless Service of a set of serving pods: the set's own name would be too long for a Service."""
    return f"{pool.metadata.name}-{apply.content_hash(pods)[:_HASH_LENGTH]}"


def services(pool: InferencePool, leads: envoy.Routes) -> list[Json]:
    """The headless Services by which the gateway finds serving pods."""
    made = [_headless(pool, leads.everybody.host, {})]
    made += [_headless(pool, pods.host, {names.LABEL_REVISION: pods.name}) for pods in leads.sets]
    if (mirror := leads.mirror) is not None:
        made.append(_headless(pool, mirror.to.host, {names.LABEL_REVISION: mirror.to.name}, names.ROLE_SHADOW))
    return made


def _headless(pool: InferencePool, host: str, labels: dict[str, str], role: str = names.ROLE_SERVE) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pool, host, labels),
        "spec": {
            "clusterIP": "None",
            "selector": {**selector(pool, role), **labels},
            "ports": [{"name": "http", "port": names.TRITON_HTTP_PORT, "targetPort": "http", "appProtocol": "http"}],
        },
    }


def config_map(pool: InferencePool, leads: envoy.Routes) -> tuple[str, Json]:
    """What stands for the files, and the ConfigMap that holds them."""
    files = envoy.files(leads)
    digest = apply.content_hash(files)
    meta = metadata(pool, name(pool.metadata.name), {names.LABEL_ROLE: names.ROLE_GATEWAY})
    meta["annotations"] = {names.LABEL_ASSIGNMENT: digest}
    return digest, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files}


def deployment(pool: InferencePool, image: str, first: str) -> Json:
    """The proxies.

    Args:
        pool: whose they are.
        image: has `envoy` and `bash`.
        first: stands for the files that the first of them were made with.
    """
    labels = {names.LABEL_ROLE: names.ROLE_GATEWAY}
    meta = metadata(pool, name(pool.metadata.name), labels)
    meta["annotations"] = {names.LABEL_ASSIGNMENT: first}
    template = metadata(pool, "", labels)["labels"]
    if made_with := secrets(pool):
        template[names.LABEL_REVISION] = made_with
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": replicas(pool),
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": _selector(pool)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": template}, "spec": _pod(pool, image)},
        },
    }


def _pod(pool: InferencePool, image: str) -> Json:
    pre_stop, timeout = shape.drain_seconds(pool)
    kinds, mounts, volumes = walls(pool), *_volumes(pool)
    ready, lives = ({"path": path, "port": "status"} for path in (envoy.READY_PATH, envoy.FILES_PATH))
    if kinds.tls:
        ready |= {"port": "http", "scheme": "HTTPS"}
    ports = {"http": names.TRITON_HTTP_PORT, "grpc": names.TRITON_GRPC_PORT, "openai": names.OPENAI_PORT}
    ports["status"] = names.GATEWAY_STATUS_PORT
    container: Json = {
        "name": names.CONTAINER_ENVOY,
        "image": image,
        "command": ["envoy"],
        "args": envoy.arguments(walls=kinds),
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        # Ready once it has found a serving pod that says so: the pool is not Ready before.
        "readinessProbe": {"httpGet": ready, "timeoutSeconds": 3, "periodSeconds": 1, "failureThreshold": 2},
        "livenessProbe": {"httpGet": lives, "timeoutSeconds": 3, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["bash", f"{envoy.DIRECTORY}/{envoy.DRAIN}", str(pre_stop)]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "securityContext": {"readOnlyRootFilesystem": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    spec: Json = {
        "containers": [container],
        "terminationGracePeriodSeconds": pre_stop + timeout + _SPARE_SECONDS,
        "topologySpreadConstraints": disruption.spread(_selector(pool)),
        "volumes": volumes,
    }
    # The image comes from where those of the serving pods come from.
    own = pool.spec.template.raw_spec() if pool.spec.template is not None else {}
    if secrets := own.get("imagePullSecrets"):
        spec["imagePullSecrets"] = secrets
    return restricted_pod(spec, names.RUN_AS_UID)


def _volumes(pool: InferencePool) -> tuple[list[Json], list[Json]]:
    """What a proxy mounts: its files, and the Secrets that the spec names, without which none starts."""
    spec = pool.spec.gateway or Gateway()
    found = [("gateway", envoy.DIRECTORY, {"configMap": {"name": name(pool.metadata.name)}})]
    if spec.api_keys is not None:
        found.append(("keys", apikeys.DIRECTORY, _secret(spec.api_keys.secret_ref.name, apikeys.ENTRY)))
    if spec.tls is not None:
        found.append(("tls", envoy.TLS_DIRECTORY, _secret(spec.tls.secret_ref.name, "tls.crt", "tls.key")))
    mounts = [{"name": f"aifactory-{each}", "mountPath": path, "readOnly": True} for each, path, _ in found]
    return mounts, [{"name": f"aifactory-{each}", **source} for each, _, source in found]


def _secret(name: str, *entries: str) -> Json:
    return {"secret": {"secretName": name, "items": [{"key": entry, "path": entry} for entry in entries]}}


def budget(pool: InferencePool) -> Json:
    """A drain takes one proxy after another."""
    meta = metadata(pool, name(pool.metadata.name), {names.LABEL_ROLE: names.ROLE_GATEWAY})
    return disruption.budget_over(meta, _selector(pool))


def _selector(pool: InferencePool) -> dict[str, str]:
    return selector(pool, names.ROLE_GATEWAY)
