"""What is wrong with serving pods, told apart by what has to happen: nothing, a person, or another version.

Everything is said in the words of whoever refused (API server, scheduler, kubelet, the container's own last line),
followed by the way out. A pod that is going is never asked: its words are about a revision that may be wanted again by
now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aifactory.api.reasons import Reason
from aifactory.engine.pods import crash_words, needs_person
from aifactory.kube.podstate import Crash
from aifactory.serving.state import Observed, ServingPodView

PASSING = frozenset({"DiskFull", "SourceNotFound", "StoreUnavailable", "TritonUnavailable"})
"""Reasons of the agent that may pass without another version; it tries again by itself (agent: errors.TRANSIENT)."""

_OUT_OF_MEMORY = "OOMKilled"
_DEFAULT_SCHEDULER = "default-scheduler"

_REFUSALS = (
    ("exceeded quota", "raise the quota or ask for less in spec.template"),
    ("must specify", "a ResourceQuota asks for these: write them into spec.template, or add a LimitRange"),
    ("violates podsecurity", "take what it names out of spec.template"),
    ("serviceaccount", "create the ServiceAccount or correct serviceAccountName in spec.template"),
    ("priorityclass", "create the PriorityClass or correct priorityClassName in spec.template"),
    ("denied the request", "change spec.template as the admission webhook or policy asks"),
)
"""What the API server says when it refuses a pod, and the way out."""

_NO_NODE = (
    ("persistentvolumeclaim", "create the claim, or give it a storage class that can provide it"),
    ("volume node affinity", "the volume lies where no such node is: free one there, or move the claim"),
    ("insufficient", "free nodes or GPUs, add a node, or ask for less in spec.template"),
    ("node affinity", "label a node as nodeSelector or affinity in spec.template ask, or correct them"),
    ("untolerated taint", "free nodes or GPUs, or tolerate the taint in spec.template"),
)
"""What the scheduler says when it finds no node, and the way out."""

_NO_PROXY = "make room for it, or go without a gateway: spec.gateway.mode None"
_NO_MEMORY = f"a LimitRange of the namespace limits its memory, or its node has too little: {_NO_PROXY}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps pods of a revision away."""

    reason: Reason
    message: str
    waits: bool = False
    """It passes when something becomes free or is added; nobody has to change the pool."""


def is_passing(text: str) -> bool:
    """Whether what an agent says may pass without another version."""
    return text.partition(":")[0] in PASSING


def load_error(pods: Iterable[ServingPodView], revision: str) -> str:
    """Why the revision's model can not be loaded, if that will not change by itself; else empty."""
    message = (pod.load_error for pod in _of(pods, revision) if pod.load_error)
    return next((text for text in message if not is_passing(text)), "")


def problem(observed: Observed, revision: str) -> Problem | None:
    """What keeps pods of the revision away, if that does not end by itself within a moment."""
    view = observed.find(revision)
    if view is not None and view.refusal and not view.terminating:
        return _refused(view.child.name, view.refusal)
    found = (_of_pod(observed, pod) for pod in _of(observed.pods, revision))
    return next((each for each in found if each is not None), None)


def _refused(deployment: str, text: str) -> Problem:
    """No pod can be made at all."""
    quota = "exceeded quota" in text
    message = f"no pod of Deployment {deployment} can be made: {text}; {_advice(text, _REFUSALS)}"
    return Problem(Reason.QUOTA_EXCEEDED if quota else Reason.POD_REJECTED, message, waits=quota)


def of_gateway(observed: Observed) -> Problem | None:
    """What keeps proxies away, if that does not end by itself within a moment."""
    view = observed.gateway
    if view.refusal and view.deployment is not None:
        quota = "exceeded quota" in view.refusal
        message = f"no pod of Deployment {view.deployment.name} can be made: {view.refusal}; {_NO_PROXY}"
        return Problem(Reason.QUOTA_EXCEEDED if quota else Reason.POD_REJECTED, message, waits=quota)
    for pod in sorted((pod for pod in view.pods if not pod.ready and not pod.terminating), key=lambda pod: pod.name):
        if pod.crash is not None:
            return crashing(observed, pod, pod.crash, _NO_MEMORY)
        if (found := needs_person(pod)) is not None:
            reason, message = found
            missing = f"{message} and has what docs/gateway.md says" if reason is Reason.VOLUME_NOT_MOUNTED else message
            return Problem(reason, missing)
        if pod.unschedulable:
            return Problem(Reason.UNSCHEDULABLE, f"pod {pod.name} has no node: {pod.unschedulable}; {_NO_PROXY}", True)
        if pod.refused_by_node:
            message = f"node {pod.node} does not run pod {pod.name}: {pod.refused_by_node}; another one is made"
            return Problem(Reason.GATEWAY_NOT_READY, message, waits=True)
    return None


def _of_pod(observed: Observed, pod: ServingPodView) -> Problem | None:
    if pod.crash is not None:
        return crashing(observed, pod, pod.crash)
    if (found := needs_person(pod)) is not None:
        return Problem(*found)
    if pod.unschedulable:
        message = f"pod {pod.name} has no node: {pod.unschedulable}; {_advice(pod.unschedulable, _NO_NODE)}"
        return Problem(Reason.UNSCHEDULABLE, message, waits=True)
    scheduler = _scheduler(observed)
    if pod.overlooked and scheduler != _DEFAULT_SCHEDULER:
        message = f"pod {pod.name} waits for scheduler {scheduler}: start it, or correct schedulerName in spec.template"
        return Problem(Reason.UNSCHEDULABLE, message, waits=True)
    if pod.gated:
        message = f"pod {pod.name} waits for its scheduling gates: whoever set them, a queue for example, removes them"
        return Problem(Reason.UNSCHEDULABLE, message, waits=True)
    if pod.load_error:
        return Problem(Reason.MODEL_LOAD_FAILED, _not_loaded(observed, pod))
    if pod.refused_by_node:
        message = f"node {pod.node} does not run pod {pod.name}: {pod.refused_by_node}; another one is made"
        return Problem(Reason.PODS_NOT_READY, message, waits=True)
    return None


def _not_loaded(observed: Observed, pod: ServingPodView) -> str:
    """A pod that can not load what others have loaded is no fault of the version: another node may help."""
    said = f"pod {pod.name}: {pod.load_error}"
    others = sum(other.ready for other in observed.pods if other.revision == pod.revision)
    if not others or is_passing(pod.load_error):
        return said
    namespace, node = observed.pool.metadata.namespace, pod.node or "its node"
    return (
        f"{said}; {others} other pod{'s have' if others > 1 else ' has'} it loaded, so it is this pod or {node}: "
        f"kubectl cordon {node if pod.node else 'NODE'}, then kubectl -n {namespace} delete pod {pod.name}"
    )


def crashing(observed: Observed, pod: ServingPodView, crash: Crash, memory: str = "") -> Problem:
    """A container that ends again and again, how it ended last, and what to do; `memory`: where that was too little."""
    if crash.reason == _OUT_OF_MEMORY:
        limit = f"resources.limits.memory of container {crash.container} in spec.template"
        advice = memory or f"raise {limit} (/dev/shm counts too)"
    else:
        logs = f"kubectl -n {observed.pool.metadata.namespace} logs {pod.name} -c {crash.container} --previous"
        advice = f"read more with {logs}"
    return Problem(Reason.CRASH_LOOP_BACK_OFF, f"{crash_words(crash, f' of pod {pod.name}')}; {advice}")


def _scheduler(observed: Observed) -> str:
    template = observed.pool.spec.template
    name = template.raw_spec().get("schedulerName") if template is not None else None
    return str(name or _DEFAULT_SCHEDULER)


def _advice(message: str, known: Iterable[tuple[str, str]]) -> str:
    text = message.lower()
    return next((advice for part, advice in known if part in text), "correct spec.template")


def _of(pods: Iterable[ServingPodView], revision: str) -> list[ServingPodView]:
    found = [pod for pod in pods if pod.revision == revision and not pod.ready and not pod.terminating]
    return sorted(found, key=lambda pod: pod.name)
