"""Live progress a person can follow, until the pool serves or something needs a person."""

from __future__ import annotations

import time
from typing import Any

from demo.tools import DemoError, Kube

DEADLINE_SECONDS = 1800
STALLED_GRACE_SECONDS = 60
"""A stalled object may recover by itself (an image that is being pushed); longer than this it needs a person."""


def until_served(kube: Kube, *, job: str, pool: str, started: float, result: bool = False) -> None:
    """Print a line whenever something changed, until the pool is Ready.

    Args:
        result: until it serves what the job has made, not only what there was before.

    Raises:
        DemoError: the job failed, or an object stayed stalled, with the object's own message.
    """
    shown: dict[str, str] = {}
    stalled_since: dict[str, float] = {}
    while True:
        training, serving = kube.get("tjob", job), kube.get("ipool", pool)
        _show(shown, started, f"trainingjob/{job}", _training_line(training))
        _show(shown, started, f"inferencepool/{pool}", _serving_line(serving))
        if _condition(training, "Failed").get("status") == "True":
            raise DemoError(f"trainingjob/{job} failed: {_condition(training, 'Failed')['message']}")
        for name, found in ((f"trainingjob/{job}", training), (f"inferencepool/{pool}", serving)):
            _check_stalled(name, found, stalled_since)
        ready = _condition(serving, "Ready").get("status") == "True"
        if ready and (not result or _serves_result(training, serving)):
            return
        if time.monotonic() - started > DEADLINE_SECONDS:
            raise DemoError(f"inferencepool/{pool} is not ready: {_condition(serving, 'Ready').get('message')}")
        time.sleep(0.5)


def lineage(kube: Kube, pool: str, *names: str) -> dict[str, str]:
    """These metrics, which training recorded with the version that a pool serves."""
    resolved = kube.get("ipool", pool)["status"]["resolved"][0]["modelVersion"]
    metrics = kube.get("mver", resolved)["spec"]["lineage"]["metrics"]
    found = {entry["name"]: entry["value"] for entry in metrics}
    missing = set(names) - found.keys()
    if missing:
        raise DemoError(f"modelversion/{resolved} has no {', '.join(sorted(missing))} in its lineage")
    return found


def _serves_result(training: dict[str, Any], serving: dict[str, Any]) -> bool:
    """Whether what the job has made takes all of the pool's traffic."""
    made = str((training.get("status", {}).get("output") or {}).get("modelVersion") or "")
    status = serving.get("status", {})
    complete = (status.get("rollout") or {}).get("phase") == "Complete"
    return bool(made) and complete and made.rpartition("-v")[2] == status.get("version")


def _show(shown: dict[str, str], started: float, name: str, line: str) -> None:
    if line and shown.get(name) != line:
        shown[name] = line
        print(f"  {time.monotonic() - started:5.1f}s  {name:<24} {line}", flush=True)


def _training_line(found: dict[str, Any]) -> str:
    status = found.get("status", {})
    if not status.get("phase"):
        return ""
    progress, nodes = status.get("progress") or {}, status.get("nodes") or {}
    parts = [f"{status['phase']:<11} pods {nodes.get('summary', '-')}"]
    if progress:
        parts.append(f"{progress.get('summary', ''):>4}  loss {progress.get('loss', '-')}")
        parts.append(f"{progress.get('tokensPerSecond', '-')} tokens/s")
    restarts = (status.get("restarts") or {}).get("total", 0)
    parts.append(f"restarts {restarts}")
    if status["phase"] not in ("Running", "Succeeded"):
        parts.append(_condition(found, "Ready").get("message", ""))
    return "  ".join(part for part in parts if part)


def _serving_line(found: dict[str, Any]) -> str:
    status = found.get("status", {})
    if not status.get("phase"):
        return ""
    line = f"{status['phase']:<11} pods {status.get('summary', '-')}"
    return f"{line}  {_condition(found, 'Ready').get('message', '')}"


def _check_stalled(name: str, found: dict[str, Any], since: dict[str, float]) -> None:
    stalled = _condition(found, "Stalled")
    if stalled.get("status") != "True":
        since.pop(name, None)
        return
    if time.monotonic() - since.setdefault(name, time.monotonic()) > STALLED_GRACE_SECONDS:
        raise DemoError(f"{name} is stalled: {stalled['reason']}: {stalled['message']}")


def _condition(found: dict[str, Any], type_: str) -> dict[str, Any]:
    for entry in found.get("status", {}).get("conditions", ()):
        if entry["type"] == type_:
            return dict(entry)
    return {}
