"""What the chart's policy and roles let a user do, asked of a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import objects
from tests.support.kubectl import ROOT, Json, Kubectl, binary, command
from tests.support.waiting import wait_for

TEMPLATES = ("author-policy.yaml", "user-roles.yaml")
BARE: Json = {"apiGroups": ["aifactory.dev"], "resources": ["trainingjobs", "inferencepools"], "verbs": ["*"]}


@pytest.fixture(scope="module", autouse=True)
def policy(kubectl: Kubectl) -> Iterator[None]:
    """The chart's policy and roles, in force."""
    shown = [f"--show-only=templates/{name}" for name in TEMPLATES]
    manifest = command([binary("helm"), "template", "aifactory", str(ROOT / "charts/aifactory"), *shown])
    kubectl.run("apply", "-f", "-", stdin=manifest)
    yield
    kubectl.run("delete", "-f", "-", stdin=manifest)


@pytest.fixture
def author(ns: Kubectl) -> str:
    """Somebody who may do everything with our kinds and nothing else."""
    _allow(ns, "author", BARE)
    # A policy takes a moment to be in force.
    job = json.dumps(template({"hostNetwork": True}))
    wait_for("the policy", lambda: _create(ns, "author", job, "--dry-run=server"), lambda seen: "hostNetwork" in seen)
    return "author"


def template(changes: Json, name: str = "job") -> Json:
    body = objects.job(name, ["true"])
    body["spec"]["template"]["spec"] |= changes
    return body


def _allow(ns: Kubectl, user: str, *rules: Json) -> None:
    name = f"{user}-{time.time_ns()}"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}}
    ns.apply({**role, "rules": list(rules)})
    ns.run("create", "rolebinding", name, f"--role={name}", f"--user={user}")


def _create(ns: Kubectl, user: str, body: str, *flags: str) -> str:
    """What it is refused with; empty when it is taken."""
    done = ns.run("create", "-f", "-", f"--as={user}", *flags, stdin=body, check=False)
    return "" if done.code == 0 else done.err


@pytest.mark.parametrize(
    ("asks", "word"),
    [
        ({"serviceAccountName": "admin"}, "serviceAccountName"),
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"hostIPC": True}, "hostIPC"),
        ({"volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]}, "hostPath"),
        ({"nodeName": "control-plane"}, "nodeName"),
        ({"priorityClassName": "system-node-critical"}, "priorityClassName"),
        ({"initContainers": [{"name": "i", "securityContext": {"privileged": True}}]}, "privileged"),
    ],
)
def test_a_template_is_not_a_way_up(ns: Kubectl, author: str, asks: dict[str, Any], word: str) -> None:
    pool = objects.pool("pool", "gpt")
    pool["spec"]["template"] = {"spec": {"containers": [{"name": "triton"}], **asks}}
    for body in (template(asks), pool):
        assert word in _create(ns, author, json.dumps(body))
    harmless: Json = {"serviceAccountName": "default", "hostNetwork": False, "priorityClassName": ""}
    harmless["initContainers"] = [{"name": "i", "securityContext": {"privileged": False}}]
    assert _create(ns, author, json.dumps(template(harmless, "plain"))) == ""
    patch = json.dumps({"spec": {"template": {"spec": asks}}})
    changed = ns.run("patch", "tjob", "plain", "--type=merge", "-p", patch, f"--as={author}", check=False)
    assert word in changed.err
    # Whoever may create pods could ask for it himself, and what he wrote does not hold up the others' changes.
    _allow(ns, "owner", BARE, {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]})
    wait_for("the owner's job", lambda: _create(ns, "owner", json.dumps(template(asks))), lambda seen: seen == "")
    ns.run("label", "tjob", "job", "seen=yes", f"--as={author}")


def test_a_service_account_may_be_lent(ns: Kubectl, author: str) -> None:
    asks = json.dumps(template({"serviceAccountName": "loader"}))
    assert "verb use on serviceaccounts/loader" in _create(ns, author, asks)
    use = {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["loader"], "verbs": ["use"]}
    _allow(ns, author, use)
    wait_for("it to be taken", lambda: _create(ns, author, asks), lambda seen: seen == "")


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [("view", ["get", "list", "watch"], ["create", "delete"]), ("edit", ["get", "create", "patch", "delete"], [])],
)
def test_kubernetes_own_roles_hold_our_kinds(ns: Kubectl, role: str, may: list[str], may_not: list[str]) -> None:
    user = f"{role}er"
    ns.run("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")

    def can(verb: str, kind: str) -> bool:
        asked = ns.run("auth", "can-i", verb, f"{kind}.aifactory.dev", f"--as={user}", check=False)
        return asked.out.strip() == "yes"

    for kind in ("trainingjobs", "modelversions", "inferencepools"):
        wait_for(
            f"{role} on {kind}",
            lambda kind=kind: [can(verb, kind) for verb in (*may, *may_not)],
            lambda seen: seen == [True] * len(may) + [False] * len(may_not),
            seconds=60,
        )
    for kind in ("trainingjobs", "inferencepools"):
        asked = ns.run(
            "auth", "can-i", "patch", f"{kind}.aifactory.dev", "--subresource=scale", f"--as={user}", check=False
        )
        assert asked.out.strip() == ("yes" if role == "edit" else "no"), "kubectl scale"
