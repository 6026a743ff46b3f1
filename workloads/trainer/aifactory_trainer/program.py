"""What the training programs have in common as commands: options, complaints about them, and the end.

What always holds: a complaint about an option reaches the job's status, and a program that is done ends with 0.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from aifactory_contract.errors import FactoryError
from aifactory_trainer import ahead, errors
from aifactory_trainer.checkpoint import CheckpointError
from aifactory_trainer.distributed import World, rank_and_size, start

log = logging.getLogger("aifactory")


class BadInputError(ValueError):
    """What the user gave is no good, and a restart would end the same; the message says what, and the way out."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint also reaches the job's status."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        errors.record(f"ArgumentError: {message}", code=2)
        super().error(message)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, it is {text}")
    return value


def rate(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number above 0, it is {text}")
    return value


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = rate(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, it is {text}")
    return value


def carry_out(work: Callable[[World], None], look: Callable[[World], None]) -> None:
    """Join the other processes and do the work. What is wrong with the user's inputs ends the job without restarts.

    Args:
        work: the program.
        look: what it does instead where it is asked ahead of training whether anything is in the way. It gets the
            first of the processes that are to come, alone.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if (pods := ahead.coming()) is not None:
            began = time.monotonic()
            if rank_and_size(os.environ)[0] == 0:  # a command may start several all the same
                look(pods.world)
                log.info("looked in %.1f s: nothing is in the way", time.monotonic() - began)
            return
        world = start()
        if world.rank != 0:
            log.setLevel(logging.WARNING)
        work(world)
    except (BadInputError, CheckpointError, FactoryError) as error:
        errors.give_up(str(error))


def find(name: str, option: str) -> Path:
    """A path as it is, else the job's input of this name.

    Raises:
        BadInputError: there is neither.
    """
    inputs = Path(os.environ.get("AIFACTORY_INPUTS") or "inputs")
    for path in (Path(name), inputs / name):
        if path.exists():
            return path
    there = ", ".join(sorted(path.name for path in inputs.iterdir())) if inputs.is_dir() else ""
    raise BadInputError(
        f"{option} {name}: there is no such file or directory, and no input of this name "
        f"(spec.inputs has {there or 'none'})"
    )


def leave() -> NoReturn:
    """End the process with 0 now that everything it was to make is on the disk.

    The ordinary end takes PyTorch's threads down in an order that now and then aborts the process (SIGABRT, `terminate
    called without an active exception`). To a launcher that is a failed rank: all would train again from the last
    checkpoint, for nothing.
    """
    atexit._run_exitfuncs()  # the last progress report
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
