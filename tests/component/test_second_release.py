"""Two releases of the chart on one API server, each with the chart's rights: they never both act, and say so."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.component.conftest import Operator
from tests.support.kubectl import ROOT, Kubectl, binary, command
from tests.support.waiting import wait_for

LEASE = 3
PATIENCE = 4 * LEASE

NIGHT = pytest.mark.skipif(os.environ.get("AIFACTORY_LONG") != "1", reason="long: make test-night runs it")

Install = Callable[..., Operator]


@pytest.fixture
def install(ns: Kubectl, kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Install]:
    """Installs a release into the test's namespace and runs its operator, as the chart would."""
    started, manifests = [], []

    def start(release: str, watch: str = "") -> Operator:
        chart = [str(ROOT / "charts/aifactory"), f"--namespace={ns.namespace}"]
        chart += [f"--set=watchNamespaces={{{watch}}}"] if watch else []
        rights = command([binary("helm"), "template", release, *chart, "--show-only=templates/rbac.yaml"])
        kubectl.run("apply", "-f", "-", stdin=rights)
        manifests.append(rights)
        account = "-".join(part for part in (release, "operator", watch) if part)
        user = f"system:serviceaccount:{ns.namespace}:{account}"
        groups = ("system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{ns.namespace}")
        operator = Operator(
            str(control_plane.identity(user, groups)),
            tmp_path / f"{release}.log",
            f"--release={ns.namespace}/{release}",
            f"--lease-seconds={LEASE}",
            *([f"--namespace={watch}"] if watch else []),
            POD_NAME=f"{release}-0",
            POD_NAMESPACE=str(ns.namespace),
            POD_UID=f"uid-of-{release}",
        )
        started.append(operator)
        return operator

    yield start
    for operator in started:
        operator.kill()
    for rights in manifests:
        kubectl.run("delete", "--ignore-not-found", "-f", "-", stdin=rights)
    # The next test's releases need not wait until these are taken for gone.
    kubectl.within("kube-system").run("delete", "lease", "aifactory.dev", f"{ns.namespace}.aifactory.dev", check=False)


def leads(operator: Operator) -> bool:
    pages = [line for line in operator.fetch("/metrics").splitlines() if line.startswith("leader_election_master")]
    return any(line.endswith(" 1.0") for line in pages)


def wait_leading(operator: Operator, seconds: float = 60) -> None:
    wait_for("it to lead", lambda: (leads(operator), operator.words()), lambda seen: seen[0], seconds=seconds)


def wait_waiting(operator: Operator, words: str) -> None:
    wait_for("it to wait", lambda: operator.fetch("/readyz") + operator.words(), lambda seen: words in seen, seconds=60)
    assert not leads(operator)


@pytest.mark.parametrize(
    ("first_all", "second_all"),
    [
        pytest.param(True, True, id="all namespaces, then all"),
        pytest.param(False, True, id="one namespace, then all"),
        pytest.param(True, False, id="all namespaces, then one", marks=NIGHT),
        pytest.param(False, False, id="one namespace, then the same", marks=NIGHT),
    ],
)
def test_a_second_release_does_not_act_and_says_so(
    ns: Kubectl, install: Install, first_all: bool, second_all: bool
) -> None:
    watched = str(ns.namespace)
    first = install("first", "" if first_all else watched)
    wait_leading(first)
    second = install("second", "" if second_all else watched)
    what = "all namespaces" if first_all else f"namespace {watched}"
    words = f"release {watched}/first acts on {what}"
    wait_waiting(second, words)
    assert 'aifactory_waits_for_release{name="' in second.fetch("/metrics")
    assert words in second.words()
    events = wait_for("its Event", lambda: ns.list("events", ""), lambda seen: "second-0" in str(seen))
    assert any(words in event["message"] for event in events if event["involvedObject"]["name"] == "second-0")
    ns.apply(objects.job("one", ["true"]))
    wait_for("its pod", lambda: ns.list("pods"), lambda seen: len(seen) == 1)

    first.kill()
    killed = time.monotonic()
    wait_leading(second, PATIENCE + 30)
    print(f"the first was killed: the second leads {time.monotonic() - killed:.1f} s later, lease {LEASE} s")
    second.wait_ready(10)
    ns.apply(objects.job("two", ["true"]))
    wait_for("the pod of the next job", lambda: ns.list("pods"), lambda seen: len(seen) == 2)
    first = install("first", "" if first_all else watched)
    wait_waiting(first, f"release {watched}/second acts on")


def test_releases_with_namespaces_of_their_own_both_act(ns: Kubectl, kubectl: Kubectl, install: Install) -> None:
    watched = str(ns.namespace)
    kubectl.run("create", "namespace", f"{watched}-b")
    other = kubectl.within(f"{watched}-b")
    try:
        one, two = install("first", watched), install("second", f"{watched}-b")
        wait_leading(one)
        wait_leading(two)
        for place in (ns, other):
            place.apply(objects.job("mine", ["true"]))
            wait_for("its pod", lambda place=place: place.list("pods"), lambda seen: len(seen) == 1)  # type: ignore[misc]
    finally:
        kubectl.run("delete", "namespace", f"{watched}-b", "--wait=false")
        kubectl.within("kube-system").run("delete", "lease", f"{watched}-b.aifactory.dev", check=False)


def test_the_crds_of_another_release_are_told_with_the_way_on(kubectl: Kubectl) -> None:
    """Helm says whose they are, and not what to do."""
    crd = ("crd", "trainingjobs.aifactory.dev")
    kubectl.run("annotate", *crd, "meta.helm.sh/release-name=first", "meta.helm.sh/release-namespace=system")
    try:
        chart = [str(ROOT / "charts/aifactory"), "--kubeconfig", kubectl.kubeconfig, "--dry-run=server"]
        install = [binary("helm"), "install", "second", *chart]
        refused = subprocess.run(install, capture_output=True, text=True, check=False)
        assert refused.returncode
        assert "are those of release first in namespace system: add --set crds.install=false" in refused.stderr
        command([*install, "--set", "crds.install=false"])
    finally:
        kubectl.run("annotate", *crd, "meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")
