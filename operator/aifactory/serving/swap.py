"""From one version to another in the pods that run: whether that is possible, and how far they are.

The pods' agents load the new version beside the old one, which answers until the new one does, and is kept at hand
afterwards. So what is given up at any time costs nothing: the pods are told to serve the old one again.

What always holds: a version counts as served when each ready pod has said that it answers from it; no pod is asked to
end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from aifactory.api import names
from aifactory.api.inferencepool import RevisionStatus, RolloutStatus, SwappingPod
from aifactory.api.sizes import human_size
from aifactory.serving import room, shape, steps, traffic
from aifactory.serving.measure import figure
from aifactory.serving.state import Observed, RevisionView, ServingPodView, VersionView, Wish, title

HOT_SWAP: Final = "HotSwap"
SURGE: Final = "Surge"
NO_ROOM: Final = "NoRoom"
"""The agent's reason when a version does not load for want of memory: it may in pods of its own."""
MOST_PODS: Final = 20
"""In the status."""
MAX_WORDS: Final = 200
"""Characters there of what keeps one pod."""
SILENCE: Final = timedelta(seconds=60)
"""After which pods of which none has said anything are left alone."""
_SPARE_BYTES: Final = 128 * 1024 * 1024
"""Of the pods' volume, for what else is written there."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a change is made."""

    strategy: str
    reason: str
    refused: bool = False
    """It can not be made as the user insists."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """How far the pods of a set are."""

    done: tuple[ServingPodView, ...]
    """Ready pods that serve what they are told to, and have been told nothing else since."""
    missing: tuple[ServingPodView, ...]
    """Ready pods that do not yet, and others that may become ready without having heard of it."""

    @property
    def load_seconds(self) -> float | None:
        """The longest load."""
        return max((seconds for pod in self.done if (seconds := _load_seconds(pod)) is not None), default=None)


def choose(observed: Observed, target: VersionView, revision: str) -> Choice:
    """How the pool gets from what it serves to another revision."""
    spec = observed.pool.spec.rollout
    wished = spec.strategy if spec is not None and spec.strategy is not None else "Auto"
    if wished == SURGE:
        return Choice(SURGE, "spec.rollout.strategy is Surge")
    if wished == steps.CANARY:
        return Choice(steps.CANARY, "spec.rollout.strategy is Canary")
    over = any(traffic.is_under_way(observed.pool.status, each, revision) for each in (HOT_SWAP, SURGE))
    if wished == steps.SHADOW and not over:
        return Choice(steps.SHADOW, "spec.rollout.strategy is Shadow")
    if wished == "Auto" and steps.steps_of(observed.pool):
        return Choice(steps.CANARY, "there are spec.rollout.steps")
    if traffic.is_under_way(observed.pool.status, steps.CANARY, revision):
        return Choice(SURGE, "its pods were made for a Canary, and there are no spec.rollout.steps any more")
    return _choose_pods(observed, target, revision, insists=wished == HOT_SWAP)


def refusal(choice: Choice) -> str:
    """What to tell of a change that can not be made as the user insists."""
    return (
        f"spec.rollout.strategy is HotSwap, and {choice.reason}; write Auto or Surge, which makes new pods, "
        "or give the pods more room"
    )


def after_shadow(observed: Observed, wish: Wish) -> Choice:
    """How the pool goes over to what it has copied requests to."""
    chosen = _choose_pods(observed, wish.version, wish.revision, insists=False)
    return replace(chosen, reason=f"its Shadow is over; {chosen.reason}")


def _choose_pods(observed: Observed, target: VersionView, revision: str, *, insists: bool) -> Choice:
    """Those that run, where that is possible, or new ones."""
    under_way = observed.pool.status.rollout
    if words := _needs_new_pods(observed, target, revision):
        return Choice(SURGE, words)
    if under_way is not None and under_way.revision == revision and _goes_on(under_way):
        return Choice(under_way.strategy or SURGE, under_way.strategy_reason or "")
    if words := _too_little_room(observed, target):
        return Choice(HOT_SWAP, words, refused=True) if insists else Choice(SURGE, words)
    if target.beside is not None:
        return Choice(HOT_SWAP, f"the pods have room for {target.name} beside all that they serve")
    return Choice(HOT_SWAP, "only the version differs, and the pods have room for both")


def _goes_on(change: RolloutStatus) -> bool:
    """What has begun goes on as it began; a surge also when it is tried again, as the pods may have had no room."""
    again = change.strategy == SURGE and change.phase == "Failed"
    return again or (change.strategy in (HOT_SWAP, SURGE) and change.phase == "Progressing")


def instead(observed: Observed, wish: Wish, waited: timedelta) -> Choice | None:
    """How else to get to a version, if the user lets it: a pod has no room for it beside the old one, or none answers.

    Args:
        observed: what there is.
        wish: the version, in the pods that run.
        waited: since the last pod has changed over, or since the change began.
    """
    spec = observed.pool.spec.rollout
    if spec is not None and spec.strategy == HOT_SWAP:
        return None
    ready = [pod for pod in _members(observed, wish) if pod.ready]
    if ready and waited >= SILENCE and all(pod.silent for pod in ready):
        return Choice(SURGE, f"no agent of the pods can be asked what it serves, at port {names.AGENT_PORT}")
    reasons = ((pod, *text.partition(": ")[::2]) for pod, text in failures(observed, wish))
    found = ((pod, words) for pod, reason, words in reasons if reason == NO_ROOM)
    return next((Choice(SURGE, f"pod {pod.name} can not hold both versions: {words}") for pod, words in found), None)


def is_unfinished(observed: Observed, wish: Wish) -> bool:
    """Whether pods that are to serve what they served before may be on their way to something else, or back."""
    if observed.find(wish.pods) is None:
        return False
    under_way = observed.pool.status.rollout
    swapping = under_way is not None and under_way.phase == "Progressing" and under_way.strategy == HOT_SWAP
    said = {pod.report.revision for pod in look(observed, wish).missing if pod.report is not None}
    return swapping or bool({observed.assigned(wish.pods), *said} - {"", wish.revision})


def said(observed: Observed, pods: str) -> set[str]:
    """Revisions that pods of a set have said they were told to serve."""
    return {pod.report.revision for pod in observed.pods if pod.revision == pods and pod.report is not None}


def look(observed: Observed, wish: Wish) -> Swapped:
    """How far the pods are on their way to the wish."""
    pods = _members(observed, wish)
    # What a pod has said before it was told something else may be over by now.
    done = tuple(pod for pod in pods if pod.ready and serves(pod, wish.revision) and pod.told in ("", wish.revision))
    missing = (pod for pod in pods if (pod.ready or _may_not_know(pod, wish.revision)) and pod not in done)
    return Swapped(done, tuple(missing))


def _members(observed: Observed, wish: Wish) -> list[ServingPodView]:
    """The pods that are to serve the wish, by name; those that end are none of them any more."""
    found = (pod for pod in observed.pods if pod.revision == wish.pods and not pod.terminating)
    return sorted(found, key=lambda pod: pod.name)


def _may_not_know(pod: ServingPodView, revision: str) -> bool:
    return pod.running and (pod.report is None or pod.report.revision != revision)


def serves(pod: ServingPodView, revision: str) -> bool:
    """Whether a pod has said that it serves a revision."""
    return pod.report is not None and pod.report.ready and pod.report.revision == revision


def failures(observed: Observed, wish: Wish) -> list[tuple[ServingPodView, str]]:
    """Pods that can not serve what they were told to, and why; of several models only the one that changes counts."""
    return [
        (pod, words)
        for pod in _members(observed, wish)
        if pod.report and pod.report.revision == wish.revision and (words := pod.report.error_of(wish.version.model))
    ]


def to_nudge(observed: Observed, pods: str, revision: str, *, all_of_them: bool) -> list[str]:
    """Pods that may not have seen yet what they are told to serve now, by name.

    Args:
        all_of_them: also those that nothing is known of; else only those that have been told, or say, something else.
    """
    if observed.assigned(pods) != revision:
        return []  # the ConfigMap comes first: the kubelet would bring the old one
    found = []
    for pod in observed.pods:
        if pod.revision != pods or pod.terminating or pod.told == revision:
            continue
        said = pod.report.revision if pod.report is not None else ""
        if pod.told or (said != revision and (all_of_them or said)):
            found.append(pod.name)
    return sorted(found)


def warm(observed: Observed, wish: Wish) -> VersionView | None:
    """The version that pods keep at hand beside what they are told to serve: what they served before."""
    pool, status = observed.pool, observed.pool.status
    before = status.stable if traffic.stable_revision(status) != wish.revision else status.previous
    if before is None or not before.revision or traffic.pods_of(pool, before) != wish.pods:
        return None
    found = observed.served(before)
    if found is None or not shape.assigns(before.revision, found):
        return None
    if shape.pods_of(before.revision) != shape.pods_of(wish.revision):
        return None
    # Of several models only the one that changed has another version now; one that is no longer served goes.
    now = {each.model: each.name for each in wish.version.all}
    left = (each for each in found.all if wish.version.beside is None or now.get(each.model, each.name) != each.name)
    return next((each for each in left if not each.deleting), None)


def answering(observed: Observed, stable: RevisionStatus | None = None) -> Iterable[RevisionView]:
    """Sets of pods under the names of the versions that answer; one on its way from one to another is there twice.

    Args:
        observed: what there is.
        stable: what takes the traffic now, where that is another one than the status tells.
    """
    stable = stable or observed.pool.status.stable
    for view in observed.revisions:
        if stable is None or view.revision != traffic.pods_of(observed.pool, stable):
            yield view
            continue
        named = Counter(
            _version_name(observed, stable, pod)
            for pod in observed.pods
            if pod.revision == view.revision and pod.ready and not pod.terminating
        )
        served = name_of(stable)
        others = {name: count for name, count in named.items() if name != served}
        kept = max(0, view.ready - sum(others.values()))
        for name, count in {served: kept, **others}.items():
            yield replace(view, model_version=name, ready=min(count, view.ready))


def pods_status(observed: Observed, wish: Wish) -> tuple[SwappingPod, ...]:
    """Each pod of the set, for the status."""
    return tuple(_pod_status(pod, wish) for pod in _members(observed, wish)[:MOST_PODS])


def seconds(value: float | None) -> str | None:
    """As it stands in the status."""
    return figure(value) if value is not None else None


def _load_seconds(pod: ServingPodView) -> float | None:
    return pod.report.load_seconds if pod.report is not None else None


def name_of(stable: RevisionStatus) -> str:
    """What a revision serves, in words."""
    return title(each.model_version for each in stable.models) if stable.models else stable.model_version


def _pod_status(pod: ServingPodView, wish: Wish) -> SwappingPod:
    report = pod.report
    if report is None:
        return SwappingPod(name=pod.name)
    there = serves(pod, wish.revision)
    error = report.error_of(wish.version.model) if report.revision == wish.revision else ""
    return SwappingPod(
        name=pod.name,
        version=report.version_of(wish.version.model),
        load_seconds=seconds(report.load_seconds) if there else None,
        message=error[:MAX_WORDS] or None,
    )


def _version_name(observed: Observed, stable: RevisionStatus, pod: ServingPodView) -> str:
    """The name of the ModelVersion that a pod of the stable set answers from, or of those."""
    if stable.models is not None:
        said = dict(pod.report.answers) if pod.report is not None else {}
        told = {each.name: (each.version, each.model_version) for each in stable.models}
        there = {view.model: view.name for view in observed.versions if said.get(view.model) == view.version}
        return title(there.get(model, name) for model, (_, name) in told.items())
    number = pod.report.version if pod.report is not None else None
    if number is None or number == stable.version:
        return stable.model_version
    found = next((view.name for view in observed.versions if view.version == number), None)
    return found if found is not None else stable.model_version


def _needs_new_pods(observed: Observed, target: VersionView, revision: str) -> str:
    """Why the pods that take the traffic can not serve a revision, whatever room they have; empty if they can."""
    stable, view = observed.pool.status.stable, observed.find(traffic.stable_pods(observed.pool))
    if stable is None or view is None or view.terminating:
        return "there are no pods that could change over"
    pods = (pod for pod in observed.pods if pod.revision == view.revision and not pod.ready and not pod.terminating)
    if crashing := [pod.name for pod in pods if pod.crash is not None]:
        return f"a container of pod {crashing[0]} ends again and again"
    if shape.shape_version(stable.revision) != shape.CURRENT:
        return "the pods were made by an earlier release of the operator"
    if shape.pods_of(stable.revision) != shape.pods_of(revision):
        return (
            "more than the version differs: image, template, drain or engine of the pods, "
            "or format, claim or secret of the version"
        )
    # Each pod would have to let go of what it serves before it could fetch another one of the same number.
    if target.beside is not None:
        before = observed.served(stable)
        if before is None or not shape.assigns(stable.revision, before):
            return "what is served is no longer there as it was, or is to be served by another engine"
        formats = {each.model: each.format for each in before.all}
        if other := [each.name for each in target.all if formats.get(each.model, each.format) != each.format]:
            return f"the format of {', '.join(other)} is another one than that of the version before it"
    elif stable.version == target.version and stable.revision != revision:
        return f"version {target.version} is another artifact than the one that is served under this number"
    return ""


def _size(versions: Iterable[VersionView]) -> int:
    """Bytes of artifacts, those that are known."""
    return sum(each.size_bytes or 0 for each in versions)


def _too_little_room(observed: Observed, target: VersionView) -> str:
    """Why the pods may not hold a version beside the one they serve; empty if they do, as far as can be told."""
    stable, view = observed.pool.status.stable, observed.find(traffic.stable_pods(observed.pool))
    name = stable.model_version if stable is not None else ""
    old = observed.served(stable)
    served = old.all if old is not None else ()
    known = {each.name for each in served}
    # In a pool of one model another artifact of the same name counts too: it is a new one.
    new = [each for each in target.all if target.beside is None or each.name not in known]
    together = [*served, *new]
    sizes = [each.size_bytes for each in together if each.size_bytes is not None]
    if old is None or len(sizes) < len(together) or view is None or not view.room:
        return f"the size of {target.name} or {name} is not known"
    called = " and ".join([", ".join(each.name for each in served), *(each.name for each in new)])
    both = _size(together)
    if both > view.room - _SPARE_BYTES:
        return f"the pods' volume was made for {human_size(view.room)}, and {called} are {human_size(both)} together"
    limit, written = room.memory_limit(observed.pool)
    if limit is None:
        return ""
    if observed.on_demand:  # the others make room
        changing = [each for each in together if each.model in {one.model for one in new}]
        together, called, both = changing, " and ".join(each.name for each in changing), _size(changing)
    allowed = f"resources.limits.memory of container {names.CONTAINER_TRITON} is {written}"
    taken = [each.memory_bytes for each in together if each.memory_bytes is not None]
    if len(taken) == len(together):
        needed = sum(taken)
        if needed + room.SERVER_BYTES > limit:
            took = f"{human_size(needed)} when they were tried, Triton {human_size(room.SERVER_BYTES)}"
            return f"{called} took {took}, and {allowed}"
    elif 2 * both > limit:
        return f"{called} are {human_size(both)} together, a CPU may need twice that, and {allowed}"
    return ""
