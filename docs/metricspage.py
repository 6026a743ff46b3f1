"""docs/metrics.md: every metric of ours with type, labels and meaning, read from the code that makes it; the alerts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from aifactory.app.domains import DOMAINS
from aifactory.engine import objectmetrics
from aifactory.kube import metrics as _  # noqa: F401 (registers the operator's own)

ROOT = Path(__file__).resolve().parent.parent
for workload in ("contract", "agent", "server"):
    sys.path.append(str(ROOT / "workloads" / workload))

from aifactory_agent.serve.metrics import Metrics  # noqa: E402
from aifactory_server import counters  # noqa: E402

ALERTS = ROOT / "charts/aifactory/monitoring/alerts.yaml"
Row = tuple[str, str, str, str]
"""Name, type, labels, meaning."""


def of_registry(registry: CollectorRegistry) -> list[Row]:
    """What a registry tells. What comes with prometheus_client (process_, python_) is left out."""
    found = []
    for collector in registry._collector_to_names:  # its only way to a metric's labels
        labels = " ".join(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if not name.startswith(("process_", "python_")):
                found.append((name, family.type, labels, family.documentation))
    return sorted(found)


def of_operator() -> list[Row]:
    """The operator's process."""
    return of_registry(REGISTRY)


def of_objects() -> list[Row]:
    """Told of objects by the replica of the operator that leads."""
    return [(each.name, each.type, each.labels, each.help) for each in objectmetrics.families(DOMAINS)]


def of_agent() -> list[Row]:
    """The agent beside each Triton."""
    return of_registry(Metrics()._registry)


def of_engines() -> list[Row]:
    """Our back ends, among Triton's own metrics."""
    return [(name, kind, "model version", text) for name, (kind, text) in sorted(counters.KINDS.items())]


def rendered() -> str:
    """The page."""
    text = (ROOT / "docs/metrics.head.txt").read_text()
    for mark, rows in {
        "operator": of_operator(),
        "objects": of_objects(),
        "agent": of_agent(),
        "engines": of_engines(),
    }.items():
        text = text.replace(f"<!-- {mark} -->", "\n".join(_table(rows)))
    return text.replace("<!-- alerts -->", "\n".join(_alerts()))


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, text in rows:
        told = ", ".join(f"`{label}`" for label in labels.split())
        lines.append(f"| `{name}` | {kind} | {told} | {text.rstrip('.')}. |")
    return lines


def _alerts() -> list[str]:
    lines: list[str] = []
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            told = rule["annotations"]
            wait = f", for {rule['for']}" if "for" in rule else ""
            summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", told["summary"]).replace("{{ $value }}", "*n*")
            lines += [f"### {rule['alert']}", "", f"{rule['labels']['severity'].title()}{wait}: {summary}.", ""]
            advice = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", told["description"])
            lines += [advice, "", "```promql", rule["expr"].strip(), "```", ""]
    return lines[:-1]
