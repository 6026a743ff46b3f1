"""The chart's policy against deleting a ModelVersion in use, on a real API server; no operator runs here."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.support.chart import CHART, helm
from tests.support.kubectl import ROOT, Json, Kubectl
from tests.support.waiting import wait_for

NAME = "guard-modelversion-in-use"
VERSION: Json = {
    "apiVersion": "aifactory.dev/v1alpha1",
    "kind": "ModelVersion",
    "metadata": {"name": "m-v1"},
    "spec": {"model": "m", "version": 1, "source": {"uri": "pvc://models/m/1"}, "format": "huggingface"},
}
PART = {"revision": "v1-abc", "modelVersion": "m-v1"}
SEVERAL = {
    "revision": "v2-a-b",
    "modelVersion": "a-v1",
    "models": [
        {"name": "a", "version": 1, "modelVersion": "a-v1"},
        {"name": "m", "version": 1, "modelVersion": "m-v1"},
    ],
}
USES = [
    pytest.param({"stable": PART}, id="it serves it"),
    pytest.param({"candidate": PART}, id="it rolls to it"),
    pytest.param({"stable": SEVERAL}, id="it serves it beside another model"),
    pytest.param({"candidate": SEVERAL}, id="it rolls to it beside another model"),
    pytest.param({"resolved": [{"name": "m", "version": 1, "modelVersion": "m-v1"}]}, id="it wants it"),
]


@pytest.fixture(scope="module", autouse=True)
def policy(kubectl: Kubectl) -> Iterator[str]:
    """The template as Helm renders it."""
    done = helm("template", "guard", str(CHART), "--show-only=templates/deletion-guard.yaml")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    kubectl.run("apply", "-f", "-", stdin=text)
    yield text
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl.run("delete", kind, NAME)


def use(ns: Kubectl, name: str, status: Json) -> None:
    ns.apply(objects.pool(name, "m"))
    patch = json.dumps({"status": status})
    ns.run("patch", "ipool", name, "--subresource=status", "--type=merge", "-p", patch)


def refusal(ns: Kubectl) -> str:
    return ns.run("delete", "mver", "m-v1", "--dry-run=server", check=False).err


def wait_refused(ns: Kubectl, words: str) -> None:
    """The API server takes a moment to know a policy that is new, and a pool."""
    wait_for("the policy to refuse", lambda: refusal(ns), lambda seen: words in seen, seconds=60)


@pytest.mark.parametrize("status", USES)
def test_a_version_in_use_is_kept_and_its_user_is_named(status: Json, ns: Kubectl) -> None:
    ns.apply(VERSION)
    use(ns, "chat", status)
    wait_refused(ns, "ModelVersion m-v1 is in use by InferencePool/chat: point it to another version first")
    ns.run("annotate", "mver", "m-v1", "aifactory.dev/allow-delete-in-use=true")
    ns.run("delete", "mver", "m-v1")


def test_a_pool_that_is_gone_is_not_named_though_the_operator_is_away(ns: Kubectl) -> None:
    ns.apply(VERSION)
    stale = json.dumps({"status": {"inUse": 1, "usedBy": [{"kind": "InferencePool", "name": "chat"}]}})
    ns.run("patch", "mver", "m-v1", "--subresource=status", "--type=merge", "-p", stale)
    use(ns, "chat", {"stable": PART})
    wait_refused(ns, "InferencePool/chat")
    ns.run("delete", "ipool", "chat")
    ns.run("delete", "mver", "m-v1")


def test_what_nobody_uses_can_be_deleted(ns: Kubectl) -> None:
    ns.apply(VERSION)
    use(ns, "other", {"stable": {"revision": "v1-abc", "modelVersion": "m-v2"}})
    ns.run("delete", "mver", "m-v1")
    ns.apply(VERSION)
    ns.run("delete", "ipool", "other")
    ns.run("delete", "mver", "m-v1")


def test_where_the_pools_crd_is_missing_when_the_api_server_starts_nothing_is_deleted(
    ns: Kubectl, kubectl: Kubectl, policy: str, control_plane: ControlPlane
) -> None:
    """It looks for the policy's parameters before it asks anything. docs/limits.md has the way out."""
    ns.apply(VERSION)
    use(ns, "chat", {"stable": PART})
    wait_refused(ns, "InferencePool/chat")
    kubectl.run("delete", "crd", "inferencepools.aifactory.dev")
    try:
        wait_for("no pool to be left", lambda: refusal(ns), lambda seen: not seen, seconds=60)
        control_plane.restart_apiserver()
        wait_refused(ns, "paramKind")
        controller = "--as=system:serviceaccount:kube-system:namespace-controller"
        by_controller = ns.run("delete", "mver", "m-v1", "--dry-run=server", controller, check=False).err
        assert "paramKind" in by_controller, "its namespace can not be deleted either"
        kubectl.run("delete", "validatingadmissionpolicybinding", NAME)
        wait_for("nothing to refuse", lambda: refusal(ns), lambda seen: not seen, seconds=60)
        ns.run("delete", "mver", "m-v1")
    finally:
        kubectl.run("apply", "-f", str(ROOT / "crds"))
        kubectl.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        kubectl.run("apply", "-f", "-", stdin=policy)
    ns.apply(VERSION)
    use(ns, "chat", {"stable": PART})
    wait_refused(ns, "InferencePool/chat")
