"""How the processes of a job find each other and end: torchrun's PET_* (one for each flag), or the plain variables."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from aifactory.api import names
from aifactory.api.trainingjob import TrainingJob

GRACE_SECONDS: Final = 120
"""Between SIGTERM and SIGKILL where the template says nothing: Kubernetes' 30 s cut the save of a checkpoint short."""
START_SECONDS: Final = 1800
"""How long a process waits for the others: as long as a node may take to pull a large image. torchrun's own 60 s for
the first contact end the nodes that are ready, and use up restarts, while node 0 still starts."""
_HOST_PORTS: Final = (20_000, 10_000)
"""First and number of the ports on the host's network: below those of NodePorts and of outgoing connections."""


def pod_name(job: str, index: int, attempt: int) -> str:
    """Name of a training pod, and its host name."""
    return f"{job}-{index}-{attempt}"


def service_name(job: str) -> str:
    """Name of the headless Service; not the job's own, which an InferencePool of that name would want for its."""
    return f"{job}-nodes"


def port(job: TrainingJob) -> int:
    """Where node 0 listens: on the host's network, which jobs share, a port of the job's own."""
    if not job.spec.template.raw_spec().get("hostNetwork"):
        return names.RENDEZVOUS_PORT
    first, count = _HOST_PORTS
    return first + crc32(job.metadata.uid.encode()) % count


def environment(job: TrainingJob, index: int, attempt: int, processes: int) -> dict[str, str]:
    """What the operator sets, and nobody else."""
    name, count = job.metadata.name, job.spec.nodes.count
    first = "localhost" if count == 1 else f"{pod_name(name, 0, attempt)}.{service_name(name)}"
    if job.spec.launcher == "none":
        return {
            "MASTER_ADDR": first,
            "MASTER_PORT": str(port(job)),
            "WORLD_SIZE": str(count * processes),
            "NODE_RANK": str(index),
            # `@record` of torch writes the exception there. Not under torchrun, whose agent removes the file first,
            # which nobody may do to a pod's termination log; there the worker writes it itself, or the log's end is
            # taken.
            "TORCHELASTIC_ERROR_FILE": "/dev/termination-log",
        }
    return {
        "PET_NNODES": str(count),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_RDZV_BACKEND": "c10d",
        # One node takes any port that is free, as `torchrun --standalone` does.
        "PET_RDZV_ENDPOINT": f"{first}:{port(job) if count > 1 else 0}",
        # The attempt is part of the id, so that a process never joins the store of an attempt that is ending.
        "PET_RDZV_ID": f"{job.metadata.uid}-{attempt}",
        "PET_MAX_RESTARTS": "0",
    }


def environment_alone(job: TrainingJob) -> dict[str, str]:
    """The same for one process that looks for no other."""
    if job.spec.launcher == "none":
        return {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(names.RENDEZVOUS_PORT),
            "WORLD_SIZE": "1",
            "NODE_RANK": "0",
            "TORCHELASTIC_ERROR_FILE": "/dev/termination-log",
        }
    return {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": "localhost:0",
        "PET_RDZV_ID": f"{job.metadata.uid}-check",
        "PET_MAX_RESTARTS": "0",
    }


def optional_environment(job: TrainingJob) -> dict[str, str]:
    """What a template may set otherwise."""
    if job.spec.launcher == "none":
        return {}
    grace = job.spec.template.raw_spec().get("terminationGracePeriodSeconds", GRACE_SECONDS)
    wait = grace - max(1, grace // 12) if isinstance(grace, int) else GRACE_SECONDS
    return {
        "PET_RDZV_CONF": f"join_timeout={START_SECONDS},read_timeout={START_SECONDS}",
        # torchrun ends its workers itself, and kills them after 30 s whatever the pod's grace; it needs a little too.
        "PET_SHUTDOWN_TIMEOUT": str(max(1, wait)),
    }
