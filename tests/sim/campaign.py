"""Running the state machine for a number of steps, on every core, repeatably.

A round is one run of hypothesis with its own seed. What fails is told with the seed of its round:
`AIFACTORY_SIM_SEED=<seed> AIFACTORY_SIM_STEPS=1` runs that round alone, and with `AIFACTORY_SIM_SHRINK=1` hypothesis
looks for a shorter way to the same failure (minutes).
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sim.machine import Machine

EXAMPLES_PER_ROUND = 25
STEPS_PER_EXAMPLE = 75
SHARD_SEEDS = 1_000_000
"""Distance between the first seeds of two processes."""


@dataclass(frozen=True)
class Report:
    """What a process has done."""

    steps: dict[str, int]
    seeds: range
    """Of its rounds."""
    cpu_seconds: float
    failure: str = ""


def run(first_seed: int, steps: int) -> list[Report]:
    """Make at least this many steps, shared among processes; ends early where something fails."""
    shards = max(1, min(os.cpu_count() or 1, 1 + steps // 2000))
    # The order of sets of strings must not differ from run to run, or a seed would mean nothing.
    os.environ["PYTHONHASHSEED"] = "0"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(shards, mp_context=context) as pool:
        jobs = [pool.submit(shard, first_seed + n * SHARD_SEEDS, -(-steps // shards)) for n in range(shards)]
        return [job.result() for job in jobs]


def shard(first_seed: int, steps: int) -> Report:
    """Rounds one after another, in this process."""
    logging.getLogger("aifactory").setLevel(logging.WARNING)
    logging.getLogger("aifactory").propagate = False
    gc.set_threshold(50_000, 20, 100)  # as the operator does; a sixth of the time otherwise
    started = time.process_time()
    round_seed, failure = first_seed, ""
    while not failure and sum(Machine.steps.values()) < steps:
        if failure := _round(round_seed):
            hint = f"AIFACTORY_SIM_SEED={round_seed} AIFACTORY_SIM_STEPS=1 .venv/bin/pytest tests/sim -k machine"
            failure = f"{failure}\nTo repeat it: {hint}"
        round_seed += 1
    return Report(dict(Machine.steps), range(first_seed, round_seed), time.process_time() - started, failure)


def _round(round_seed: int) -> str:
    phases = [Phase.generate, Phase.shrink] if os.environ.get("AIFACTORY_SIM_SHRINK") else [Phase.generate]
    chosen = settings(
        max_examples=EXAMPLES_PER_ROUND,
        stateful_step_count=STEPS_PER_EXAMPLE,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(round_seed)(Machine), settings=chosen)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error))
    return ""
