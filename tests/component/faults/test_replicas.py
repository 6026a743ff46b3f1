"""Two replicas: one leads, and whatever becomes of it, at most one acts."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest

from tests.cluster import objects
from tests.component.faults.site import Site
from tests.support.kubectl import Json, Kubectl
from tests.support.waiting import wait_for

LEASE = 5.0
MARGIN = 2.0

Pair = tuple[Site, Site]


@pytest.fixture(scope="module")
def pair(make_site: Callable[..., AbstractContextManager[Site]]) -> Iterator[Pair]:
    """Two replicas behind a proxy each; neither is called by a pod's name, so a new process is a new candidate."""
    with make_site(f"--lease-seconds={LEASE:.0f}") as one, make_site(f"--lease-seconds={LEASE:.0f}") as two:
        one.wait_ready()
        two.wait_ready()
        yield one, two
        for site in (one, two):
            assert not site.bugs(), site.bugs()


def roles(pair: Pair) -> Pair:
    """(leader, other), once there is a leader and the other is ready to be one."""
    for site in pair:
        site.wait_ready()
    return wait_for(
        "one of two to lead",
        lambda: sorted(pair, key=lambda site: not site.leads()),
        lambda found: [site.leads() for site in found] == [True, False],
    )[0:2]  # type: ignore[return-value]


def lease(kubectl: Kubectl) -> Json:
    return dict(kubectl.within("kube-system").get("lease", "aifactory.dev")["spec"])


def renewed_at(kubectl: Kubectl, moment: datetime) -> None:
    """What a holder with a wrong clock would have written."""
    patch = {"spec": {"renewTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
    kubectl.within("kube-system").run("patch", "lease", "aifactory.dev", "--type=merge", "-p", json.dumps(patch))


@pytest.mark.parametrize("hours", [-1, 1], ids=["an hour behind", "an hour ahead"])
def test_a_skewed_clock_is_not_believed(kubectl: Kubectl, pair: Pair, hours: int) -> None:
    """Neither does an old time make the lease look free, nor can the holder be confused by a time that is to come."""
    roles(pair)
    before = lease(kubectl)
    skewed = datetime.now(UTC) + timedelta(hours=hours)
    renewed_at(kubectl, skewed)
    deadline = time.monotonic() + LEASE + MARGIN
    seen = wait_for(
        "two lease durations of renewals",
        lambda: (lease(kubectl), time.monotonic() > deadline),
        lambda seen: seen[1] and abs((_time(seen[0]) - datetime.now(UTC)).total_seconds()) < 60,
        seconds=60,
    )[0]
    assert seen["holderIdentity"] == before["holderIdentity"]
    assert seen["leaseTransitions"] == before["leaseTransitions"]


def test_a_killed_leader_is_followed_in_time(ns: Kubectl, kubectl: Kubectl, pair: Pair) -> None:
    """Also when the last renewal says that it was made in an hour from now."""
    leader, other = roles(pair)
    ns.apply(objects.job("both", ["true"], nodes=2))
    wait_for("two pods", lambda: ns.list("pods"), lambda found: len(found) == 2)
    leader.restart = False
    leader.operator.kill()
    killed = time.monotonic()
    renewed_at(kubectl, datetime.now(UTC) + timedelta(hours=1))
    changed = time.monotonic()
    ns.apply(objects.job("orphan", ["true"], nodes=2))
    wait_for("the successor's pods", lambda: other.pods_created(ns.namespace or ""), lambda found: len(found) == 2)
    first = next(seen.at for seen in other.proxy.writes if seen.at > killed)
    leader.restart = True
    print(f"leader killed: successor's first write {first - killed:.1f} s later, lease {LEASE:.0f} s")
    # The lease runs from its last change, which here is the false renewal.
    assert first - changed <= LEASE + MARGIN
    found = wait_for("four pods", lambda: ns.list("pods"), lambda found: len(found) >= 4)
    assert sorted(pod["metadata"]["name"] for pod in found) == ["both-0-0", "both-1-0", "orphan-0-0", "orphan-1-0"]
    created = [site.pods_created(ns.namespace or "") for site in (leader, other)]
    assert [len(paths) for paths in created] == [2, 2], "a pod was created twice"


def test_a_leader_that_hangs_writes_nothing_when_it_comes_back(ns: Kubectl, pair: Pair) -> None:
    """SIGSTOP, the lease runs out, another leads, SIGCONT: it has work waiting and must not do it."""
    leader, other = roles(pair)
    ns.apply(objects.job("first", ["true"]))
    wait_for("its pod", lambda: ns.list("pods"), lambda found: len(found) == 1)
    hung = leader.operator.process
    hung.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        # Both see these events; the hung one has them in its socket when it wakes up.
        ns.apply(*(objects.job(f"more-{number}", ["true"]) for number in range(5)))
        wait_for("the successor to lead", other.leads, bool)
        wait_for("the successor's pods", lambda: ns.list("pods"), lambda found: len(found) == 6)
        ns.run("delete", "pod", "--all", "--grace-period=0", "--force", "--wait=false")
        took = time.monotonic() - stopped
    finally:
        hung.send_signal(signal.SIGCONT)
    continued = time.monotonic()
    wait_for("it to step down", lambda: "this replica stops acting" in leader.operator.words(), bool, seconds=30)
    print(f"leader hung: replaced after {took:.1f} s, stepped down {time.monotonic() - continued:.1f} s after SIGCONT")
    leader.wait_ready()
    assert hung.poll() is None, "it takes part again, as a replica that waits"
    late = [seen for seen in leader.proxy.writes if seen.at > stopped]
    assert not late, f"written after the lease was lost: {late}"


def _time(spec: Json) -> datetime:
    return datetime.fromisoformat(str(spec["renewTime"]).replace("Z", "+00:00"))
