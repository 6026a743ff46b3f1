"""Training programs for the AI factory, and what any PyTorch program needs to run well in it.

Three lines make a training script restartable and visible (see README.md):

    from aifactory_trainer import Run
    run = Run(model=model, optimizer=optimizer)
    for step in run.steps(1000):

Role: the side of the contract that runs inside the training pod. It depends on torch and safetensors, knows
nothing of Kubernetes beyond environment variables, files and signals, and works the same without a cluster.
"""

from aifactory_trainer.checkpoint import CheckpointError
from aifactory_trainer.distributed import World, start
from aifactory_trainer.errors import give_up
from aifactory_trainer.export import export_huggingface, export_torch
from aifactory_trainer.run import NotFiniteError, Run

__all__ = [
    "CheckpointError",
    "NotFiniteError",
    "Run",
    "World",
    "export_huggingface",
    "export_torch",
    "give_up",
    "start",
]
