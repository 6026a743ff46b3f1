"""The command line: the process's own options and those of the domains."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from aifactory import __version__
from aifactory.app import domains, wiring
from aifactory.app.domains import DOMAINS
from aifactory.app.options import parse
from aifactory.engine.taskpods import TaskPods
from aifactory.serving.state import Settings as ServingSettings
from aifactory.training.domain import Training
from aifactory.training.state import Settings as TrainingSettings
from tests.support.herd import Herds


def test_what_is_left_out_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_IP", "10.0.0.9")
    options = parse(DOMAINS, [])
    training, models, serving = domains.make(options)
    assert training.settings == TrainingSettings(progress_url="http://10.0.0.9:8082")
    assert models.settings.agent_image == f"aifactory/agent:{__version__}"
    assert serving.settings == ServingSettings()


def test_an_ipv6_address_is_written_as_urls_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_IP", "fd00::7")
    options = parse(DOMAINS, [])
    assert domains.make(options)[0].settings.progress_url == "http://[fd00::7]:8082"
    assert wiring.lease_config(options).address == "[fd00::7]:8082"


def test_the_command_is_there() -> None:
    """It named a module, which can not be called."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["aifactory-operator"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_an_option_reaches_every_domain_that_has_it(tmp_path: Path) -> None:
    file = tmp_path / "task-pods.yaml"
    file.write_text("defaults: {nodeSelector: {pool: cpu}}")
    arguments = [
        "--agent-image=own/agent:1",
        f"--task-pods={file}",
        "--max-concurrent-rollouts=5",
        "--progress-url=http://a/",
        "--hub-endpoint=https://hub.example.com/",
    ]
    training, models, serving = domains.make(parse(DOMAINS, arguments))
    assert training.settings.agent_image == models.settings.agent_image == serving.settings.agent_image == "own/agent:1"
    wanted = TaskPods.model_validate({"defaults": {"nodeSelector": {"pool": "cpu"}}})
    assert training.settings.task_pods == models.settings.task_pods == wanted
    assert serving.settings.max_concurrent_rollouts == 5
    endpoints = {domain.settings.hub_endpoint for domain in (training, models, serving)}
    assert endpoints == {"https://hub.example.com"}
    assert training.settings.progress_url == "http://a"


def test_a_fourth_kind_brings_its_options() -> None:
    options = parse([*DOMAINS, Herds], ["--herd-image=idle:2"])
    assert domains.make(options, [Herds])[0].settings.herd_image == "idle:2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers=0"], "--workers must be at least 1"),
        (["--lease-seconds=2"], "--lease-seconds must be at least 3"),
        (["--task-pods=/no/such/file"], "--task-pods: .*No such file"),
        (["--hub-endpoint=hub.example.com"], "--hub-endpoint: hub.endpoint: .*write https://<host>"),
        (["--hub-endpoint=https://me:key@hub.example.com"], "--hub-endpoint: .*without user"),
    ],
)
def test_a_mistake_is_told_and_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(DOMAINS, arguments)
    assert re.search(message, capsys.readouterr().err)


def test_rights_follow_from_what_domains_declare() -> None:
    rules = {
        (rule["apiGroups"][0], rule["resources"][0]): rule["verbs"] for rule in wiring.rbac_rules([Training, Herds])
    }
    read = ["get", "list", "watch"]
    assert rules["aifactory.dev", "herds"] == read
    assert rules["aifactory.dev", "herds/status"] == ["patch"]
    assert rules["", "pods"] == [*read, "create", "delete"]
    assert rules["", "persistentvolumeclaims"] == [*read, "create"]
    assert not any("secrets" in resource or "exec" in resource for _, resource in rules)
