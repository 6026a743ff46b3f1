"""The API server goes away, is slow, or answers with failures. The figures printed here are those of the docs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from localcluster.controlplane import ControlPlane
from tests.component.faults.conftest import LONG
from tests.component.faults.proxy import Fault
from tests.component.faults.scene import Scene
from tests.component.faults.site import Site
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for

OUTAGE_SECONDS = 120.0 if LONG else 10.0
WATCHES = 9
"""Three by kopf, six by informers."""
SILENCE = "90" if LONG else "6"
LEASE_SECONDS = 6.0
"""In these tests an outage is always longer than a lease."""


@pytest.fixture(scope="module")
def site(make_site: Callable[..., AbstractContextManager[Site]]) -> Iterator[Site]:
    """One operator goes through all of it; it would keep its lease for longer than any fault here lasts."""
    with make_site("--lease-seconds=60", f"--silence-seconds={SILENCE}") as found:
        found.wait_leading()
        yield found
        assert not found.bugs(), found.bugs()
        assert not found.exits, found.exits


def lasting(site: Site, fault: Fault, seconds: float, happening: Callable[[], object]) -> None:
    """A fault of `seconds`, however long what happens meanwhile takes."""
    started = time.monotonic()
    site.proxy.fault = fault
    try:
        site.proxy.cut()
        happening()
        wait_for(
            "the end of the fault", lambda: time.monotonic() - started, lambda passed: passed > seconds, seconds=300
        )
    finally:
        site.proxy.fault = None


def test_killed_and_started_again(ns: Kubectl, site: Site, control_plane: ControlPlane) -> None:
    scene = Scene(ns, site).before()
    control_plane.restart_apiserver(kill=True)
    took = scene.meanwhile().after()
    print(f"API server killed and started again: converged {took:.1f} s later")


def test_slow(ns: Kubectl, site: Site) -> None:
    scene = Scene(ns, site).before()
    lasting(site, Fault(delay=1.5), 6, scene.meanwhile)
    print(f"every answer 1.5 s late for 6 s: converged {scene.after():.1f} s later")


def test_versions_expired(ns: Kubectl, site: Site) -> None:
    """410 in the stream: what changed unseen, deletions included, is found by listing again."""
    scene = Scene(ns, site).before()
    lists = site.proxy.lists()
    site.proxy.stall()
    scene.meanwhile()
    site.proxy.expire("event")
    took = scene.after()
    assert site.proxy.lists() >= lists + WATCHES, "everything is listed again"
    print(f"watches expired (410): converged {took:.1f} s later")


def test_watches_silent(ns: Kubectl, site: Site) -> None:
    """A connection that is dead and does not say so: after the time of silence it is given up."""
    scene = Scene(ns, site).before()
    assert site.proxy.stall() >= WATCHES
    took = scene.meanwhile().after(seconds=180)
    print(f"watches silent for ever: converged {took:.1f} s later, {SILENCE} s of silence allowed")
