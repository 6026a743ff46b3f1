"""Views of pods are made once for each pod as it is, and never kept for one that has changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aifactory.kube.objects import Pod
from aifactory.kube.podstate import NO_TROUBLE, Trouble
from aifactory.training import domain
from aifactory.training.domain import PodViews, pod_view


def a_pod(uid: str = "u", phase: str = "Pending") -> Pod:
    body: dict[str, Any] = {"metadata": {"name": f"pod-{uid}", "uid": uid}, "spec": {}, "status": {"phase": phase}}
    return msgspec.convert(body, Pod)


def test_a_view_is_made_again_only_for_what_has_changed() -> None:
    views, pod, changed, told = PodViews(), a_pod(), a_pod(phase="Running"), Trouble("FailedMount", "no such Secret")
    first = views.of(pod, NO_TROUBLE)
    assert first == pod_view(pod)
    assert views.of(pod, NO_TROUBLE) is first
    assert views.of(pod, told) == pod_view(pod, told)
    assert views.of(pod, told) != first
    assert views.of(changed, NO_TROUBLE) == pod_view(changed)
    assert views.of(changed, NO_TROUBLE) != first
    kept = views.of(changed, NO_TROUBLE)
    views.of(a_pod("another"), NO_TROUBLE)
    assert views.of(changed, NO_TROUBLE) is kept


def test_views_of_pods_that_are_gone_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_VIEWS", 10)
    views, pods = PodViews(), [a_pod(str(number)) for number in range(25)]
    for pod in pods:
        assert views.of(pod, NO_TROUBLE) == pod_view(pod)
        assert len(views._views) <= 10
