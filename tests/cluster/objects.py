"""Objects that tests apply, each as short as a user would write it."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

HELPERS = "app=for-a-test"
"""Label of pods that tests make beside those of the operator."""

TRAINER = "aifactory/trainer:0.1.0"
AGENT = "aifactory/agent:0.1.0"


def labels() -> Json:
    """See HELPERS."""
    return dict([HELPERS.split("=")])


UNTIL_TOLD = ["sh", "-c", "trap 'exit 143' TERM; sleep 3600 & wait"]
"""Runs until SIGTERM. `sleep` alone, as process 1, does not hear it and holds its pod for the whole grace period."""


def job(name: str, command: list[str], *, nodes: int = 1, image: str = TRAINER, **spec: Any) -> Json:
    """A TrainingJob that runs a command."""
    trainer: Json = {"name": "trainer", "image": image, "command": command}
    trainer["resources"] = {"limits": {"nvidia.com/gpu": spec.pop("gpus", 1)}}
    return {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"nodes": {"count": nodes}, "template": {"spec": {"containers": [trainer]}}, **spec},
    }


def training_job(name: str, *, steps: int, nodes: int, output: str | None = None, args: tuple[str, ...] = ()) -> Json:
    """A TrainingJob that trains the small GPT."""
    command = ["torchrun", "-m", "aifactory_trainer.pretrain", f"--steps={steps}", *args]
    spec: Json = {}
    if output is not None:
        spec["output"] = {"model": {"name": output, "format": "huggingface"}}
    return job(name, command, nodes=nodes, **spec)


def python_job(name: str, program: str, **spec: Any) -> Json:
    """A TrainingJob that runs a few lines of Python without torch."""
    return job(name, ["python3", "-c", program], **spec)


SOON = {"preStopSeconds": 5, "timeoutSeconds": 10}
"""A pool's drain where it is not what a test is about: a namespace waits half of its pods' grace period at least."""


def pool(name: str, model: str, *, version: int | None = None, replicas: int = 1, **spec: Any) -> Json:
    """An InferencePool, pinned or following the newest version."""
    wish: Json = {"name": model}
    wish |= {"track": "Latest"} if version is None else {"version": version}
    return {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {"models": [wish], "replicas": replicas, "drain": SOON, **spec},
    }


def copy_version(found: Json, version: int, **changes: Any) -> Json:
    """A ModelVersion of the same artifact with another number."""
    spec = {key: value for key, value in found["spec"].items() if key != "lineage"}
    return {
        "apiVersion": found["apiVersion"],
        "kind": "ModelVersion",
        "metadata": {"name": f"{spec['model']}-v{version}"},
        "spec": {**spec, "version": version, **changes},
    }
