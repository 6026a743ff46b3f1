"""Writes every generated file, or with --check fails when one is out of date.

Generated: `crds/`, the chart's copies of them and its RBAC rules, `docs/reasons.md`, `docs/values.md`. Run by
`make generate` and, with --check, by `make verify`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from aifactory.api import crd
from aifactory.api.reasons import Reason
from aifactory.app import wiring
from aifactory.app.domains import DOMAINS

ROOT = Path(__file__).resolve().parent.parent
KEEP = {"helm.sh/resource-policy": "keep"}


def generated() -> dict[Path, str]:
    """Every generated file with its content."""
    files: dict[Path, str] = {}
    for definition in crd.KINDS:
        name = f"{definition.crd_name}.yaml"
        files[ROOT / "crds" / name] = crd.to_yaml(crd.render(definition))
        kept = crd.render(definition)
        kept["metadata"]["annotations"] = KEEP
        files[ROOT / "charts/aifactory/crds-generated" / name] = crd.to_yaml(kept)
    files[ROOT / "charts/aifactory/templates/_rules.tpl"] = rbac_rules()
    files[ROOT / "docs/reasons.md"] = reasons_page()
    files[ROOT / "docs/values.md"] = values_page()
    return files


def rbac_rules() -> str:
    """The rules of the operator's Role, from what the domains declare."""
    lines = [
        "{{/* Generated from the domains' declarations by `make generate`. Do not edit. */}}",
        '{{- define "aifactory.rules" -}}',
    ]
    for rule in wiring.rbac_rules(DOMAINS):
        groups, resources, verbs = (", ".join(rule[part]) or '""' for part in ("apiGroups", "resources", "verbs"))
        lines += [f"- apiGroups: [{groups}]", f"  resources: [{resources}]", f"  verbs: [{verbs}]"]
    return "\n".join([*lines, "{{- end -}}"]) + "\n"


def reasons_page() -> str:
    """A table of every condition reason and one of every phase, with what a person does about it."""
    advice = yaml.safe_load((ROOT / "docs/advice.yaml").read_text())
    silent = {str(reason) for reason in Reason} ^ set(advice["reasons"])
    if silent:
        raise SystemExit(
            f"docs/advice.yaml must have what is in api/reasons.py and no more: {', '.join(sorted(silent))}"
        )
    lines = ["# Condition reasons, and what to do about them", "", advice["head"]]
    lines += ["## Reasons", "", "| reason | what it means | what to do |", "|---|---|---|"]
    lines += [f"| `{reason}` | {reason.sentence} | {advice['reasons'][reason]} |" for reason in sorted(Reason, key=str)]
    for kind, phases in advice["phases"].items():
        lines += ["", f"## Phases of {kind}s", "", "| phase | what it means |", "|---|---|"]
        lines += [f"| `{phase}` | {words} |" for phase, words in phases.items()]
    return "\n".join([*lines, "", advice["tail"]])


def values_page() -> str:
    """A table of the chart's values, from the comments above them."""
    rows: list[str] = []
    comment: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in (ROOT / "charts/aifactory/values.yaml").read_text().splitlines()[1:]:
        match = re.match(r"^( *)([A-Za-z]+):\s*(.*)$", line)
        if line.strip().startswith("#"):
            comment.append(line.strip().lstrip("# "))
        elif match and (comment or not match.group(3)):
            indent, key, value = len(match.group(1)), match.group(2), match.group(3)
            parents = [(depth, name) for depth, name in parents if depth < indent]
            path = ".".join([*(name for _, name in parents), key])
            if value:
                rows.append(f"| `{path}` | `{value}` | {' '.join(comment)} |")
            elif not _has_children(path):
                raise SystemExit(f"values.yaml: {path} has neither a value nor keys below it")
            else:
                rows.append(f"| `{path}` | | {' '.join(comment)} |")
            parents.append((indent, key))
            comment = []
    head = [
        "# Values of the Helm chart",
        "",
        "From `charts/aifactory/values.yaml`.",
        "",
        "| value | default | what it does |",
    ]
    return "\n".join([*head, "|---|---|---|", *rows]) + "\n"


def _has_children(path: str) -> bool:
    node = yaml.safe_load((ROOT / "charts/aifactory/values.yaml").read_text())
    for part in path.split("."):
        node = node[part]
    return isinstance(node, dict) and bool(node)


def main() -> int:
    """Write the files, or compare them."""
    stale = []
    for path, content in generated().items():
        if path.exists() and path.read_text() == content:
            continue
        if "--check" in sys.argv:
            stale.append(str(path.relative_to(ROOT)))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"wrote {path.relative_to(ROOT)}")
    if stale:
        print(f"out of date: {', '.join(stale)}; run: make generate", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
