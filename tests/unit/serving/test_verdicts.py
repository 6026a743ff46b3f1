"""How far a candidate has come, and why it is taken back: one look at a time, with what is told in full."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.apply import Applied
from aifactory.kube.podstate import Crash
from aifactory.serving.rollout import Progress, Verdict, deadline, progress, retry_time, verdict
from aifactory.serving.state import Observed, RevisionView, ServingPodView, Wish
from tests.unit.serving.builders import NOW, SETTINGS, pool, version

SINCE = NOW - timedelta(seconds=1800)
UNDER_WAY = {"phase": "Progressing", "revision": "new", "mostReady": 1, "progressTime": SINCE}
RECENTLY = {"progressTime": SINCE + timedelta(seconds=1)}


def pod(name: str, revision: str = "new", **changes: Any) -> ServingPodView:
    return ServingPodView(name, revision, **{"node": f"node-of-{name}", **changes})


def observed(*pods: ServingPodView, ready: int | None = 1, wanted: int = 2, rollout: Any = None) -> Observed:
    """Revision `new` and its pods; it has no Deployment if `ready` is None."""
    views = () if ready is None else (RevisionView(Applied("chat-new", "uid"), "new", wanted, ready=ready),)
    status = {"rollout": rollout} if rollout is not None else {}
    return Observed(pool(replicas=3, status=status), SETTINGS, revisions=views, pods=pods)


@pytest.mark.parametrize(
    ("spec", "seconds"), [({}, 1800), ({"rollout": {}}, 1800), ({"rollout": {"progressDeadlineSeconds": 60}}, 60)]
)
def test_a_candidate_may_take_half_an_hour_or_what_is_asked_for(spec: Any, seconds: int) -> None:
    assert deadline(pool(**spec).spec) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("rollout", "ready", "wanted", "reached"),
    [
        pytest.param(None, 1, 2, Progress(NOW, 1, resumed=False), id="it begins"),
        pytest.param(None, None, 0, Progress(NOW, 0, resumed=False), id="it has no pods yet"),
        pytest.param({**UNDER_WAY, "phase": "Complete"}, 1, 2, Progress(NOW, 1, resumed=False), id="another time"),
        pytest.param({**UNDER_WAY, "revision": "old"}, 1, 2, Progress(NOW, 1, resumed=False), id="another revision"),
        pytest.param(
            {**UNDER_WAY, "progressTime": None, "mostReady": 2},
            1,
            2,
            Progress(NOW, 2, resumed=False),
            id="an earlier release wrote no time",
        ),
        pytest.param(UNDER_WAY, 2, 3, Progress(NOW, 2, resumed=False), id="one pod more"),
        pytest.param(UNDER_WAY, 1, 2, Progress(SINCE, 1, resumed=False), id="late"),
        pytest.param(UNDER_WAY, 1, 1, Progress(NOW, 1, resumed=True), id="late, but nobody asked for another pod"),
        pytest.param(UNDER_WAY, None, 0, Progress(NOW, 1, resumed=True), id="late, but nobody asked for any pod"),
        pytest.param(
            {**UNDER_WAY, **RECENTLY}, 1, 1, Progress(RECENTLY["progressTime"], 1, resumed=False), id="in a moment"
        ),
    ],
)
def test_how_far_a_candidate_has_come(rollout: Any, ready: int | None, wanted: int, reached: Progress) -> None:
    seen = observed(ready=ready, wanted=wanted, rollout=rollout)
    wish = Wish(version(2), "new", "image", "new")
    moment = NOW + timedelta(microseconds=5)
    assert progress(seen, wish, "Surge", ready or 0, moment) == reached, "whole seconds"


LOAD = {"load_error": "LoadFailed: no such layer: h.7"}
CRASH = {"crash": Crash("triton", 1, "Error", "no such flag", restarts=3)}
CRASHED = (
    "container triton of pod b ends again and again, last with exit code 1: no such flag; "
    "read more with kubectl -n ns logs b -c triton --previous"
)


@pytest.mark.parametrize(
    ("pods", "most", "told"),
    [
        pytest.param(
            [pod("a"), pod("b", **LOAD), pod("c", load_error="stale", ready=True), pod("d", "old", **LOAD)],
            0,
            Verdict(
                Reason.MODEL_LOAD_FAILED,
                "it does not load: LoadFailed: no such layer: h.7 (1 pod on 1 node failed, and none has it loaded)",
                mendable=False,
            ),
            id="one pod does not load it",
        ),
        pytest.param(
            [pod("a", **LOAD), pod("b", **LOAD), pod("c", terminating=True, **LOAD)],
            0,
            Verdict(
                Reason.MODEL_LOAD_FAILED,
                "it does not load: LoadFailed: no such layer: h.7 (2 pods on 2 nodes failed, and none has it loaded)",
                mendable=False,
            ),
            id="two pods do not load it",
        ),
        pytest.param([pod("a", **LOAD)], 1, None, id="one had it loaded"),
        pytest.param([pod("a", "old", **LOAD)], 0, None, id="another revision does not load"),
        pytest.param([pod("a", load_error="StoreUnavailable: x")], 0, None, id="it may pass"),
        pytest.param(
            [pod("a", "old", **CRASH), pod("b", **CRASH), pod("c", terminating=True, **CRASH)],
            1,
            Verdict(
                Reason.CRASH_LOOP_BACK_OFF, f"{CRASHED} (1 pod on 1 node failed, and none is ready)", mendable=False
            ),
            id="one pod crashes",
        ),
        pytest.param(
            [pod("b", **CRASH), pod("c", crash=Crash("triton", 2, restarts=2)), pod("d")],
            0,
            Verdict(
                Reason.CRASH_LOOP_BACK_OFF, f"{CRASHED} (1 pod on 1 node failed, and none is ready)", mendable=False
            ),
            id="one pod crashes, and another has begun to",
        ),
        pytest.param([pod("b", **CRASH), pod("c", ready=True)], 0, None, id="one pod crashes, another is ready"),
        pytest.param([pod("b", crash=Crash("triton", 1, restarts=2))], 0, None, id="it has not crashed often"),
        pytest.param([], 0, None, id="nothing is known"),
    ],
)
def test_what_pods_say_against_a_candidate(pods: Any, most: int, told: Verdict | None) -> None:
    assert verdict(observed(*pods), "new", Progress(NOW, most), 3, NOW) == told


@pytest.mark.parametrize("reason", ["AccessDenied", "StoreFull"])
def test_what_somebody_can_mend_outside_the_pool(reason: str) -> None:
    told = verdict(observed(pod("a", load_error=f"{reason}: s3://b: no")), "new", Progress(NOW, 0), 3, NOW)
    assert told is not None
    assert told.mendable


@pytest.mark.parametrize(
    ("since", "ready", "told"),
    [
        (SINCE, 1, True),
        (SINCE, None, False),
        (SINCE, 2, False),
        (SINCE + timedelta(seconds=1), 1, False),
    ],
)
def test_the_time_is_over_when_a_pod_that_was_asked_for_is_late(since: Any, ready: int | None, told: bool) -> None:
    found = verdict(observed(ready=ready), "new", Progress(since, 1), 3, NOW)
    words = "it made no progress for 1800 s (spec.rollout.progressDeadlineSeconds): 1 of 3 pods are ready"
    assert found == (Verdict(Reason.ROLLOUT_DEADLINE_EXCEEDED, words, mendable=True) if told else None)


def test_what_was_in_the_way_is_told_when_the_time_is_over() -> None:
    found = verdict(observed(pod("a", unschedulable="no GPU")), "new", Progress(SINCE, 1), 3, NOW)
    assert found is not None
    assert found.message.endswith("1 of 3 pods are ready; pod a has no node: no GPU; correct spec.template")


@pytest.mark.parametrize(
    "trouble",
    [
        {"load_error": f"LoadFailed: {'x' * 2000}"},
        {"crash": Crash("triton", 1, "Error", "x" * 2000, restarts=3)},
        {"unschedulable": "x" * 2000},
    ],
)
def test_words_of_others_leave_room_for_ours(trouble: Any) -> None:
    found = verdict(observed(pod("a", **trouble)), "new", Progress(SINCE, 0), 3, NOW)
    assert found is not None
    assert 400 < len(found.message) < 800


def test_the_next_try_is_at_a_whole_second() -> None:
    assert retry_time(NOW + timedelta(microseconds=7), 1) == NOW + timedelta(seconds=60)
