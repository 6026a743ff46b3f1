"""The pods that fetch inputs, as the API server gets them.

A pod is called `<job>-input-<name>-<eight digits>-<number>`. The digits stand for everything that decides what it
fetches, so that an edit makes pods of other names: no answer to an earlier question can pass for one to this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from aifactory.api import names
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.apply import content_hash
from aifactory.engine.podspec import Json
from aifactory.engine.taskpods import build, hub_environment
from aifactory.training import cache, children
from aifactory.training.state import Settings

_HASH_LENGTH = 8
_DIGITS = 16
"""Of a digest that is needed: enough to know it by."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """What is to be fetched."""

    name: str
    """The input."""
    uri: str
    digest: str = ""
    """That it must have; empty: any."""
    secret: str = ""
    format: str = ""
    """That its files have to be of. A model's digest is that of the files of its format, not of all that may lie beside
    them."""
    claim: str = ""
    """UID of the claim that it is fetched to."""
    first: bool = False
    """Its digest is not the spec's, but the one that was found when the job fetched it first."""


def pods_name(job: TrainingJob, fetch: Fetch) -> str:
    """What the pods of a fetch are called, without their number."""
    question = content_hash([fetch.uri, fetch.digest, fetch.secret, fetch.format, fetch.claim])[:_HASH_LENGTH]
    return f"{job.metadata.name}-input-{fetch.name}-{question}"


@dataclass(frozen=True, slots=True)
class InUse:
    """What jobs need of what is on the claim already, so that the rest may go."""

    seen: datetime
    digests: tuple[str, ...]


def fetcher(job: TrainingJob, fetch: Fetch, number: int, settings: Settings, in_use: InUse | None = None) -> Json:
    """A pod that fetches one input to the namespace's claim; it asks for no GPU.

    It is no pod like the trainer's: whichever job's it is, it writes with the same user and group.
    """
    spec: Json = {"uri": fetch.uri, "destination": f"pvc://{names.INPUT_CLAIM}/{cache.DIRECTORY}"}
    volumes: list[Json] = [{"name": "cache", "persistentVolumeClaim": {"claimName": names.INPUT_CLAIM}}]
    mounts: list[Json] = [{"name": "cache", "mountPath": f"{names.CLAIMS_MOUNT}/{names.INPUT_CLAIM}"}]
    if (source := names.claim_of(fetch.uri)) and source != names.INPUT_CLAIM:
        volumes.append({"name": "source", "persistentVolumeClaim": {"claimName": source, "readOnly": True}})
        mounts.append({"name": "source", "mountPath": f"{names.CLAIMS_MOUNT}/{source}", "readOnly": True})
    if in_use is not None:
        digests = [digest.removeprefix("sha256:")[:_DIGITS] for digest in in_use.digests]
        spec["inUse"] = {"time": int(in_use.seen.timestamp()), "digests": digests}
    if fetch.digest:
        spec["digest"] = fetch.digest
    if fetch.format:
        spec["format"] = fetch.format
    if fetch.secret:
        spec["secret"] = fetch.secret
        # A Secret that is missing is the agent's to tell, by name: the kubelet would wait for it, ever longer.
        volumes.append({"name": "secret", "secret": {"secretName": fetch.secret, "optional": True}})
        mounts.append({"name": "secret", "mountPath": f"{names.SECRETS_MOUNT}/{fetch.secret}", "readOnly": True})
    name = f"{pods_name(job, fetch)}-{number}"
    return build(
        settings.task_pods.of(job.metadata.namespace),
        metadata=children.metadata_of(job, name, {names.LABEL_ROLE: names.ROLE_INPUT}),
        container={
            "name": names.ROLE_INPUT,
            "image": settings.agent_image,
            "args": ["fetch", "--spec", json.dumps(spec, sort_keys=True)],
            **hub_environment(settings.hub_endpoint, fetch.uri),
            "volumeMounts": mounts,
        },
        volumes=volumes,
    )
