"""The factory converges and harms nothing, whatever users, programs, nodes and the network do.

`AIFACTORY_SIM_STEPS` sets the number of steps (default 50,000), `AIFACTORY_SIM_SEED` the first seed (default 0: the
same steps each time; nights take another).
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.sim import campaign
from tests.sim.machine import wanted_steps


@pytest.mark.timeout(36_000)
def test_every_interleaving_converges(capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("AIFACTORY_SIM_SEED", "0"))
    reports = campaign.run(seed, wanted_steps())
    steps: Counter[str] = Counter()
    for report in reports:
        steps.update(report.steps)
    cpu = sum(report.cpu_seconds for report in reports)
    seeds = ", ".join(f"{report.seeds.start} to {report.seeds[-1]}" for report in reports)
    with capsys.disabled():
        print(f"\nsim: {sum(steps.values())} steps in {cpu:.0f} CPU seconds, seeds {seeds}")
    failures = [report.failure for report in reports if report.failure]
    assert not failures, "\n\n".join(failures)
    assert len(steps) >= 40 or sum(steps.values()) < 10_000, f"too few kinds of steps: {sorted(steps)}"
