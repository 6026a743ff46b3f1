"""The pages for people who run it say what is true: rights, policy, values, metrics, ports and links are compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.api import names
from aifactory.app import wiring
from aifactory.app.domains import DOMAINS
from aifactory.engine import asking, taskpods
from aifactory.kube import places
from aifactory.kube.depth import MAX_DEPTH
from aifactory.serving import probe
from aifactory.training import rendezvous, reports
from tests.support.exposition import documented, types

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/aifactory"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("workloads/*/README.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def section(name: str, title: str) -> str:
    return page(name).split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without the heads."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= {"-"}]
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_ours_is_known(path: Path) -> None:
    """Labels, annotations and API groups: everything that begins with our domain."""
    known = " ".join(source.read_text() for source in (ROOT / "operator/aifactory").rglob("*.py"))
    known += " ".join(source.read_text() for source in CHART.rglob("*.yaml"))
    known = re.sub(r"\{(names\.)?GROUP\}", names.GROUP, known)
    for name in re.findall(r"(?<![./])aifactory\.dev/[a-z0-9-]+", path.read_text()):
        assert re.search(rf"{re.escape(name)}(?![a-z0-9-])", known), name


@pytest.mark.parametrize("name", ["install", "security", "storage", "upgrade", "reasons", "images"])
def test_every_value_of_the_chart_is_there(name: str) -> None:
    values: Any = yaml.safe_load((CHART / "values.yaml").read_text())
    text = page(name)
    told = set(re.findall(r"--set ([A-Za-z.]+)=", text)) | set(re.findall(r"`([a-z][A-Za-z]+\.[A-Za-z.]+)`", text))
    open_ended = {
        "taskPods.defaults": taskpods.TaskPodDefaults.model_fields,
        "taskPods.defaults.validation": taskpods.ValidationDefaults.model_fields,
    }
    for path in told:
        above, _, last = path.rpartition(".")
        if above in open_ended:
            assert last in {field.alias or name for name, field in open_ended[above].items()}, path
        elif path.partition(".")[0] in values:
            node = values
            for part in path.split("."):
                assert part in node, path
                node = node[part]


def test_the_operators_rights_are_those_it_has() -> None:
    told = {
        ("" if group == "core" else group.strip("`"), resource.strip("`")): verbs.split(", ")
        for group, resource, verbs, _ in (
            row for row in rows(section("security", "What the operator may do")) if len(row) == 4
        )
    }
    given = {(rule["apiGroups"][0], rule["resources"][0]): rule["verbs"] for rule in wiring.rbac_rules(DOMAINS)}
    assert told == given
    roles = (CHART / "templates/rbac.yaml").read_text()
    assert re.findall(r"resources: \[(.*)\]", roles) == ["tokenreviews", "leases", "leases", "events"]


def test_what_a_template_may_not_ask_for_is_what_the_policy_looks_at() -> None:
    policy = (CHART / "templates/author-policy.yaml").read_text()
    validations = policy.split("  validations:\n")[1].split("\n---\n")[0]
    told = section("security", "What a template may not ask for")
    fields = [name for row in rows(told) for name in re.findall(r"`(\w+)`", row[0])]
    assert all(field in validations or field in policy for field in fields)
    assert sum(line.startswith("  - expression") for line in validations.splitlines()) == len(rows(told))
    classes = re.findall(r"'(system-[a-z-]+)'", policy)
    assert all(f"`{name}`" in told for name in classes)


def test_shares_and_limits() -> None:
    told = section("security", "Fair shares")
    assert places.SHARE == 3
    assert "fewer than three" in told
    assert f"{reports.MAX_REVIEWS} tokens are reviewed" in told
    assert (reports.TOKEN_CACHE_SECONDS, reports.REFUSED_CACHE_SECONDS) == (300, 10)
    assert f"{probe.PER_SECOND:.0f} a second, {probe.FIGURES_PER_SECOND:.0f} pools a second" in told
    assert f"{asking.MAX_BODY_BYTES // 1024} KiB" in told
    assert f"{MAX_DEPTH} levels" in told


def test_sizes_of_what_the_operator_adds() -> None:
    asked, most = taskpods.RESOURCES["requests"], taskpods.RESOURCES["limits"]
    told = f"{asked['cpu']} CPU and {asked['memory']}, at most {most['cpu']} CPU and {most['memory']}"
    assert told in section("install", "How large")


def test_ports() -> None:
    told = section("install", "Network")
    ports = {int(port) for row in rows(told) for port in re.findall(r"\b\d{4,5}\b", row[2])}
    ours = {names.TRITON_HTTP_PORT, names.TRITON_GRPC_PORT, names.TRITON_METRICS_PORT, names.AGENT_PORT}
    ours |= {names.OPENAI_PORT, names.GATEWAY_STATUS_PORT}
    assert ports == {8080, 8082, names.RENDEZVOUS_PORT, *ours}
    asked = {int(port) for row in rows(told) if row[0] == "operator" for port in re.findall(r"\b\d{4,5}\b", row[2])}
    code = "".join(source.read_text() for source in (ROOT / "operator/aifactory").rglob("*.py"))
    assert asked == {getattr(names, name) for name in re.findall(r"base_url\([^()]+, names\.(\w+)\)", code)}
    first, count = rendezvous._HOST_PORTS
    assert f"one of {first} to {first + count - 1}" in told


def test_metrics_that_are_to_be_watched_exist() -> None:
    known = (ROOT / "operator/aifactory/kube/metrics.py").read_text()
    found = [row[0].strip("`") for row in rows(section("install", "What to watch"))]
    assert len(found) > 3
    assert all(f'"{name}"' in known for name in found)


@pytest.mark.parametrize("number", [1, 2])
def test_pages_that_dashboards_are_tried_with_are_as_processes_tell_them_today(number: int) -> None:
    """Else record them again: tests/cluster/test_metrics.py."""
    for who, sections in (("operator", ("Objects", "Operator")), ("agent", ("Agent",))):
        recorded = (ROOT / f"tests/monitoring/recorded/{who}-{number}.txt").read_text()
        assert types(recorded) == documented(*sections)


def test_the_keys_of_a_stores_secret_are_those_the_agent_reads() -> None:
    folder = ROOT / "workloads/agent/aifactory_agent/artifacts"
    read = "".join((folder / name).read_text() for name in ("buckets.py", "secret.py"))
    told = {key for row in rows(section("storage", "S3")) for key in re.findall(r"`([\w.]+)`", row[0])}
    assert told == set(re.findall(r'"(AWS_\w+|ca\.crt)"', read))


def test_the_keys_of_a_sources_secret_are_those_the_agent_reads() -> None:
    folder = ROOT / "workloads/agent/aifactory_agent/artifacts"
    names_ = ("hub.py", "https.py", "oci.py", "buckets.py")
    read = "".join((folder / name).read_text() for name in names_)
    told = {key for row in rows(section("storage", "Models from elsewhere")) for key in re.findall(r"`(\w+)`", row[2])}
    of_buckets = set(re.findall(r'"((?:GOOGLE|STORAGE|AZURE)_\w+)"', read))
    assert told == {"HF_TOKEN", "HF_ENDPOINT", "token", "username", "password", *of_buckets}
    assert len(of_buckets) == 9
    assert all(f'"{key}"' in read for key in told)


def test_the_grace_of_a_training_pod() -> None:
    assert f"which is {rendezvous.GRACE_SECONDS} unless" in page("training-program")


def test_every_page_is_in_the_site() -> None:
    settings = yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text())
    parts: list[Any] = [pages for entry in settings["nav"] for pages in entry.values()]
    told = [ROOT / page for part in parts for page in ([part] if isinstance(part, str) else part)]
    assert set(PAGES) <= set(told)
    assert len(told) == len(set(told))
    for path in told:
        linked = re.findall(r"\]\(([^)\s#:]+\.md)[^)]*\)", path.read_text())
        assert {(path.parent / link).resolve() for link in linked} <= set(told), f"{path} leads out of the site"


def test_every_field_of_the_crds_is_on_the_page_of_fields() -> None:
    text = page("fields")
    for field in ("**`spec.nodes.count`** | integer", "`spec.rollout.steps[].pauseSeconds` | integer"):
        assert field in text
    assert "| `spec.launcher` | string |" in text
    assert "One of `torchrun`, `none`." in text
    assert "- models: write either version (a fixed number) or track: Latest" in text
