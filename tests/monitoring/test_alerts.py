"""Every alert of the chart fires when it should and not else, says what it should, and leads somewhere."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.api.reasons import Reason
from tests.monitoring.cases import CASES, Case
from tests.support.kubectl import ROOT, binary, command

RUNBOOKS = "https://example.com/docs"


@cache
def rules() -> Any:
    """The rules as the chart delivers them."""
    values = ["--set=prometheusRule.enabled=true", f"--set=prometheusRule.runbookUrl={RUNBOOKS}/"]
    values += ["--set=prometheusRule.labels.release=prometheus"]
    text = command([binary("helm"), "template", "aifactory", str(ROOT / "charts/aifactory"), *values])
    (found,) = (each for each in yaml.safe_load_all(text) if each and each["kind"] == "PrometheusRule")
    assert found["metadata"]["labels"]["release"] == "prometheus"
    return found["spec"]


def rule(alert: str) -> Any:
    (found,) = (each for group in rules()["groups"] for each in group["rules"] if each["alert"] == alert)
    return found


def promtool(*args: str) -> str:
    done = subprocess.run([binary("promtool"), *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(case: Case) -> dict[str, Any]:
    """A case as promtool wants it. What an alert says is worked out here from its own words."""
    found = rule(case.alert)
    expected = []
    for labels in case.fires:
        said = {key: _filled(text, labels) for key, text in found["annotations"].items()}
        expected.append({"exp_labels": {**labels, **found["labels"]}, "exp_annotations": said})
    return {
        "name": f"{case.alert}: {case.words}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": expected}],
    }


def _filled(text: str, labels: dict[str, str]) -> str:
    text = re.sub(r"\{\{ \$labels\.(\w+) \| toLower \}\}", lambda label: labels.get(label[1], "").lower(), text)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: labels.get(label[1], ""), text)
    return text.replace("{{ $value }}", "3")


def test_promtool_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    said = promtool("check", "rules", "--lint=all", str(tmp_path / "rules.yaml"))
    assert f"{sum(len(group['rules']) for group in rules()['groups'])} rules found" in said


def test_they_fire_when_they_should_and_not_else(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    cases = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [written(case) for case in CASES]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(cases))
    promtool("test", "rules", str(tmp_path / "tests.yaml"))


def test_each_is_tried_both_ways() -> None:
    alerts = {each["alert"] for group in rules()["groups"] for each in group["rules"]}
    assert {case.alert for case in CASES if case.fires} == alerts
    assert {case.alert for case in CASES if not case.fires} == alerts


@pytest.mark.parametrize("page", ["reasons", "metrics"])
def test_their_runbooks_are_there(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    anchors = set(re.findall(r'<a id="([a-z]+)">', text)) | {
        head.lower() for head in re.findall(r"^### (\w+)$", text, re.M)
    }
    led = {each["annotations"]["runbook_url"] for group in rules()["groups"] for each in group["rules"]}
    wanted = {url.partition("#")[2] for url in led if url.startswith(f"{RUNBOOKS}/{page}.md#")}
    assert wanted
    if page == "reasons":
        assert wanted == {"{{ $labels.reason | toLower }}"}
        wanted = {reason.lower() for reason in Reason}
    assert wanted <= anchors


def test_without_the_switch_there_are_none() -> None:
    text = command([binary("helm"), "template", "aifactory", str(ROOT / "charts/aifactory")])
    kinds = [found["kind"] for found in yaml.safe_load_all(text) if found]
    assert "PrometheusRule" not in kinds
