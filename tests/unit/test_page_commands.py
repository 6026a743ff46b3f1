"""Every command of the pages is run by a test, or is told here with why it can not be.

A new command on a page fails here until it has a line; a line for which there is no command any more fails as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

RUN: dict[str, tuple[str, str]] = {
    # The page, all of its commands as they stand there.
    r"docs/argocd\.md: .*": ("tests/argo/test_argo.py", "test_every_command_of_the_page_was_run"),
    r"docs/security\.md: .*": ("tests/component/test_pages.py", 'blocks("security", "sh")'),
    r"docs/storage\.md: kubectl -n team-a create secret generic s3 .*": (
        "tests/component/test_pages.py",
        'blocks("storage", "sh")',
    ),
    r"docs/upgrade\.md: (kubectl get (tjob,mver,ipool|configmap) .*json|old=.*|jq .*|for kind .*|done)": (
        "tests/component/test_pages.py",
        'blocks("upgrade", "sh") if ".json" in script',
    ),
    r"docs/upgrade\.md: kubectl get pvc,configmap .*": ("tests/component/test_pages.py", '"upgrade": ['),
    r"docs/storage\.md: kubectl (get mver|-n team-a create secret generic gs) .*": (
        "tests/component/test_pages.py",
        '"storage": [',
    ),
    r"docs/gateway\.md: (printf|kubectl (create|get)) .*": ("tests/component/test_pages.py", '"gateway": ['),
    r"docs/reasons\.md: .*": ("tests/component/test_pages.py", '"reasons": ['),
    r"docs/serving\.md: kubectl get ipool .*": ("tests/component/test_pages.py", '"serving": ['),
    r"docs/openai\.md: kubectl get ipool .*": ("tests/component/test_pages.py", '"openai": ['),
    r"docs/install\.md: kubectl (get aifactory|wait) .*": ("tests/component/test_pages.py", '"install": ['),
    r"README\.md: (sed .*|REGISTRY=.*)": ("tests/component/test_pages.py", r"^sed .*one-node.yaml"),
    # The same command with other names.
    r"README\.md: kubectl (apply -f examples/factory\.yaml|get aifactory)": ("demo/__main__.py", '"get", "aifactory"'),
    r"(README|docs/(install|images|upgrade))\.md: helm (install|upgrade) aifactory .*": (
        "tests/cluster/conftest.py",
        'str(ROOT / "charts/aifactory")',
    ),
    r"docs/install\.md: helm upgrade --install aifactory.*": (
        "tests/component/test_crds_chart.py",
        '"--take-ownership", "--force-conflicts"',
    ),
    r"docs/install\.md: helm test .*": ("tests/cluster/test_uninstall.py", 'helm("test", "aifactory"'),
    r"docs/upgrade\.md: helm uninstall .*": ("tests/cluster/test_uninstall.py", 'helm("uninstall", "aifactory"'),
    r"docs/upgrade\.md: kubectl delete .*": ("tests/upgrade/factory.py", "docs/upgrade.md"),
    r"docs/install\.md: make images-list .*": ("tests/component/test_chart.py", '"images-list"'),
    r"docs/releasing\.md: make release": ("tests/component/test_release.py", '"release", "pack"'),
    r"docs/releasing\.md: make release-version .*": ("tests/unit/test_release.py", "release.set_version("),
    r"(README|docs/plugin)\.md: make plugin.*": ("tests/unit/plugin/test_package.py", "package.archive()"),
    r"docs/plugin\.md: kubectl aifactory .*": ("tests/unit/plugin/test_screen.py", "CAPTURES"),
    r"docs/dashboard\.md: kubectl aifactory dashboard": (
        "tests/component/test_plugin.py",
        "kubectl aifactory dashboard",
    ),
    r"docs/openai\.md: (make chat-model|kubectl (apply|wait) .*)": (
        "tests/cluster/test_chat_model.py",
        '"demo.pretrained", "chat-model"',
    ),
    r"docs/openai\.md: kubectl port-forward .*": ("demo/tools.py", '"port-forward"'),
    r"docs/training-program\.md: curl .*": ("tests/unit/training/test_program_page.py", "curl"),
    # The page, all of its commands as they stand there.
    r"docs/kueue\.md: .*": ("tests/kueue/test_kueue.py", "set(page.ran) == set(lines_of_the_page())"),
    r"docs/upgrade\.md: kubectl -n aifactory-system rollout restart .*": (
        "tests/cluster/conftest.py",
        '"rollout", "restart", "deployment/aifactory-operator"',
    ),
    # A suite of ours, or a part of one.
    r"README\.md: make (demo|test)": ("Makefile", "test: venv"),
    r".*: (AIFACTORY_\w+=\d+ )?\.venv/bin/pytest .*": ("Makefile", "test-cluster:"),
    r"docs/serving\.md: (cd workloads/agent && .*|make -C workloads test-agent .*)": (
        "workloads/Makefile",
        "test-agent",
    ),
    r"docs/reliability\.md: make test-night": ("Makefile", "test-night:"),
    r"docs/engines\.md: (VLLM_\S+ )?make bench-engines": ("Makefile", "bench-engines:"),
}
"""Commands by page and form, with the file that runs them and words of it."""

NOT_RUN: dict[str, str] = {
    r"docs/images\.md: (docker|kind|skopeo) .*": "no container engine, no registry and no kind where the tests run",
    r"docs/images\.md: (TAG=.*|REGISTRY=.*|for image .*|done)": "the same: what goes round these commands",
    r"docs/plugin\.md: pipx install .*": "it needs pipx; what the wheel holds is compared",
    r"docs/gateway\.md: kubectl exec deploy/chat-gateway .*": "a look at Envoy by hand",
    r"docs/engines\.md: (nice|python) .*": "how figures of the page were measured; they need vLLM",
    r"docs/openai\.md: aiperf .*": "how figures of the page were measured",
}
"""Commands that no test runs, and why."""


def commands() -> Iterator[str]:
    """`page: command` of each, without its prompt and comment, in one line."""
    for entry in yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text())["nav"]:
        for pages in entry.values():
            for page in [pages] if isinstance(pages, str) else pages:
                for language, block in re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S):
                    text = block.replace("\\\n", " ") if language in ("sh", "console") else ""
                    if text.startswith("$ "):
                        text = "\n".join(re.findall(r"^\$ (.*)$", text, re.M))
                    lines = (re.sub(r" +#.*$", "", line) for line in text.splitlines())
                    yield from (f"{page}: {' '.join(line.split())}" for line in lines if line.strip())


COMMANDS = list(commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_or_it_is_told_why_not(command: str) -> None:
    forms = [form for form in (*RUN, *NOT_RUN) if re.fullmatch(form, command)]
    assert len(forms) == 1, forms


@pytest.mark.parametrize("form", [*RUN, *NOT_RUN])
def test_there_is_such_a_command(form: str) -> None:
    assert any(re.fullmatch(form, command) for command in COMMANDS)


@pytest.mark.parametrize(("path", "words"), RUN.values())
def test_what_runs_it_is_there(path: str, words: str) -> None:
    assert words in (ROOT / path).read_text()
