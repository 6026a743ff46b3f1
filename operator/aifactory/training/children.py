"""The objects of a TrainingJob, as the API server gets them.

Names are deterministic, so a view that is behind can cause a call too many but never a second pod:
pods `<job>-<index>-<attempt>` (their host name too), headless Service `<job>-nodes`, PodGroup `<job>-<attempt>`,
claim `<job>-workspace`, fetcher of an input `<job>-input-<name>-<hash>-<number>`, check `<job>-check-<hash>-<number>`,
probe `<job>-probe-<number>`,
publisher `<job>-publish-<number>`, ModelVersion `<model>-v<version>`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aifactory.api import names
from aifactory.api.trainingjob import Output, TrainingJob, TrainingJobSpec
from aifactory.engine.apply import content_hash
from aifactory.engine.cost import devices
from aifactory.engine.podspec import Json, memory_volume, merge_named, owner_reference, restricted_pod
from aifactory.engine.taskpods import build
from aifactory.training import cache, rendezvous, workspace
from aifactory.training.state import Settings

LABEL_TEMPLATE_HASH = f"{names.GROUP}/template-hash"
_HASH_LENGTH = 10
_TOKEN_LIFETIME_SECONDS = 3600
_PUBLISH_MOUNT = "/workspace"
_MAX_METRICS = 64
_UNDISTURBED: Final = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""To autoscalers: a node that has too little to do may not be removed, all pods of the job would lose their steps since
the last checkpoint. Sources: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md,
https://karpenter.sh/docs/concepts/disruption/"""
_SHM: Final[Json] = {"name": "aifactory-shm", "mountPath": "/dev/shm"}


def resolve_processes(spec: TrainingJobSpec) -> int:
    """Processes per pod: as written, or for `auto` one for each accelerator in the trainer's limits, at least one."""
    if isinstance(spec.proc_per_node, int):
        return spec.proc_per_node
    return max(devices(trainer(spec.template.raw_spec())), 1)


def resources_asked(spec: TrainingJobSpec) -> str:
    """What one trainer asks for, in words: `cpu 8, nvidia.com/gpu 4`; empty when it asks for nothing."""
    resources = trainer(spec.template.raw_spec()).get("resources", {})
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return ", ".join(f"{name} {amount}" for name, amount in sorted(asked.items()))


def limits_disk(spec: TrainingJobSpec) -> bool:
    """Whether the template's own limits may have a pod evicted for the local disk it uses."""
    pod = spec.template.raw_spec()
    limits = [container.get("resources", {}).get("limits") or {} for container in pod.get("containers", ())]
    volumes = [volume.get("emptyDir") for volume in pod.get("volumes", ())]
    return any("ephemeral-storage" in each for each in limits) or any(
        isinstance(each, dict) and "sizeLimit" in each for each in volumes
    )


def _v1(spec: TrainingJobSpec) -> Json:
    return {
        "template": spec.template.dump(),
        "nodes": spec.nodes.count,
        "procPerNode": spec.proc_per_node or "auto",
        "launcher": spec.launcher or "torchrun",
        "gang": (spec.scheduling.gang if spec.scheduling is not None else None) or "auto",
        **cache.shape(spec.inputs),
    }


SHAPES: Final[dict[str, Callable[[TrainingJobSpec], Json]]] = {"v1": _v1}
"""What of a spec shapes the pods, by version. Earlier versions stay while pods of theirs may run."""
CURRENT_SHAPE: Final = "v1"


def template_hash(spec: TrainingJobSpec, version: str = CURRENT_SHAPE) -> str:
    """`v1-` and a hash of everything in the spec that shapes the pods; pods with another belong to an older spec.

    Of named parts of the spec alone: a new operator or API server must not restart the training that runs.
    """
    return f"{version}-{content_hash(SHAPES[version](spec))[:_HASH_LENGTH]}"


def is_of(hash_: str, spec: TrainingJobSpec) -> bool:
    """Whether a pod with this hash is of this spec, by the rules of the operator that made it.

    A version that is not known here (made by a newer operator, before a downgrade) says nothing, and restarts nothing.
    """
    version = hash_.partition("-")[0]
    return version not in SHAPES or hash_ == template_hash(spec, version)


def gang_name(job: str, attempt: int) -> str:
    """Name of an attempt's PodGroup."""
    return f"{job}-{attempt}"


def publisher_name(job: str, number: int) -> str:
    """Name of a pod that publishes."""
    return f"{job}-publish-{number}"


def probe_name(job: str, number: int) -> str:
    """Name of a pod that tries out the store."""
    return f"{job}-probe-{number}"


def selector(job: TrainingJob) -> dict[str, str]:
    """Labels that select the training pods of the job."""
    return {names.LABEL_JOB: job.metadata.name, names.LABEL_ROLE: names.ROLE_NODE}


def service(job: TrainingJob) -> Json:
    """The headless Service through which pods find each other, before they are ready too."""
    return _object(
        "v1",
        "Service",
        metadata_of(job, rendezvous.service_name(job.metadata.name), {}),
        spec={
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(job),
            "ports": [{"name": "rendezvous", "port": rendezvous.port(job)}],
        },
    )


def claim(job: TrainingJob) -> Json:
    """The claim made for the job."""
    wish = job.spec.workspace
    size = wish.size if wish is not None and wish.size is not None else "10Gi"
    modes = list(wish.access_modes) if wish is not None and wish.access_modes else ["ReadWriteMany"]
    spec: Json = {"accessModes": modes, "resources": {"requests": {"storage": str(size)}}}
    if wish is not None and wish.storage_class_name is not None:
        spec["storageClassName"] = wish.storage_class_name
    return _object("v1", "PersistentVolumeClaim", metadata_of(job, workspace.claim(job), {}), spec=spec)


def model_claim(job: TrainingJob, settings: Settings) -> Json:
    """The namespace's model claim. It belongs to nobody: models outlive the job that made them."""
    spec: Json = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": settings.model_claim_size}},
    }
    if settings.model_claim_storage_class:
        spec["storageClassName"] = settings.model_claim_storage_class
    metadata = {
        "name": names.MODEL_CLAIM,
        "namespace": job.metadata.namespace,
        "labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE},
    }
    return _object("v1", "PersistentVolumeClaim", metadata, spec=spec)


def gang(job: TrainingJob, attempt: int) -> Json:
    """PodGroup of one attempt: all training pods or none, preempted together too (KEP-4671)."""
    return _object(
        "scheduling.k8s.io/v1beta1",
        "PodGroup",
        metadata_of(job, gang_name(job.metadata.name, attempt), {names.LABEL_ATTEMPT: str(attempt)}),
        spec={
            "schedulingPolicy": {"gang": {"minCount": job.spec.nodes.count}},
            "disruptionMode": {"all": {}},
        },
    )


def pod(job: TrainingJob, index: int, attempt: int, settings: Settings, *, gang: bool) -> Json:
    """One training pod: the user's template, wired; `gang` says that it is placed together with the others."""
    spec = job.spec.template.raw_spec()
    meta = job.spec.template.metadata
    labels = {
        names.LABEL_ROLE: names.ROLE_NODE,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_NODE_INDEX: str(index),
        LABEL_TEMPLATE_HASH: template_hash(job.spec),
    }
    metadata = metadata_of(job, rendezvous.pod_name(job.metadata.name, index, attempt), labels)
    # Ours win: a pod without them would be invisible to us, and its name taken.
    theirs = (meta.labels if meta is not None else None) or {}
    metadata["labels"] = {
        **{key: value for key, value in theirs.items() if not key.startswith(names.RESERVED_LABEL_PREFIX)},
        **metadata["labels"],
    }
    metadata["annotations"] = {**_UNDISTURBED, **((meta.annotations if meta is not None else None) or {})}

    spec["containers"] = [
        _wired(job, container, index, attempt, settings) if container["name"] == names.CONTAINER_TRAINER else container
        for container in workspace.narrowed_all(job, spec.get("containers", ()))
    ]
    _prepare(job, spec, settings)
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        # The last words of one that fails are then in the pod's status, from where they get into the job's.
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    spec["volumes"] = merge_named(spec.get("volumes", ()), [*_volumes(job), *cache.volumes(job)])
    spec["restartPolicy"] = "Never"
    spec.setdefault("terminationGracePeriodSeconds", rendezvous.GRACE_SECONDS)
    if spec.get("hostNetwork"):  # else such a pod asks the node's resolver, which knows no other pod
        spec.setdefault("dnsPolicy", "ClusterFirstWithHostNet")
    # The attempt is part of the host name: a resolver that still remembers the last attempt's address would send the
    # workers to a pod that is gone, and torchrun gives up on it.
    spec["hostname"] = metadata["name"]
    spec["subdomain"] = rendezvous.service_name(job.metadata.name)
    if gang:
        spec["schedulingGroup"] = {"podGroupName": gang_name(job.metadata.name, attempt)}
    return _object("v1", "Pod", metadata, spec=restricted_pod(spec, names.RUN_AS_UID))


def publisher(job: TrainingJob, number: int, settings: Settings) -> Json:
    """The pod that digests /workspace/output and copies it to the store; it asks for no GPU."""
    output, store = _output(job), store_of(job)
    args = ["publish", "--from", f"{_PUBLISH_MOUNT}/output", "--store", store, "--model", output.model.name]
    whole: Json = {"name": workspace.VOLUME, "mountPath": _PUBLISH_MOUNT, "readOnly": True}
    mounts: list[Json] = [workspace.narrowed(job, whole)]
    volumes: list[Json] = [_workspace_volume(job)]
    if is_on_workspace(job):
        mounts.append({"name": workspace.VOLUME, "mountPath": f"{names.CLAIMS_MOUNT}/{workspace.claim(job)}"})
    metadata = metadata_of(job, publisher_name(job.metadata.name, number), {names.LABEL_ROLE: names.ROLE_PUBLISH})
    return _store_pod(job, settings, metadata, "publish", args, volumes, mounts)


def probe(job: TrainingJob, number: int, settings: Settings) -> Json:
    """A pod that writes, reads and deletes something small where the publisher will write; it asks for no GPU."""
    args = ["probe", "--store", f"{store_of(job).rstrip('/')}/{_output(job).model.name}"]
    metadata = metadata_of(job, probe_name(job.metadata.name, number), {names.LABEL_ROLE: names.ROLE_PROBE})
    return _store_pod(job, settings, metadata, "probe", args, [], [])


def store_of(job: TrainingJob) -> str:
    """Where the result is published."""
    return _output(job).store or f"pvc://{names.MODEL_CLAIM}"


def is_on_workspace(job: TrainingJob) -> bool:
    """Whether the store is on the claim that the job works on."""
    return names.claim_of(store_of(job)) == workspace.claim(job)


def _store_pod(
    job: TrainingJob,
    settings: Settings,
    metadata: Json,
    name: str,
    args: list[str],
    volumes: list[Json],
    mounts: list[Json],
) -> Json:
    """A pod of the agent's that reaches the store."""
    secret, target = _output(job).secret_ref, names.claim_of(store_of(job))
    if target and not is_on_workspace(job):
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": target}})
        mounts.append({"name": "store", "mountPath": f"{names.CLAIMS_MOUNT}/{target}"})
    if secret is not None:
        args += ["--secret", secret.name]
        # A Secret that is missing is the agent's to tell, by name: the kubelet would wait for it, ever longer.
        volumes.append({"name": "secret", "secret": {"secretName": secret.name, "optional": True}})
        mounts.append({"name": "secret", "mountPath": f"{names.SECRETS_MOUNT}/{secret.name}", "readOnly": True})
    return build(
        settings.task_pods.of(job.metadata.namespace),
        metadata=metadata,
        container={"name": name, "image": settings.agent_image, "args": args, "volumeMounts": mounts},
        volumes=volumes,
        like=job.spec.template.raw_spec(),
    )


def _output(job: TrainingJob) -> Output:
    if job.spec.output is None:
        raise ValueError(f"TrainingJob {job.metadata.name} has no output")
    return job.spec.output


def model_version(job: TrainingJob, version: int, published: dict[str, Any], image: str) -> Json:
    """The ModelVersion of a published result. Not owned by the job: a model outlives it."""
    output = _output(job)
    source: Json = {"uri": published["uri"]}
    if output.secret_ref is not None:
        source["secretRef"] = {"name": output.secret_ref.name}
    lineage: Json = {
        "trainingJob": {"name": job.metadata.name, "uid": job.metadata.uid},
        "attempt": job.status.attempt,
        "metrics": _metrics(published.get("metrics")),
    }
    if image:
        lineage["image"] = image
    if job.status.progress is not None:
        lineage["steps"] = job.status.progress.step
    if job.status.resolved is not None and (inputs := job.status.resolved.inputs):
        lineage["inputs"] = [found.dump() for found in inputs]
        if parent := next((found.model_version for found in inputs if found.model_version), ""):
            lineage["parent"] = parent
    metadata = {
        "name": f"{output.model.name}-v{version}",
        "namespace": job.metadata.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
            names.LABEL_MODEL: output.model.name,
            names.LABEL_JOB: job.metadata.name,
            names.LABEL_JOB_UID: job.metadata.uid,
        },
    }
    spec: Json = {
        "model": output.model.name,
        "version": version,
        "source": source,
        "digest": published["digest"],
        "format": output.model.format,
        "lineage": lineage,
    }
    return _object(names.API_VERSION, "ModelVersion", metadata, spec=spec)


def _metrics(reported: Any) -> list[Json]:
    """The numbers a training program left in its config.json; anything else is not ours to repeat."""
    if not isinstance(reported, dict):
        return []
    numbers = {name: value for name, value in reported.items() if type(value) in (int, float)}
    return [{"name": name, "value": f"{numbers[name]:.6g}"} for name in sorted(numbers)][:_MAX_METRICS]


def trainer(spec: Json) -> Json:
    """The container of a pod that trains; empty where it has none."""
    for container in spec.get("containers", ()):
        if container["name"] == names.CONTAINER_TRAINER:
            return dict(container)
    return {}


def directories(job: TrainingJob) -> dict[str, str]:
    """The variables that say where things are."""
    return {
        "AIFACTORY_CHECKPOINTS": f"{names.WORKSPACE_MOUNT}/checkpoints",
        "AIFACTORY_OUTPUT": f"{names.WORKSPACE_MOUNT}/output",
        **({"AIFACTORY_INPUTS": names.INPUTS_MOUNT} if job.spec.inputs else {}),
    }


def _wired(job: TrainingJob, container: Json, index: int, attempt: int, settings: Settings) -> Json:
    token_file = f"{names.PROGRESS_TOKEN_MOUNT}/token"
    written = {entry["name"] for entry in container.get("env", ())}
    optional = rendezvous.optional_environment(job)
    env = {
        "AIFACTORY_JOB": job.metadata.name,
        "AIFACTORY_ATTEMPT": str(attempt),
        **directories(job),
        "AIFACTORY_PROGRESS_URL": f"{settings.progress_url}/v1/progress/{job.metadata.namespace}/{job.metadata.name}",
        "AIFACTORY_PROGRESS_TOKEN_FILE": token_file,
        **rendezvous.environment(job, index, attempt, resolve_processes(job.spec)),
        **{name: value for name, value in optional.items() if name not in written},
    }
    ours = [{"name": name, "value": value} for name, value in env.items()]
    # Written with a slash at its end it is the same place.
    theirs = [
        {**mount, "mountPath": mount["mountPath"].rstrip("/") or "/"} for mount in container.get("volumeMounts", ())
    ]
    mounts: list[Json] = [
        workspace.mount(job),
        {"name": "aifactory-token", "mountPath": names.PROGRESS_TOKEN_MOUNT, "readOnly": True},
        *cache.mounts(job),
    ]
    if not any(mount["mountPath"] == _SHM["mountPath"] for mount in theirs):
        mounts.insert(1, _SHM)
    return {
        **container,
        "env": [*ours, *container.get("env", ())],
        "volumeMounts": merge_named(theirs, mounts, key="mountPath"),
    }


def _prepare(job: TrainingJob, spec: Json, settings: Settings) -> None:
    """The template's init containers, after the one that makes the job's directory, if there is to be one."""
    ours = workspace.prepared(job, settings.agent_image, trainer(spec))
    theirs = workspace.narrowed_all(job, spec.get("initContainers", ()))
    if ours:
        spec["initContainers"] = [*ours, *theirs]
    if ours and (secrets := settings.task_pods.of(job.metadata.namespace).image_pull_secrets):
        listed = spec.get("imagePullSecrets", ())
        spec["imagePullSecrets"] = [*listed, *(secret for secret in secrets if secret not in listed)]


def _workspace_volume(job: TrainingJob) -> Json:
    return {"name": workspace.VOLUME, "persistentVolumeClaim": {"claimName": workspace.claim(job)}}


def _volumes(job: TrainingJob) -> list[Json]:
    token = {"audience": names.PROGRESS_AUDIENCE, "expirationSeconds": _TOKEN_LIFETIME_SECONDS, "path": "token"}
    return [
        _workspace_volume(job),
        memory_volume("aifactory-shm"),
        {"name": "aifactory-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]


def metadata_of(job: TrainingJob, name: str, labels: dict[str, str]) -> Json:
    """Metadata of a child: an allow-list of labels, never a copy of the job's (Argo CD prunes copies)."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
            names.LABEL_JOB: job.metadata.name,
            names.LABEL_JOB_UID: job.metadata.uid,
            **labels,
        },
        "ownerReferences": [owner_reference(names.API_VERSION, "TrainingJob", job.metadata.name, job.metadata.uid)],
    }


def _object(api_version: str, kind: str, metadata: Json, spec: Json) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
