"""Metrics pages of real processes, and what docs/metrics.md says of them."""

from __future__ import annotations

import re
import urllib.request

from tests.support.kubectl import ROOT

BESIDE = ("process_", "python_")
"""What prometheus_client tells of every process; beside each counter and histogram it tells when it began."""


def fetch(address: str, port: int) -> str:
    """The metrics page at an address."""
    host = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def types(page: str, prefix: str = "") -> dict[str, str]:
    """Metrics on a page that begin with a prefix, each with its type."""
    found = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    return {
        name: kind
        for name, kind in found.items()
        if name.startswith(prefix) and not name.startswith(BESIDE) and not name.endswith("_created")
    }


def documented(*sections: str) -> dict[str, str]:
    """Metrics in sections of docs/metrics.md, each with its type."""
    text = (ROOT / "docs/metrics.md").read_text()
    parts = (text.split(f"\n## {title}\n")[1].split("\n## ")[0] for title in sections)
    return {name: kind for part in parts for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", part, re.MULTILINE)}


def value(page: str, metric: str, /, **labels: str) -> float | None:
    """A sample's value; None if there is no such sample."""
    for line in page.splitlines():
        found = re.fullmatch(rf"{metric}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{label}="{text}"' in (found[1] or "") for label, text in labels.items()):
            return float(found[2])
    return None
