"""Who gets the requests: the Service, and what becomes of a revision that is wanted and not yet served."""

from __future__ import annotations

from enum import Enum

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, InferencePoolStatus
from aifactory.engine.podspec import Json
from aifactory.serving.objects import metadata, selector


class Course(Enum):
    """What is to be done about the wanted revision."""

    STEADY = "it takes the traffic, or is the first one"
    HELD_BACK = "it has failed before, and nothing has changed since"
    ROLL_OUT = "it comes up beside the one that takes the traffic"


def course(status: InferencePoolStatus, revision: str) -> Course:
    """What is to be done about the wanted revision."""
    if stable_revision(status) in ("", revision):
        return Course.STEADY
    if status.rollout is not None and status.rollout.failed_revision == revision:
        return Course.HELD_BACK
    return Course.ROLL_OUT


def stable_revision(status: InferencePoolStatus) -> str:
    """The revision that takes the traffic; empty when there is none yet."""
    return status.stable.revision if status.stable is not None else ""


def service(pool: InferencePool) -> Json:
    """The address of the pool: every ready pod, whatever its revision."""
    ports = [
        {"name": "http", "port": names.TRITON_HTTP_PORT, "targetPort": "http", "appProtocol": "http"},
        {"name": "grpc", "port": names.TRITON_GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pool, pool.metadata.name, {}),
        "spec": {"selector": selector(pool), "ports": ports},
    }
