"""A control plane that may be killed, and operators behind proxies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from localcluster.controlplane import ControlPlane
from tests.component.faults.proxy import FaultProxy
from tests.component.faults.site import Site
from tests.support.kubectl import ROOT, Kubectl, binary

LONG = os.environ.get("AIFACTORY_LONG") == "1"
"""The long profile: outages of two minutes and the operator's real time-outs."""


@pytest.fixture(scope="package")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager, for these tests alone."""
    with ControlPlane(controllers=True) as plane:
        apply_crds(Kubectl(binary("kubectl"), str(plane.kubeconfig)))
        yield plane


@pytest.fixture(scope="package")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl for that control plane, past every proxy."""
    return Kubectl(binary("kubectl"), str(control_plane.kubeconfig))


@pytest.fixture(scope="package")
def make_site(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Site]]:
    """Makes an operator behind a proxy of its own that is started again whenever it ends."""

    @contextlib.contextmanager
    def make(*args: str, pod: str = "", kubeconfig: Path | None = None) -> Iterator[Site]:
        directory = tmp_path_factory.mktemp("site")
        proxy = FaultProxy(control_plane.kubeconfig, directory)
        site = Site(proxy, kubeconfig or proxy.kubeconfig, directory, *args, pod=pod)
        try:
            yield site
        finally:
            site.close()
            proxy.close()

    return make


def apply_crds(kubectl: Kubectl) -> None:
    """Install the CRDs and wait until they are served."""
    kubectl.run("apply", "-f", str(ROOT / "crds"))
    kubectl.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
