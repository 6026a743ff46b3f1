"""What a tool compares that keeps the cluster as Git has it: it finds no difference, whatever the operator has written.

`kubectl diff` compares by the same two ways as Argo CD: with what was applied last, and by a dry run on the server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.component.conftest import Operator
from tests.component.test_pages import blocks, run
from tests.support.kubectl import ROOT, Json, Kubectl, binary, command
from tests.support.waiting import wait_for

SERVER_SIDE = ("--server-side", "--field-manager=argocd-controller", "--force-conflicts")
WAYS = ((), SERVER_SIDE)


def assert_no_drift(kubectl: Kubectl, text: str) -> None:
    """Neither way finds a difference between the text and what there is."""
    for way in WAYS:
        seen = kubectl.run("diff", *way, "-f", "-", stdin=text, check=False)
        assert (seen.code, seen.out) == (0, ""), f"{way}: {seen.out}{seen.err}"


def missing(written: Any, found: Any, path: str = "") -> list[str]:
    """Where something is written and not found."""
    if isinstance(written, dict) and isinstance(found, dict):
        return [each for key in written for each in missing(written[key], found.get(key), f"{path}.{key}")]
    if isinstance(written, list) and isinstance(found, list) and len(written) == len(found):
        pairs = enumerate(zip(written, found, strict=True))
        return [each for number, pair in pairs for each in missing(*pair, f"{path}[{number}]")]
    return [path] if written != found else []


def ours(kubectl: Kubectl) -> list[Json]:
    """Objects of all of our kinds."""
    return [found for kind in ("tjob", "mver", "ipool") for found in kubectl.list(kind)]


@pytest.mark.parametrize("way", WAYS, ids=["client-side", "server-side"])
def test_no_example_drifts(way: tuple[str, ...], ns: Kubectl, start_operator: Callable[..., Operator]) -> None:
    """They are applied together; names of those that two files have are of the last one."""
    operator = start_operator("--no-leader-elect", f"--namespace={ns.namespace}")
    operator.wait_ready()
    texts = [path.read_text() for path in sorted((ROOT / "examples").glob("*.yaml"))]
    texts += [path.read_text() for path in (ROOT / "examples/argocd/factory").iterdir()]
    texts += [ns.run("kustomize", str(ROOT / "examples/argocd/kustomize/overlays/production")).out]
    documents: dict[tuple[str, str], Json] = {}
    for found in (document for each in texts for document in yaml.safe_load_all(each)):
        documents[found["kind"], found["metadata"]["name"]] = found
    text = yaml.safe_dump_all(documents.values())
    ns.run("apply", *way, "-f", "-", stdin=text)
    wait_for(
        "the operator to have written what it thinks of each",
        lambda: ours(ns),
        lambda seen: all(found.get("status", {}).get("conditions") for found in seen),
        seconds=60,
    )
    assert_no_drift(ns, text)
    assert {found["metadata"]["generation"] for found in ours(ns)} == {1}, "nobody else writes to a spec"
    ns.run("patch", "tjob", "tiny-gpt-1", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    ns.run("annotate", "ipool", "chat", "aifactory.dev/pause=4711")
    assert_no_drift(ns, text)  # what an action of Argo CD writes is not in Git
    operator.stop()


@pytest.mark.parametrize("way", WAYS, ids=["client-side", "server-side"])
def test_the_chart_does_not_drift(way: tuple[str, ...], ns: Kubectl, kubectl: Kubectl) -> None:
    """Without the pod of `helm test`: Argo CD leaves it out as well."""
    release = f"release-{ns.namespace}"
    chart = [str(ROOT / "charts/aifactory"), f"--namespace={ns.namespace}", f"--set=watchNamespaces={{{ns.namespace}}}"]
    text = command([binary("helm"), "template", release, *chart, "--set=crds.install=false", "--skip-tests"])
    kubectl.run("apply", *way, "-f", "-", stdin=text)
    try:
        assert_no_drift(kubectl, text)
    finally:
        kubectl.run("delete", "-f", "-", "--wait=false", stdin=text)


def test_the_definitions_do_not_drift(kubectl: Kubectl) -> None:
    """The control plane's were applied from crds/.

    `kubectl diff` asks the server what would become of a text; Argo CD compares the text itself, so that what a server
    leaves out (an empty map) would be applied again and again.
    """
    for path in sorted((ROOT / "crds").iterdir()):
        assert_no_drift(kubectl, path.read_text())
        written = yaml.safe_load(path.read_text())
        assert missing(written, kubectl.get("crd", written["metadata"]["name"])) == []


def test_argo_cd_is_told_of_our_kinds_beside_what_it_was_told_before(ns: Kubectl, tmp_path: Path) -> None:
    """The command of the page; somebody's settings stay, and ours stay when these are applied again."""
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}, "data": {"url": "https://cd"}}
    ns.apply(theirs)
    script, *_ = blocks("argocd", "sh")
    run(script.replace("-n argocd", f"-n {ns.namespace}"), ns, ROOT)
    ns.apply(theirs)
    ours = yaml.safe_load((ROOT / "charts/aifactory/files/argocd-cm.yaml").read_text())
    found = ns.get("configmap", "argocd-cm")
    assert found["data"] == {**ours["data"], **theirs["data"]}
    assert found["metadata"]["labels"] == ours["metadata"]["labels"], "without it Argo CD does not look at it"
