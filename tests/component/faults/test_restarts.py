"""Faults that the process answers by ending: it ends soon, says why in a line, and its replacement catches up.

A kubelet starts it again, here at once; the pod's name, and with it the lease, stays the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.component.faults.conftest import LONG, apply_crds
from tests.component.faults.proxy import Fault
from tests.component.faults.scene import Scene
from tests.component.faults.site import Exit, Site
from tests.component.faults.test_api_server import LEASE_SECONDS, OUTAGE_SECONDS, lasting
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for

MakeSite = Callable[..., AbstractContextManager[Site]]


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Site]:
    """An operator with a short lease, as the only container of a pod."""
    with make_site(f"--lease-seconds={LEASE_SECONDS:.0f}", pod="operator-0") as found:
        found.wait_leading()
        yield found
        assert not found.bugs(), found.bugs()


def exits_of(site: Site, since: int) -> list[Exit]:
    found = site.exits[since:]
    assert all(exit.code == 1 for exit in found), found
    return found


@pytest.mark.parametrize(
    "fault", [Fault(429, retry_after=1), Fault(503), Fault(500)], ids=lambda fault: str(fault.status)
)
def test_failing_for_longer_than_the_lease(ns: Kubectl, site: Site, fault: Fault) -> None:
    """The lease can not be renewed, so the leader stops acting, and leads again when the API server is back."""
    if fault.status != 503 and not LONG:
        pytest.skip("as 503; AIFACTORY_LONG=1 runs it")
    site.wait_leading()
    scene = Scene(ns, site).before()
    exits = len(site.exits)
    lasting(site, fault, OUTAGE_SECONDS, scene.meanwhile)
    took = scene.after(seconds=120)
    print(f"{fault.status} for {OUTAGE_SECONDS:.0f} s: converged {took:.1f} s after the outage")
    assert site.exits[exits:] == [], "a start lists everything anew"
    assert "is lost: this replica stops acting" in site.log


def test_a_watch_answered_with_410(ns: Kubectl, site: Site) -> None:
    """The API server says it in an event; kopf takes the plain answer, of something between, for the end."""
    site.wait_leading()
    scene = Scene(ns, site).before()
    exits = len(site.exits)
    site.proxy.stall()
    scene.meanwhile()
    site.proxy.expire("answer")
    took = scene.after()
    assert len(exits_of(site, exits)) <= 1
    print(f"watches answered with 410: converged {took:.1f} s later, {len(site.exits) - exits} restart")


def test_crds_deleted_and_applied_again(ns: Kubectl, kubectl: Kubectl, site: Site) -> None:
    """The objects are gone with the CRDs, their pods with them; the operator asks until the CRDs are back."""
    site.wait_leading()
    ns.apply(objects.job("before", ["true"]))
    wait_for("its pod", lambda: ns.list("pods"), bool)
    exits, started = len(site.exits), time.monotonic()
    kubectl.run("delete", "crd", "trainingjobs.aifactory.dev", "--timeout=60s")
    wait_for("the process to end", lambda: site.exits[exits:], bool)
    ended = site.exits[exits]
    assert "not found" in ended.words.lower(), ended.words
    wait_for("its replacement to wait", lambda: site.log[-2000:], lambda words: "apply the CRDs" in words)
    apply_crds(kubectl)
    ns.apply(objects.job("since", ["true"]))
    applied = time.monotonic()
    # The pod of `before` goes when the garbage collector notices, up to half a minute later: it is not ours to hurry.
    wait_for("the new job's pod", lambda: ns.get("pod", "since-0-0"), bool)
    print(
        f"CRD deleted: ended {ended.at - started:.1f} s after the delete; "
        f"first pod {time.monotonic() - applied:.1f} s after it was back"
    )
    assert len(exits_of(site, exits)) == 1


def test_a_token_is_rotated_and_the_old_one_revoked(
    ns: Kubectl, kubectl: Kubectl, control_plane: ControlPlane, make_site: MakeSite, tmp_path: Path
) -> None:
    """Also when the new one comes late: refused for a while, then on as before, without a restart."""
    ns.run("create", "serviceaccount", "operator")
    kubectl.run(
        "create",
        "clusterrolebinding",
        f"{ns.namespace}-operator",
        "--clusterrole=cluster-admin",
        f"--serviceaccount={ns.namespace}:operator",
    )
    file = tmp_path / "token"
    file.write_text(_token(ns, "first"))
    kubeconfig = tmp_path / "kubeconfig"
    found = json.loads(kubectl.run("config", "view", "--raw", "-o", "json").out)
    found["users"][0]["user"] = {"tokenFile": str(file)}
    kubeconfig.write_text(json.dumps(found))
    # Short silences, so that watches are begun anew and a token is needed for them.
    options = ("--no-leader-elect", f"--namespace={ns.namespace}", "--silence-seconds=2")
    with make_site(*options, kubeconfig=kubeconfig) as own:
        own.wait_ready()
        ns.apply(objects.job("first", ["true"]))
        wait_for("its pod", lambda: ns.list("pods"), lambda pods: len(pods) == 1)
        ns.run("delete", "secret", "first")
        ns.apply(objects.job("second", ["true"]))
        wait_for("a refusal", lambda: 'code="401"' in own.operator.fetch("/metrics"), bool, seconds=90)
        file.write_text(_token(ns, "second"))
        rotated = time.monotonic()
        ns.apply(objects.job("third", ["true"]))
        wait_for("three pods", lambda: ns.list("pods"), lambda pods: len(pods) == 3, seconds=90)
        print(f"token revoked, then replaced: converged {time.monotonic() - rotated:.1f} s later")
        assert not own.exits, own.exits
        assert not own.bugs(), own.bugs()


def _token(ns: Kubectl, secret: str) -> str:
    """A token that is valid as long as a secret exists."""
    ns.run("create", "secret", "generic", secret)
    return ns.run(
        "create", "token", "operator", "--bound-object-kind=Secret", f"--bound-object-name={secret}"
    ).out.strip()
