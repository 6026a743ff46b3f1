"""What a comparison says, as a part of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

NAMES = {"ours": "aifactory", "jobset": "JobSet", "trainer": "Kubeflow Trainer"}


def section(found: Json) -> str:
    """The chapter; empty if nothing was measured."""
    if not found:
        return ""
    taken, versions = found["taken"], found["versions"]
    size = "" if found["scale"] == 1 else f", with {found['scale']:.0%} of the jobs"
    return _SECTION.format(
        jobset=versions["jobset"],
        trainer=versions["trainer"],
        lives=lives(found["scenarios"]),
        restarts=restarts(found["scenarios"]),
        taken=f"{taken['date']}, commit {taken['commit']}, {taken['cpus']} cores ({taken['model']}), "
        f"{taken['memory']} GiB, others used {taken['othersCores']} cores when it began{size}",
    )


def lives(scenarios: Json) -> str:
    """Of jobs that ran to their end."""
    rows = []
    for what, f in _measured(scenarios, "podsCreatedSeconds"):
        cpu, job = f["cpuSeconds"], f["jobSeconds"]
        rows.append(
            f"| {what} | {f['podsCreatedSeconds']:.1f} s | {f['podsRunningSeconds']:.1f} s "
            f"| {f['completeSeconds']:.1f} s | {job['p50']:.1f} s / {job['p99']:.1f} s | {f['writesPerJob']:.1f} "
            f"| {cpu['own'] + cpu['kube-controller-manager']:.1f} s | {cpu['kube-apiserver']:.1f} s |"
        )
    head = "| Jobs x pods | Client limits | Side | Last pod created | Last pod running | Last job Complete "
    head += "| Job to Complete p50 / p99 | Writes a job | CPU of controllers | CPU of API server |"
    return "\n".join([head, f"|{'---|' * 10}", *rows])


def restarts(scenarios: Json) -> str:
    """Of jobs that lost a pod."""
    rows = [
        f"| {what} | {f['restartSeconds']['p50']:.1f} s / {f['restartSeconds']['p99']:.1f} s |"
        for what, f in _measured(scenarios, "restartSeconds")
    ]
    head = "| Jobs x pods | Client limits | Side | Failed pod to all replacements p50 / p99 |"
    return "\n".join([head, f"|{'---|' * 4}", *rows])


def _measured(scenarios: Json, figure: str) -> Iterable[tuple[str, Json]]:
    """The first cells of a row, and the figures for the others."""
    for entry in scenarios.values():
        for limits, sides in entry["measured"].items():
            for side, figures in sides.items():
                if figure in figures:
                    yield f"{entry['jobs']:,} x {entry['nodes']} | {limits} | {NAMES[side]}", figures


_SECTION = """\
## Next to others

JobSet {jobset} and Kubeflow Trainer {trainer} (which makes JobSets, by its runtime for PyTorch) with the same jobs, on
the same control plane, one side after another in one run: `make bench-peers`. Each job's pods mount the same claim and
are all made again if one fails, which in theirs a failure policy has to say. Both make pods by Kubernetes' Jobs, so the
client limits of kube-controller-manager hold for them: *as shipped* leaves every limit as its project ships it;
*raised* gives all of theirs, the Job controller's included, 1,000 requests a second and, where that can be set, 50
workers. Ours has no limit of its own. Writes (leases aside) and CPU are those of all controllers that work for the jobs
from the first create on, so kube-controller-manager's too. {taken}.

{lives}

{restarts}

"""
