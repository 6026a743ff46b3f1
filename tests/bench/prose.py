"""What docs/performance.md says about the scenarios that are told in sentences: one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aifactory.serving.probe import PER_SECOND

Json = dict[str, Any]


def paragraphs(scenarios: Json) -> str:
    """The paragraphs of the scenarios that were measured."""
    return "\n\n".join(tell(scenarios[name]) for name, tell in _TELL.items() if name in scenarios)


def _paced(pace: Json) -> str:
    f = pace["paced"]
    lag, pods = f["statusLagMs"], f["jobToPodsMs"]
    return (
        f"**{pace['jobs']} one-node jobs, {pace['perSecond']:g} a second**: pod created {pods['p50']} ms (p50) and "
        f"{pods['p99']} ms (p99) after its job; status Running and Complete {lag['p50']} ms and {lag['p99']} ms "
        f"behind the pod, at most {lag['max']} ms; {f['writesPerJob']} writes a job."
    )


def _pools(pools: Json) -> str:
    found = []
    for phase, words in (("created", "created at once"), ("changed", "change to a new version of their model")):
        f = pools[phase]
        found.append(
            f"**{pools['pools']} InferencePools {words}**: last pod created after {f['lastPodSeconds']} s, "
            f"last pool serving after {f['lastServingSeconds']} s; {f['writesPerPool']} writes of ours a pool "
            f"({_writes(f)})."
        )
    found.append(f"The operator used {pools['operatorCpuSeconds']} s of CPU and {pools['peakRssMiB']} MiB for both.")
    return "\n\n".join(found)


def _steady(steady: Json) -> str:
    idle, storm, cold, lead = (steady[key] for key in ("idle", "storm", "coldStart", "leaderKilled"))
    return (
        f"**{steady['jobs']} jobs with {steady['pods']} pods at rest** for {idle['seconds']:g} s: "
        f"{_total(idle)} writes, {idle['operatorCpuSeconds']} s of CPU, {idle['rssMiB']} MiB "
        f"(peak while they were created: {steady['filled']['peakRssMiB']} MiB).\n\n"
        f"**Storm of pod statuses** that change nothing, {storm['eventsPerSecond']} a second: "
        f"{_total(storm)} writes, {storm['operatorCpuMicrosecondsPerEvent']} µs of CPU an event, "
        f"event loop late by at most {storm['loopLagP99Ms']:g} ms (p99).\n\n"
        f"**Cold start** onto them: every store complete after {cold['readySeconds']} s "
        f"({cold['readyCpuSeconds']} s of CPU), every object looked at after {cold['allReconciledCpuSeconds']} s "
        f"of CPU, {_total(cold)} writes, {cold['rssMiB']} MiB.\n\n"
        f"**Leader killed** while a pod fails: the standby's first write came {lead['firstWriteSeconds']} s later "
        f"(lease: {lead['leaseSeconds']:g} s); {lead['podsOfNewAttempt']} pods were replaced, "
        f"{lead['duplicatePods']} twice."
    )


def _reports(f: Json) -> str:
    ms, age = f["reportMs"], f["progressAgeSeconds"]
    return (
        f"**{f['jobs']} jobs of 8 pods report progress** every {f['intervalSeconds']:g} s, {f['reportsPerSecond']:g} "
        f"reports a second in all, each on a connection of its own and with a token of its pod: the operator uses "
        f"{f['operatorCores']} of a core and writes {f['statusWritesPerSecond']:g} statuses a second; a report is "
        f"answered after {ms['p50']} ms (p50) and {ms['p99']} ms (p99), progress in a status is {age['p50']} s (p50) "
        f"and at most {age['max']} s old, the event loop is late by at most {f['loopLagP99Ms']:g} ms (p99); for "
        f"{f['waitedForCpuShare']:.0%} of the time the operator was ready to run and others had the CPU."
    )


def _probes(f: Json) -> str:
    every = f["pods"] / PER_SECOND
    return (
        f"**{f['pools']} pools of {f['pods'] // f['pools']} pods are asked for their counters**, "
        f"{f['asksPerSecond']:g} pods a second: the operator uses {f['operatorCores']} of a core, and the event loop "
        f"is late by at most {f['loopLagP99Ms']:g} ms (p99). However many pods serve, no more than {PER_SECOND:g} a "
        f"second are asked, so each of these is every {every:.0f} s."
    )


def _busy(f: Json) -> str:
    alone, every = f["alone"], f["all"]
    return (
        f"**Pools whose requests a second change all the time**: one alone is told every "
        f"{alone['longestGapSeconds']:g} s at the latest; {f['pools']} of them get "
        f"{every['statusWritesPerSecond']:g} status writes a second together, in turn, for {every['operatorCores']} "
        f"of a core."
    )


def _start(f: Json) -> str:
    return (
        f"**Start onto {f['objects']} suspended jobs**: {_total_of(f['lists'])} pages of lists "
        f"({', '.join(f'{count} {what}' for what, count in f['lists'].items())}), ready after {f['readySeconds']} s, "
        f"every object looked at after {f['allReconciledCpuSeconds']} s of CPU, {_total(f)} writes, {f['rssMiB']} MiB."
    )


def _scale(f: Json) -> str:
    start, again = f["start"], f["takeOver"]
    return (
        f"**{f['jobs']:,} jobs with {f['pods']:,} pods**, in one process on an API server in memory: first decision "
        f"{start['firstDecisionSeconds']} s after the start (of these {start['makingSeconds']} s for making the pages "
        f"of {start['lists']} lists), every job looked at {f['decisions']['seconds']} s later; {f['steady']['rssMiB']} "
        f"MiB, at most {again['peakRssMiB']} MiB while everything is listed again as at a take-over, which takes "
        f"{again['seconds']} s; the event loop is late by at most {f['loopLateSeconds']} s."
    )


def _poison(poison: Json) -> str:
    alone, beside = poison["alone"], poison["beside"]
    return (
        f"**One poisoned job** with {poison['failingReconcilesPerMinute']} failing reconciles a minute: others got "
        f"their pod {beside['p50']} ms (p50) and {beside['p99']} ms (p99) after their job was created; with the "
        f"same requests sent by somebody else and no such job {alone['p50']} ms and {alone['p99']} ms."
    )


_TELL: dict[str, Callable[[Json], str]] = {
    "jobs-paced": _paced,
    "pools": _pools,
    "steady": _steady,
    "reports": _reports,
    "probes": _probes,
    "busy-pools": _busy,
    "start-4000": _start,
    "scale-100k": _scale,
    "poison": _poison,
}


def _writes(figures: Json) -> str:
    return ", ".join(f"{count} {what}" for what, count in figures["writes"].items())


def _total(figures: Json) -> int:
    return _total_of(figures["writes"])


def _total_of(counts: Json) -> int:
    return sum(counts.values())
