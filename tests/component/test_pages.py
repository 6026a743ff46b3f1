"""Commands and YAML of the pages for people who run it, as they stand there, against a real API server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster import objects
from tests.component.test_crds import VERSION
from tests.support.chart import rendered
from tests.support.kubectl import ROOT, Kubectl, binary

DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)


def run(script: str, ns: Kubectl, folder: Path) -> None:
    """A block in a shell, in the namespace of this test instead of the page's."""
    script = script.replace("team-a", str(ns.namespace)).replace(" -A ", f" -n {ns.namespace} ")
    kubectl = Path(binary("kubectl")).parent
    env = {**os.environ, "PATH": f"{kubectl}:{os.environ['PATH']}", "KUBECONFIG": ns.kubeconfig}
    done = subprocess.run(["/bin/sh", "-ec", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{script}\n{done.stderr}"


def test_what_a_tenant_is_given(ns: Kubectl, tmp_path: Path) -> None:
    for document in blocks("security", "yaml"):
        ns.apply(document.replace("team-a", str(ns.namespace)))
    for script in blocks("security", "sh"):
        run(script, ns, tmp_path)
    may = ns.run("auth", "can-i", "use", "serviceaccounts/loader", "--as=ann", check=False)
    assert may.out.strip() == "yes"


def test_the_secret_of_a_store(ns: Kubectl, tmp_path: Path) -> None:
    create, *_ = blocks("storage", "sh")
    run(create, ns, tmp_path)
    job = objects.job("job", ["true"])
    inputs, output = (yaml.safe_load(block) for block in blocks("storage", "yaml"))
    ns.apply({**job, "spec": {**job["spec"], **inputs, **output}})


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")
def test_what_was_backed_up_is_restored(ns: Kubectl, tmp_path: Path) -> None:
    counter = {"name": "aifactory-m-versions", "annotations": {"aifactory.dev/highest-version": "3"}}
    counter["labels"] = {"app.kubernetes.io/managed-by": "aifactory", "aifactory.dev/model": "m"}
    ns.apply(VERSION, objects.pool("chat", "m"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": counter})
    backup, restore = (script for script in blocks("upgrade", "sh") if ".json" in script)
    run(backup, ns, tmp_path)
    ns.run("delete", "mver,ipool,configmap", "--all")
    run(restore, ns, tmp_path)
    assert ns.get("mver", "m-v1")["spec"] == VERSION["spec"]
    assert ns.get("ipool", "chat")["spec"]["models"] == [{"name": "m", "track": "Latest"}]
    restored = ns.get("configmap", "aifactory-m-versions")["metadata"]
    assert restored["annotations"]["aifactory.dev/highest-version"] == "3"


def test_the_values_of_an_installation(ns: Kubectl) -> None:
    (values,) = blocks("install", "yaml")
    made = rendered(yaml.safe_load(values))
    deployment = made["Deployment", "aifactory-operator"]["spec"]
    assert deployment["replicas"] == 2
    pod = deployment["template"]
    (rule,) = pod["spec"]["topologySpreadConstraints"]
    assert rule["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "--server-image=registry.example.com/aifactory/server:0.1.0" in pod["spec"]["containers"][0]["args"]
    budget = made["PodDisruptionBudget", "aifactory-operator"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    budget["metadata"]["namespace"] = ns.namespace
    ns.run("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(budget))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted_with_the_image_of_another_registry(path: Path, ns: Kubectl, tmp_path: Path) -> None:
    (script,) = re.findall(r"^sed .*one-node.yaml", (ROOT / "README.md").read_text(), re.MULTILINE)
    script = script.replace("examples/one-node.yaml", str(path))
    run(f"REGISTRY=registry.example.com/aifactory; {script} > out.yaml", ns, tmp_path)
    ns.run("apply", "--dry-run=server", "-f", str(tmp_path / "out.yaml"))
    there = "image: registry.example.com/aifactory/trainer:0.1.0" in (tmp_path / "out.yaml").read_text()
    assert there == ("kind: TrainingJob" in path.read_text())


LOOKS = {
    "install": ["kubectl get aifactory", "kubectl wait"],
    "gateway": ["printf", "kubectl create secret generic", "kubectl create secret tls", "kubectl get"],
    "openai": ["kubectl get ipool"],
    "reasons": ["kubectl annotate", "kubectl get pods"],
    "serving": ["kubectl get ipool"],
    "storage": ["kubectl -n team-a create secret generic gs", "kubectl get mver"],
    "upgrade": ["kubectl get pvc,configmap"],
}
"""Commands by page and beginning that show something or make a Secret: they need no pod."""


def lines_of(page: str) -> list[str]:
    """Its commands, each in one line: of `console` blocks what stands behind the prompt."""
    prompted = ("\n".join(re.findall(r"^\$ (.*)$", block, re.MULTILINE)) for block in blocks(page, "console"))
    text = "\n".join([*blocks(page, "sh"), *prompted]).replace("\\\n", " ")
    return [re.sub(r" {2,}#.*$", "", line).strip() for line in text.splitlines() if line.strip()]


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")
@pytest.mark.parametrize("page", LOOKS)
def test_commands_that_look(page: str, ns: Kubectl, tmp_path: Path) -> None:
    told = objects.job("name", ["true"], suspend=True)
    state = {"name": "gpt", "state": "Serving"}, {"name": "bert", "state": "Refused", "message": "it does not fit"}
    pools = [objects.pool(name, "tiny") for name in ("chat", "shared")]
    files = {"routes-http.json": "{}"}
    ns.apply(
        VERSION,
        told,
        *pools,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chat-gateway"}, "data": files},
    )
    done = {"type": "Complete", "status": "True", "reason": "Succeeded", "message": "", "observedGeneration": 1}
    done["lastTransitionTime"] = "2026-01-01T12:00:00Z"
    for name, status in (
        ("tjob/name", {"conditions": [done]}),
        ("ipool/chat", {"url": "http://chat", "rollout": {"phase": "Complete"}, "scaling": {"replicas": 1}}),
        ("ipool/shared", {"models": state}),
    ):
        patch = yaml.safe_dump({"status": status})
        ns.run("patch", name, "--subresource=status", "--type=merge", "-p", patch)
    key = "openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -subj /CN=x -days 1 2>/dev/null"
    (tmp_path / "key.json").write_text("{}")
    run(key, ns, tmp_path)
    commands = [line for line in lines_of(page) if line.startswith(tuple(LOOKS[page]))]
    assert {beginning for beginning in LOOKS[page] if not any(line.startswith(beginning) for line in commands)} == set()
    script = "\n".join(line.replace("NAME", "name") for line in commands)
    run(
        script.replace("kubectl ", f"kubectl -n {ns.namespace} ").replace(f"-n {ns.namespace} -n ", "-n "), ns, tmp_path
    )
