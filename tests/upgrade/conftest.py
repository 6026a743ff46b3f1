"""Fixtures: the release before, installed into a cluster that has nothing of ours, and a factory at work in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.conftest import cluster, helm, install, kubeconfig, leaving, namespace
from tests.support.kubectl import Kubectl
from tests.upgrade import previous
from tests.upgrade.factory import CRDS, Factory, Release

__all__ = ["cluster", "helm", "kubeconfig", "leaving"]


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory, cluster: Kubectl) -> previous.Previous:
    """The release before; the local cluster has its images."""
    found = previous.unpack(tmp_path_factory.mktemp("release"))
    previous.load_images(found)
    return found


@pytest.fixture(scope="session")
def release(before: previous.Previous, cluster: Kubectl, helm: Callable[..., str]) -> Iterator[Release]:
    """The release before, installed as on the first day; at the end today's chart is there, as other suites want it."""
    present = Release(cluster, helm)
    present.refuse_objects()
    present.remove()
    try:
        present.install(before.chart, f"images.registry={previous.REGISTRY}")
        yield present
    finally:
        install(helm, "--reset-values")
        cluster.run("wait", "--for=condition=Established", "crd", *CRDS, "--timeout=30s")


@pytest.fixture(scope="session")
def factory(leaving: list[str], release: Release, cluster: Kubectl) -> Iterator[Factory]:
    """A job that has ended, one that trains, one that is about to end, and two pools under traffic.

    `leaving` is made before `release`: at the end today's chart is there before the namespace is waited for.
    """
    for within in namespace(cluster, "upgraded", leaving):
        yield Factory(within)
