"""What a person sees of the local cluster: one table, and the ends of the logs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from localcluster import addons, node, processes
from localcluster.api import Json
from localcluster.bootstrap import NAMES, Cluster
from localcluster.console import CannotRun
from localcluster.layout import API


@dataclass(frozen=True)
class Report:
    text: str
    healthy: bool


def report(cluster: Cluster) -> Report:
    """Changes nothing and starts nothing."""
    rows = [("PROGRAM", "STATE", "PID", "SINCE", "LOG")]
    running = 0
    for name in NAMES:
        record = cluster.supervisor.record(name)
        running += record is not None
        since = f"{_duration(time.time() - record.started)} ago" if record else "-"
        state, pid = ("running", str(record.pid)) if record else ("stopped", "-")
        rows.append((name, state, pid, since, str(cluster.supervisor.log(name))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    healthy = False
    if cluster.layout.kubeconfig.exists():
        found = node.get(cluster.api())
        ready = node.is_ready(found)
        names = addons.names_resolve()
        healthy = running == len(NAMES) and ready and node.has_gpus(found) and names
        lines += ["", f"API server  {API.url}  (kubeconfig: {cluster.layout.kubeconfig})"]
        lines += [f"node        {'Ready' if ready else 'not Ready'}, {_gpus(found)} GPUs (not real)"]
        lines += [f"names       {'resolve' if names else 'do not resolve'}"]
    if not healthy:
        lines += ["", "To start or heal it: make cluster"]
    return Report("\n".join(lines), healthy)


def logs(cluster: Cluster, component: str | None, lines: int) -> str:
    """The last lines of one log or of all. Raises CannotRun for a program that has none."""
    found = {path.stem: path for path in cluster.supervisor.logs()}
    if component is not None:
        if component not in found:
            raise CannotRun(f"no log of '{component}'; there are: {', '.join(found) or 'none yet (make cluster)'}")
        return "\n".join(processes.last_lines(found[component], lines or 200))
    blocks = (f"== {path}\n" + "\n".join(processes.last_lines(path, lines or 10)) for path in found.values())
    return "\n\n".join(blocks) or "no logs yet: make cluster"


def _gpus(found: Json) -> str:
    return str(found.get("status", {}).get("allocatable", {}).get(node.GPU, 0))


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
