"""What a program looks at ahead of training: in a pod that has no GPU, before pods that have one are made.

Role: whether it is asked for (AIFACTORY_CHECK), and what the pods that are to come will be. The programs do the
looking: what they do before they load weights, which needs none, and then they end.

What always holds: nothing is written but last words, and no weights are read or made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aifactory_trainer.checkpoint import CheckpointStore, check_facts
from aifactory_trainer.distributed import World
from aifactory_trainer.environment import Environment

VARIABLE = "AIFACTORY_CHECK"
"""A JSON object. It is set where the program is to look and not to train."""


@dataclass(frozen=True, slots=True)
class Coming:
    """The processes that are to train.

    Attributes:
        processes: of all pods together.
        device: what each computes on, as torch calls it.
        memory: bytes that each has there; None: it is not known.
    """

    processes: int
    device: torch.device
    memory: int | None

    @property
    def world(self) -> World:
        """The first of them."""
        return World(0, self.processes, self.device)


def coming(env: Mapping[str, str] = os.environ) -> Coming | None:
    """What is to come; None where the program is to train.

    Raises:
        ValueError: the variable is no JSON object with these fields.
    """
    text = env.get(VARIABLE)
    if not text:
        return None
    try:
        told = json.loads(text)
        memory = told.get("memoryBytes")
        processes, device = int(told.get("processes", 1)), torch.device(told.get("device", "cpu"))
        return Coming(processes, device, None if memory is None else int(memory))
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f'{VARIABLE} must be like {{"processes": 8, "device": "cuda", "memoryBytes": 85899345920}}, it is {text!r}'
        ) from error


def check_checkpoint(kind: str, facts: Mapping[str, object]) -> None:
    """Whether the newest checkpoint of a `Run`, if there is one, could be taken up with these facts.

    Raises:
        CheckpointError: it could not.
    """
    found = CheckpointStore(Environment.read().checkpoints).peek(kind)
    if found is not None:
        check_facts(found.about.get("facts", {}), json.loads(json.dumps(dict(facts))), found.path)
