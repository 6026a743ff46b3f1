"""Pods that do not end: when that is told, of which pod, and in which words."""

from __future__ import annotations

from datetime import timedelta

from aifactory.training import nodeloss
from aifactory.training.state import PodView
from tests.unit.training.builders import NOW, job, observe, pod


def ending(index: int, late: float) -> PodView:
    """A pod whose grace period has been over for so many seconds."""
    due = NOW - timedelta(seconds=late)
    return pod(index, running=True, terminating=True, due_to_end=due, node=f"gpu-{index}")


def stuck(*pods: PodView, **lost: str) -> str:
    nodes = {name.replace("_", "-"): words for name, words in lost.items()}
    return nodeloss.stuck(observe(job(nodes=3), *pods, lost_nodes=nodes), pods, NOW)


def test_it_is_told_a_minute_after_the_grace_period_with_every_way_out() -> None:
    assert stuck(ending(0, 59), pod(1, running=True)) == ""
    assert stuck(ending(0, 60)) == (
        "pod train-0-0 should have ended at 2026-01-01T11:59:00Z and its node gpu-0 has not confirmed that it has "
        "ended; bring the node back, or, if the machine is off for good, kubectl delete node gpu-0; if only the pod "
        "hangs, make sure that it does not run any more, then kubectl delete pod train-0-0 --force"
    )


def test_of_several_the_one_on_a_node_that_is_known_to_be_lost_is_told() -> None:
    words = stuck(ending(0, 90), ending(1, 90), ending(2, 5), gpu_1="is gone", gpu_2="is gone")
    assert words.startswith(
        "pod train-1-0 (and 1 more) should have ended at 2026-01-01T11:58:30Z and its node gpu-1 is"
    )
    assert stuck(ending(0, 90), ending(1, 90)).startswith("pod train-0-0 (and 1 more)")


def test_the_next_look_is_when_the_first_becomes_late() -> None:
    assert nodeloss.next_look([ending(0, 10), ending(1, 30), ending(2, -30)], NOW) == 30
    assert nodeloss.next_look([ending(0, 59.5)], NOW) == 0.5
    assert nodeloss.next_look([ending(0, 60), ending(1, 3600), pod(2, running=True)], NOW) is None


def test_a_pod_that_has_ended_is_on_no_lost_node() -> None:
    pods = (pod(0, exit_code=1, node="gpu-0"), pod(1, running=True, node="gpu-1"), pod(2, running=True, node="gpu-2"))
    observed = observe(job(nodes=3), *pods, lost_nodes={"gpu-0": "is gone", "gpu-2": "is gone"})
    assert nodeloss.first_lost(observed, pods) == pods[2]
