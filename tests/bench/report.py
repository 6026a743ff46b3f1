"""What a run says: a table for the terminal, and docs/performance.md with its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.peers.table import section as table_of_peers
from tests.bench.prose import paragraphs
from tests.bench.timeline import svg
from tests.bench.verdict import Verdict

Json = dict[str, Any]

QUIET_CORES = 0.2
"""What others may use without being mentioned."""

TITLES = {
    "jobs-1": "jobs of one node, pods created",
    "jobs-8": "jobs of 8 nodes, pods created",
    "gangs-8": "jobs of 8 nodes, each a gang, pods created",
    "restart": "coordinated restart, replacements created",
    "large": "one large job restarted, replacements created",
}


def table(verdicts: list[Verdict]) -> str:
    """Targets and what was measured, as Markdown that also reads well in a terminal."""
    rows = [("What", "Target", "Measured", "")]
    for verdict in verdicts:
        if verdict.value is None:
            continue
        sign = ">=" if verdict.more else "<="
        mark = "met" if verdict.met else ("not met" if verdict.in_range else "OUT OF RANGE")
        mark += "" if verdict.scale == 1.0 else ", at that size"
        size = "" if verdict.scale == 1.0 else f" (run with {verdict.scale:.0%} of them)"
        rows.append((f"{verdict.what}{size}", f"{sign} {verdict.target:g}", f"{verdict.value:g}", mark))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def sides_table(scenarios: Json) -> str:
    """Both sides of the scenarios that have two."""
    lines = [
        "| Scenario | Side | Last pod created | Last pod running | Last job Complete | Job to Complete p50 / p99 | "
        "Status behind pods p50 / p99 | Writes a job | Controller CPU | API server CPU | Peak RSS | Loop lag p99 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in scenarios.items():
        if "completeSeconds" not in figures.get("ours", {}):
            continue
        for side in ("limit", "ours"):
            f = figures[side]
            whole, lag = f["jobToCompleteMs"], f["statusLagMs"]
            rss = f"{f['peakRssMiB']:.0f} MiB" if side == "ours" else ""
            loop = f"<= {f['loopLagP99Ms']:g} ms" if side == "ours" else ""
            lines.append(
                f"| {name} ({figures['jobs']} x {figures['nodes']}) | {side} | {f['podsCreatedSeconds']} s | "
                f"{f['podsRunningSeconds']} s | {f['completeSeconds']} s | "
                f"{whole['p50'] / 1000:.1f} s / {whole['p99'] / 1000:.1f} s | "
                f"{lag['p50'] / 1000:.2f} s / {lag['p99'] / 1000:.2f} s | {f['writesPerJob']} | "
                f"{f['cpuSeconds']['controller']} s | {f['cpuSeconds']['kube-apiserver']} s | {rss} | {loop} |"
            )
    return "\n".join(lines)


def restart_table(scenarios: Json) -> str:
    lines = [
        "| Scenario | Side | Last pod created | Failed pod to all replacements p50 / p99 | Writes of the restart |",
        "|---|---|---|---|---|",
    ]
    for name in ("restart", "large"):
        if name not in scenarios:
            continue
        figures = scenarios[name]
        for side in ("limit", "ours"):
            f = figures[side]
            writes = ", ".join(f"{count} {what}" for what, count in f["restartWrites"].items())
            lines.append(
                f"| {name} ({figures['jobs']} x {figures['nodes']}) | {side} | {f['podsCreatedSeconds']} s | "
                f"{f['restartMs']['p50'] / 1000:.2f} s / {f['restartMs']['p99'] / 1000:.2f} s | {writes} |"
            )
    return "\n".join(lines)


def write_pages(
    scenarios: Json, measured: Json, verdicts: list[Verdict], docs: Path, *, peers: Json | None = None
) -> None:
    """docs/performance.md of all scenarios and of the comparison, and the pictures of what was measured now.

    Generated: edit this module, not the page.
    """
    pictures = docs / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, title in TITLES.items():
        figures = scenarios.get(name)
        if figures is None:
            continue
        full = f"{figures['jobs']} x {figures['nodes']}: {title}"
        if name in measured:
            curves = {side: measured[name][side]["timeline"] for side in ("limit", "ours")}
            (pictures / f"bench-{name}.svg").write_text(svg(full, curves))
        shown.append(f"![{full}](images/bench-{name}.svg)")
    text = _PAGE.format(
        targets=table(verdicts),
        sides=sides_table(scenarios),
        restarts=restart_table(scenarios),
        others=paragraphs(scenarios),
        peers=table_of_peers(peers or {}),
        pictures="\n\n".join(shown),
        taken=_taken(scenarios),
        warning=_warning(scenarios),
    )
    (docs / "performance.md").write_text(text)


def _taken(scenarios: Json) -> str:
    """Each scenario may have been run by itself, on another day, of another commit."""
    rows = ((name, figures["taken"]) for name, figures in scenarios.items())
    return "\n".join(
        f"| {name} | {taken['date']} | {taken['commit']} | {taken['cpus']} cores ({taken['model']}), "
        f"{taken['memory']} GiB | {taken['kubernetes']}, {taken['python']} | {taken['othersCores']} |"
        for name, taken in rows
    )


def _warning(scenarios: Json) -> str:
    """Times mean little when others used the machine as well."""
    busy = [name for name, figures in scenarios.items() if figures["taken"]["othersCores"] > QUIET_CORES]
    if not busy:
        return ""
    return (
        f"\n**Not a quiet machine.** Others used some of the cores before {', '.join(busy)}: counts stand\n"
        "as they are, ratios of CPU time roughly, and times and ratios of times say little. Run it again in quiet.\n"
    )


_PAGE = """\
# Performance

Generated by `make bench` from docs/performance.json; do not edit. Compare the ratios, not the seconds.

| Scenario | Measured | Commit | Machine | Kubernetes, Python | Cores others used when it began |
|---|---|---|---|---|---|
{taken}
{warning}
**How it is measured.** Real etcd (without fsync), API server, controllers and scheduler (client limits raised) on one
machine, fake nodes by kwok: pods run as soon as they are bound and, where jobs are to end, succeed after a second.
The *limit* is a program that knows in advance every object the operator will make, keeps 32 requests in flight and
decides nothing; as any controller it learns of a job from a watch. It takes its turn on a fresh control plane of its
own. On both sides the same user creates jobs with 32 requests in flight of his own. The operator runs as it does in a
pod, with the rights of the chart. Times and write counts come from the API server's audit log. Jobs mount a claim that
the user brings; without one, the operator writes one object more for each job. jobs-1 is run five times on each side in
turn, jobs-8, gangs-8, restart and large three times: ratios are medians.

## Targets

{targets}

## Jobs from create to Complete

{sides}

Half-way states may wait 1.8 s for what else changes soon, and up to 30 s while the API server takes more than 30 ms for
a write (docs/architecture.md); that is part of *status behind pods*. On a machine this small both sides wait for the
API server most of the time, and the status waits with them: a burst like this is the one case in which a status may be
more than two seconds old. What grows on a slower machine is the number of writes: where pods take longer than half a
minute to run, each job tells of its waiting pods once, so a job takes up to one write more.

{pictures}

## Restarts

{restarts}

## Rest, storms, reports, probes, starts and failures

{others}

{peers}## Run it

`make bench` runs everything; `make bench SCENARIO=jobs-1` one scenario, and keeps the figures of the others. It needs
the programs of `make cluster` and no cluster. Expected ranges are in `tests/bench/expected.yaml`; a figure outside its
range fails the run. `make bench-peers` builds the controllers of JobSet and Kubeflow Trainer, once, and has them do the
same jobs beside ours.
"""
