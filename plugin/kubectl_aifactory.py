#!/usr/bin/env python3
"""kubectl aifactory: what the factory does, what blocks it, and the command that mends it.

One file, the standard library, Python 3.9 or newer: it can be copied to any machine that has kubectl. Everything is
asked of the API server by the `kubectl` on PATH, with the user's own rights; nothing else is contacted, and no Secret
is ever read. What can be decided from objects alone is decided by pure functions (`lines`, `judge`, `commands`,
`screen_of`), which the tests ask with statuses of the operator's own making. Modules that few commands need are
imported by those: the plugin is to start at once. The page of `dashboard` is written in plugin/dashboard and put in
here by `make generate`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple, Optional

__version__ = "0.1.0"

Json = dict[str, Any]

GROUP = "aifactory.dev"
JOB, VERSION, POOL = "TrainingJob", "ModelVersion", "InferencePool"
SHORT = {JOB: "tjob", VERSION: "mver", POOL: "ipool"}
PLURAL = {JOB: "trainingjobs", VERSION: "modelversions", POOL: "inferencepools"}
POD_LABEL = {JOB: f"{GROUP}/job-name", VERSION: f"{GROUP}/model-version", POOL: f"{GROUP}/pool-name"}
OPERATOR = "app.kubernetes.io/name=aifactory-operator"
OPENAI_PORT = 9000
MIN_KUBERNETES = (1, 33)
UNSEEN_SECONDS = 60
"""An object without a status for this long has no operator."""
LONG_SECONDS = 600
"""What passes by itself mostly, and has not for this long, is told as what blocks."""
SHOWN = 4
"""Objects of a kind in one line of the factory, so that all of it stays on one screen."""


class Failed(Exception):
    """What went wrong, in words for a person, and the exit code."""

    def __init__(self, words: str, code: int = 1) -> None:
        super().__init__(words)
        self.code = code


# ---- kubectl


class Kubectl:
    """The user's kubectl, with the flags that were given to the plugin."""

    def __init__(self, flags: Sequence[str] = (), namespace: str = "") -> None:
        self._flags = list(flags)
        self.namespace = namespace

    def within(self, namespace: str) -> Kubectl:
        """The same, in another namespace."""
        return Kubectl(self._flags, namespace)

    def command(self, *args: str) -> list[str]:
        """The whole command line."""
        return ["kubectl", *args, *self._flags, *(["--namespace", self.namespace] if self.namespace else [])]

    def run(self, *args: str) -> str:
        """What it prints. Raises Failed with its own words and exit code."""
        done = subprocess.run(self.command(*args), capture_output=True, check=False)
        if done.returncode:
            raise Failed(done.stderr.decode(errors="replace").strip(), done.returncode)
        return done.stdout.decode(errors="replace")

    def show(self, *args: str) -> int:
        """Let it talk to the user itself; returns its exit code."""
        sys.stdout.flush()
        return subprocess.run(self.command(*args), check=False).returncode

    def get(self, what: str, *args: str) -> list[Json]:
        """Objects of some kinds, or one object."""
        found = json.loads(self.run("get", what, "-o", "json", *args) or "{}")
        return list(found.get("items", ())) if found.get("kind", "").endswith("List") else [found] if found else []

    def factory(self, everywhere: bool = False) -> list[Json]:
        """Every object of our kinds in the namespace."""
        kinds = ",".join(f"{plural}.{GROUP}" for plural in PLURAL.values())
        return self.get(kinds, *(["--all-namespaces"] if everywhere else []))

    def home(self) -> str:
        """The namespace that is meant."""
        if not self.namespace:
            found = self.run("config", "view", "--minify", "-o", "jsonpath={.contexts[0].context.namespace}")
            self.namespace = found.strip() or "default"
        return self.namespace


# ---- words of objects


def name_of(obj: Json) -> str:
    """Its name."""
    return str(obj.get("metadata", {}).get("name", ""))


def space_of(obj: Json) -> str:
    """Its namespace."""
    return str(obj.get("metadata", {}).get("namespace", ""))


def ref(obj: Json) -> str:
    """As a person writes it: tjob/tiny-gpt."""
    kind = str(obj.get("kind", ""))
    return f"{SHORT.get(kind, kind.lower())}/{name_of(obj)}"


def status_of(obj: Json) -> Json:
    """Its status; empty when nobody has written one."""
    return obj.get("status") or {}


def condition(obj: Json, type_: str) -> Json:
    """A condition, or an empty dictionary."""
    return next((dict(found) for found in status_of(obj).get("conditions", ()) if found.get("type") == type_), {})


def is_true(obj: Json, type_: str) -> bool:
    """Whether a condition is True."""
    return bool(condition(obj, type_).get("status") == "True")


def clean(text: object) -> str:
    """One line without control characters: programs put into messages what they like, terminals obey it."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def when(text: object) -> datetime | None:
    """A time of Kubernetes."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None


def age(since: object, now: datetime) -> str:
    """How long ago, as kubectl writes it; empty if that is not known."""
    then = when(since)
    if then is None:
        return ""
    seconds = max(0, int((now - then).total_seconds()))
    for unit, size, below in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < below:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def seconds_since(since: object, now: datetime) -> float:
    """Seconds since then; 0 if that is not known."""
    then = when(since)
    return (now - then).total_seconds() if then is not None else 0.0


def models_of(obj: Json) -> list[str]:
    """The models that an object makes, is or serves; none for a job that publishes nothing."""
    spec = obj.get("spec", {})
    if obj.get("kind") == POOL:
        named = [str(model.get("name", "")) for model in spec.get("models", ())]
    elif obj.get("kind") == JOB:
        named = [str((spec.get("output") or {}).get("model", {}).get("name", ""))]
    else:
        named = [str(spec.get("model", ""))]
    return [name for name in named if name]


def model_of(obj: Json) -> str:
    """The first of them; empty for a job that publishes nothing."""
    return next(iter(models_of(obj)), "")


def bases_of(job: Json) -> list[str]:
    """Names of the ModelVersions that a job reads."""
    inputs = job.get("spec", {}).get("inputs") or ()
    return [str(entry["modelVersion"]) for entry in inputs if entry.get("modelVersion")]


# ---- the line from data to tokens


class State(NamedTuple):
    """What is to be said about an object."""

    mark: str
    """ok; busy: on its way; held: at rest on request; wait: waits for something that has to be done; stuck: a person is
    needed."""
    reason: str
    message: str
    since: str = ""


class Item(NamedTuple):
    """An object in its place."""

    obj: Json
    state: State


class Line(NamedTuple):
    """What makes, is and serves one model, or several that share a pool, in that order. Its title is their names, or
    that of a job alone."""

    namespace: str
    title: str
    jobs: list[Item]
    versions: list[Item]
    pools: list[Item]
    left_out: int = 0
    """Earlier jobs and versions that nothing depends on."""
    models: tuple[str, ...] = ()
    """None for a job alone."""

    def items(self) -> list[Item]:
        """From data to tokens."""
        return [*self.jobs, *self.versions, *self.pools]


LineKey = tuple[str, tuple[str, ...], str]
"""A line's namespace and its models, or the name of a job alone."""
BLOCKS = ("stuck", "wait", "held")


def judge(obj: Json, now: datetime) -> State:
    """What is to be said about an object by itself."""
    meta, status = obj.get("metadata", {}), status_of(obj)
    made = str(meta.get("creationTimestamp", ""))
    if not status.get("observedGeneration"):
        other = str(obj.get("spec", {}).get("managedBy") or f"{GROUP}/operator")
        if obj.get("kind") == JOB and other != f"{GROUP}/operator":
            return State("busy", "ManagedBy", f"spec.managedBy is {other}: this operator leaves it alone", made)
        if seconds_since(made, now) < UNSEEN_SECONDS:
            return State("busy", "New", "the operator has yet to look at it", made)
        return State("stuck", "NoStatus", f"no operator has looked at it since it was made {age(made, now)} ago", made)

    def said(mark: str, type_: str) -> State:
        found = condition(obj, type_)
        reason = str(found.get("reason", status.get("reason", "")))
        message = clean(found.get("message") or condition(obj, "Ready").get("message", ""))
        return State(mark, reason, message, str(found.get("lastTransitionTime", "")))

    if is_true(obj, "Stalled"):
        return said("stuck", "Stalled")
    if is_true(obj, "Suspended"):
        return said("held", "Suspended")
    if meta.get("generation", 0) > status["observedGeneration"]:
        return State("busy", str(status.get("reason", "")), "the operator has yet to look at the last edit")
    if is_true(obj, "Reconciling"):
        found = said("busy", "Reconciling")
        if status.get("phase") == "Restarting" or not found.reason:
            return found
        advice = REASONS.get(found.reason, ("", ""))[1]
        passes = advice.startswith("Nothing")
        if advice.startswith("Nothing if") and seconds_since(found.since, now) > LONG_SECONDS:
            passes = False
        return found if passes else found._replace(mark="wait")
    if is_true(obj, "Degraded"):
        return said("wait", "Degraded")
    return said("ok" if is_true(obj, "Ready") else "busy", "Ready")


def is_over(obj: Json) -> bool:
    """Whether a job has ended."""
    return is_true(obj, "Complete") or is_true(obj, "Failed")


def lines(objects: Sequence[Json], now: datetime, about: str = "") -> list[Line]:
    """The factory as lines, those first on which others build. `about` is an object (`tjob/x`) that has to be shown."""
    objects = [obj for obj in objects if obj.get("kind") in SHORT]
    together = _together(objects)
    grouped: dict[LineKey, list[Json]] = {}
    of_model: dict[tuple[str, str], list[Json]] = {}
    for obj in objects:
        space, model = space_of(obj), model_of(obj)
        # Jobs that publish nothing are lines of their own.
        key = (space, together[space, model], "") if model else (space, (), name_of(obj))
        grouped.setdefault(key, []).append(obj)
        if model:
            of_model.setdefault((space, model), []).append(obj)
    coming = {key for key, found in of_model.items() if _is_coming(found)}
    made = {key: _line(key, found, now, about, coming) for key, found in sorted(grouped.items())}
    ordered: dict[LineKey, Line] = {}

    def visit(key: LineKey, seen: tuple[object, ...] = ()) -> None:
        if key in ordered or key in seen or key not in made:
            return
        for item in made[key].jobs:
            for base in bases_of(item.obj):
                model = base.rpartition("-v")[0]
                visit((key[0], together.get((key[0], model), (model,)), ""), (*seen, key))
        ordered[key] = made[key]

    for key in made:
        visit(key)
    return list(ordered.values())


def _together(objects: Sequence[Json]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By namespace and model: the models of its line, which are those that share pools."""
    found: dict[tuple[str, str], set[str]] = {}
    for obj in objects:
        space, names = space_of(obj), models_of(obj)
        models = set(names).union(*(found.get((space, name), ()) for name in names))
        found.update({(space, name): models for name in models})
    return {key: tuple(sorted(models)) for key, models in found.items()}


def _is_coming(objects: Sequence[Json]) -> bool:
    """Whether a version of the model is on its way, however slowly."""
    versions = sorted((obj for obj in objects if obj["kind"] == VERSION), key=_number)
    jobs = (obj for obj in objects if obj["kind"] == JOB)
    return any(not is_over(job) for job in jobs) or any(not is_true(newest, "Ready") for newest in versions[-1:])


def _number(version: Json) -> int:
    return int(version.get("spec", {}).get("version") or 0)


def _newest(objects: Sequence[Json]) -> list[Json]:
    """Of each model the last one."""
    return list({model_of(obj): obj for obj in objects}.values())


def _line(key: LineKey, objects: Sequence[Json], now: datetime, about: str, coming: set[tuple[str, str]]) -> Line:
    jobs = [obj for obj in objects if obj["kind"] == JOB]
    versions = [obj for obj in objects if obj["kind"] == VERSION]
    pools = sorted((obj for obj in objects if obj["kind"] == POOL), key=name_of)
    jobs.sort(key=lambda obj: (str(obj["metadata"].get("creationTimestamp", "")), name_of(obj)))
    versions.sort(key=lambda obj: (model_of(obj), _number(obj)))
    used = {str(use) for pool in pools for use in _versions_of(pool)}
    most = max(SHOWN, len(key[1]))
    shown_jobs = [obj for obj in jobs if not is_over(obj) or obj in _newest(jobs)][-most:]
    shown_versions = [obj for obj in versions if name_of(obj) in used or obj in _newest(versions)][-most:]
    for obj, shown in (*((obj, shown_jobs) for obj in jobs), *((obj, shown_versions) for obj in versions)):
        if ref(obj) == about and obj not in shown:
            shown.insert(0, obj)
    left_out = len(jobs) - len(shown_jobs) + len(versions) - len(shown_versions)
    parts = (shown_jobs, shown_versions, pools)
    made = [[Item(obj, _waiting(obj, judge(obj, now), coming)) for obj in part] for part in parts]
    return Line(key[0], ", ".join(key[1]) or key[2], made[0], made[1], made[2], left_out, key[1])


def _waiting(obj: Json, state: State, coming: set[tuple[str, str]]) -> State:
    """Who waits for a model waits in vain if nothing is on its way to make it."""
    if state.reason != "WaitingForModel" or state.mark == "stuck":
        return state
    if obj["kind"] == JOB:
        on_its_way = any((space_of(obj), base.rpartition("-v")[0]) in coming for base in bases_of(obj))
    else:
        told = [str(model["name"]) for model in status_of(obj).get("models", ()) if not model.get("version")]
        on_its_way = all((space_of(obj), model) in coming for model in told or [model_of(obj)])
    if on_its_way:
        return state._replace(mark="busy")
    return state._replace(mark="wait", message=f"{state.message}; nothing in this namespace is about to make one")


def _versions_of(pool: Json) -> Iterator[object]:
    """Names of the versions that a pool serves or wants."""
    status = status_of(pool)
    for part in ("stable", "candidate"):
        yield (status.get(part) or {}).get("modelVersion")
        for model in (status.get(part) or {}).get("models", ()):
            yield model.get("modelVersion")
    for entry in (*status.get("resolved", ()), *({"modelVersion": _pinned(m)} for m in pool["spec"].get("models", ()))):
        yield entry.get("modelVersion")


def _pinned(model: Json) -> str:
    return f"{model.get('name')}-v{model['version']}" if model.get("version") else ""


def chain(found: Sequence[Line], about: Json) -> list[Line]:
    """The line of one object and those on which it builds."""
    own = [
        line
        for line in found
        if line.namespace == space_of(about) and any(ref(item.obj) == ref(about) for item in line.items())
    ]
    wanted = {model for line in own for model in line.models}

    def belongs(line: Line) -> bool:
        return line in own or (line.namespace == space_of(about) and not wanted.isdisjoint(line.models))

    for line in reversed(found):
        if belongs(line):
            wanted |= {base.rpartition("-v")[0] for item in line.jobs for base in bases_of(item.obj)}
    return [line for line in found if belongs(line)]


def blockers(found: Sequence[Line]) -> list[Item]:
    """What blocks, the first one first: in lines that serve somebody before those that do not."""
    served_first = sorted(found, key=lambda line: not line.pools)
    return [item for line in served_first for item in line.items() if item.state.mark in BLOCKS]


# ---- the command that mends it


def meaning(reason: str) -> tuple[str, str]:
    """What a reason means and what a person does about it."""
    return REASONS.get(reason) or OWN_REASONS.get(reason) or ("", "")


OWN_REASONS = {
    "NoStatus": (
        "No operator acts on this namespace, or it can not reach the API server.",
        "See whether the operator runs and leads, and whether it watches this namespace (watchNamespaces).",
    ),
    "ManagedBy": ("Another controller is responsible for the job.", "Nothing here; see that controller."),
    "New": ("It was made a moment ago.", "Nothing; it takes a second."),
}

_LOGS = "{plugin} logs {ref}"
_MERGE = "--type=merge -p"
_RETRY = "{plugin} retry {ref}"
_EDIT = "{k} edit {ref}"
_PROMOTE, _RESUME, _ABORT = (f"{{plugin}} {each} {{pool}}" for each in ("promote", "resume", "abort"))
_ENDED = ("{plugin} logs {job} --failed", "{k} create -f FILE  # corrected, under another name")
REMEDIES: dict[str, tuple[str, ...]] = {
    "AccessDenied": ("{create}", "{k} edit secret {secret}", _RETRY),
    "AbortedAtEnd": ("{plugin} logs {job} --failed",),
    "AnalysisFailed": ("{k} describe {pool}", "{plugin} rollback {pool}"),
    "ApplicationError": ("{plugin} logs {job} --failed", _LOGS),
    "ClaimNotBound": ("{k} describe pvc {claim}", "{k} get pvc", "kubectl get storageclass"),
    "ContainerCannotStart": _ENDED,
    "CheckFailed": (_EDIT, "{plugin} logs {ref} --role check", _RETRY),
    "ContainerConfigError": ("{create}", _EDIT),
    "CrashLoopBackOff": ("{k} logs {pod} -c {container} --previous", "{k} logs {pod} --all-containers", _EDIT),
    "Deactivated": (
        f"{{k}} patch workloads.kueue.x-k8s.io/{{workload}} {_MERGE} '{{set_active}}'",
        "{k} describe workloads.kueue.x-k8s.io/{workload}",
    ),
    "DeadlineExceeded": (_EDIT,),
    "DependencyMissing": ("{create}", _EDIT),
    "DigestMismatch": (_EDIT.replace("{ref}", "{job}"), _RETRY),
    "Disruption": ("{plugin} events {ref}",),
    "FailureLasts": ("{plugin} check", "{plugin} events {ref}"),
    "FormatMismatch": (f"{{k}} patch {{job}} {_MERGE} '{{set_format}}'", _RETRY),
    "GatewayApiMissing": ("kubectl api-resources --api-group=gateway.networking.k8s.io", _EDIT),
    "GatewayNotFound": ("kubectl get gateways.gateway.networking.k8s.io -A", _EDIT),
    "HotSwapImpossible": (f"{{k}} patch {{pool}} {_MERGE} '{{set_auto}}'", _EDIT),
    "ImagePullFailed": ("{image}", _EDIT),
    "InitContainerFailed": ("{plugin} logs {job} --failed --all-containers",),
    "InputFailed": ("{k} logs {pod}", "{plugin} logs {ref} --role input"),
    "InvalidArtifact": (_RETRY,),
    "InvalidSpec": (_EDIT,),
    "KueueMissing": ("{plugin} check", "{k} label {job} kueue.x-k8s.io/queue-name-  # it then waits in no queue"),
    "MaxRestartsExceeded": _ENDED,
    "ModelLoadFailed": ("{k} logs {pod} -c triton", "{plugin} logs {pool} -c triton", "{plugin} retry {pool}"),
    "ModelNotReady": ("{plugin} status mver/{version}", "{plugin} status"),
    "ModelTooLarge": (_EDIT,),
    "NameConflict": ("{k} get all -l app.kubernetes.io/managed-by=aifactory",),
    "NoProgress": _ENDED,
    "NoRestartRequested": _ENDED,
    "NoStatus": ("{plugin} check",),
    "NodeLost": (
        "kubectl describe node {node}",
        "kubectl delete node {node}  # only if the machine is off for good",
        "{k} delete pod {pod} --force  # only if it surely does not run any more",
    ),
    "NodeRefused": ("kubectl describe node {node}", "{plugin} events {ref}"),
    "NotAdmissible": ("{k} get localqueues.kueue.x-k8s.io", "{k} describe workloads.kueue.x-k8s.io/{workload}"),
    "OutOfDisk": (_EDIT,),
    "OutOfMemory": (_EDIT,),
    "PodNotSetUp": ("{k} describe pod {pod}", "{plugin} events {ref}"),
    "PodRejected": (_EDIT,),
    "PodSecurityViolated": (_EDIT,),
    "PodsNotReady": ("{plugin} tree {ref}", "{plugin} events {ref}"),
    "ProbeFailed": ("{k} logs {pod}", "{plugin} logs {ref} --role probe"),
    "PublisherFailed": ("{k} logs {pod}", "{plugin} logs {ref} --role publish"),
    "QuotaExceeded": ("{k} describe resourcequota",),
    "RolloutAborted": ("{k} get mver", _RETRY),
    "RolloutDeadlineExceeded": ("{plugin} logs {ref} -c agent", _RETRY),
    "RolloutPaused": (_RESUME, _ABORT),
    "RouteNotAccepted": ("{k} get httproutes,grpcroutes -o yaml", _EDIT),
    "ScaledToZero": ("{k} scale {ref} --replicas=1",),
    "SideContainerFailed": ("{k} logs {pod} -c {container}", "{plugin} logs {ref} --all-containers"),
    "SourceNotFound": (_RETRY,),
    "Starting": ("{plugin} logs {ref} -c agent",),
    "StoreFull": ("{k} get pvc", _RETRY),
    "StoreUnavailable": ("{k} edit secret {secret}", _RETRY),
    "Suspended": ("{plugin} resume {ref}",),
    "Unschedulable": ("{k} describe pod {pod}", "kubectl describe nodes", "{k} scale {gang} --replicas=N  # fewer"),
    "Unservable": ("{k} edit {pool}", "{k} get mver {version} -o yaml"),
    "ValidationFailed": ("{plugin} logs {ref} --role verify", _RETRY),
    "VerifierFailed": ("{k} logs {pod}", "{plugin} logs {ref} --role verify"),
    "VolumeNotMounted": ("{create}", _EDIT),
    "WaitingForModel": ("{k} get mver", "{k} get tjob", _EDIT),
    "WaitingForPods": ("{plugin} tree {ref}", "{plugin} events {ref}"),
    "WaitingForPromotion": ("{plugin} tree {pool}", _PROMOTE, _ABORT),
}
"""Commands by reason. One that needs a name which the object and its message do not have is left out."""


def commands(obj: Json, reason: str, message: str) -> list[str]:
    """What a person types: first what the message itself names, then what belongs to the reason."""
    fields = _fields(obj, message)
    templates = REMEDIES.get(reason, ())
    # Ours find the log that is meant, and say when it is safe to delete something.
    ours = reason == "NodeLost" or any("--failed" in template for template in templates)
    found = [] if ours else _quoted(reason, message, fields)
    for template in templates:
        try:
            found.append(template.format_map(fields))
        except KeyError:
            continue
    return list(dict.fromkeys(found))[:4] or [f"{fields['k']} describe {fields['ref']}"]


def _quoted(reason: str, message: str, fields: dict[str, str]) -> list[str]:
    """Commands in a message, with the namespace.

    A message may hold words of a program that somebody else has written, and a person will type what stands here. So
    only what looks is taken, in this namespace; what deletes only where all the words are the operator's.
    """
    verbs = "delete|describe|get" if reason == "NameConflict" else "describe|logs|get"
    found = []
    for text in re.findall(rf"kubectl (?:-n \S+ )?(?:{verbs}) [-a-z0-9./ ]+(?=[;,()]|$)", message):
        command = text.strip().rstrip(".")
        elsewhere = " -n " in command and not command.startswith(f"{fields['k']} ")
        if elsewhere or command.endswith(" tells"):
            continue
        found.append(command if " -n " in command else command.replace("kubectl", fields["k"], 1))
    return found


_NO_NAMES = {
    "and",
    "confirmed",
    "has",
    "have",
    "is",
    "it",
    "of",
    "on",
    "or",
    "refused",
    "that",
    "to",
    "was",
    "which",
    "with",
}
"""Words that follow `pod`, `node` and so on in sentences."""


def _fields(obj: Json, message: str) -> dict[str, str]:
    """Names that commands are made of, as far as the object and its message have them."""
    kind, name, space = str(obj.get("kind", "")), name_of(obj), space_of(obj)
    spec = obj.get("spec", {})
    named = {
        "pod": r"\bpod ([a-z0-9]+(?:[-.]+[a-z0-9]+)+)",
        "container": r"\bcontainer ([a-z0-9][-a-z0-9]*)",
        "node": r"\bnode ([a-z0-9][-a-z0-9.]*[a-z0-9])",
        "secret": r"\bSecret ([a-z0-9][-a-z0-9.]*[a-z0-9])",
        "claim": r"\b(?:claim|pvc) \"?([a-z0-9][-a-z0-9.]*[a-z0-9])",
        "version": r"\bModelVersion ([a-z0-9][-a-z0-9.]*[a-z0-9])",
        "workload": r"\bWorkload ([a-z0-9][-a-z0-9.]*[a-z0-9])",
        "format": r"format to (huggingface|torch-export)\b",
    }
    found = {}
    for key, pattern in named.items():
        names = [text for text in re.findall(pattern, message) if text not in _NO_NAMES]
        found.update({key: names[0]} if names else {})
    found["k"] = f"kubectl -n {space}" if space else "kubectl"
    found["plugin"] = f"kubectl aifactory -n {space}" if space else "kubectl aifactory"
    found["ref"] = f"{SHORT.get(kind, kind.lower())}/{name}"
    found.update({JOB: {"job": found["ref"]}, POOL: {"pool": found["ref"]}}.get(kind, {"version": name}))
    if kind == JOB and (spec.get("nodes") or {}).get("count", 1) > 1:
        found["gang"] = found["ref"]
    if not found.get("secret"):
        refs = [spec.get("source"), spec.get("output"), *(spec.get("inputs") or ())]
        for entry in (entry["secretRef"] for entry in refs if entry and entry.get("secretRef")):
            found.setdefault("secret", str(entry["name"]))
    if not found.get("secret"):
        found.pop("secret", None)
    missing = re.search(
        r'\b(secret|configmap|serviceaccount|persistentvolumeclaim)s? "([-a-z0-9.]+)" not found', message
    )
    # A Secret that is not there is mounted as an empty one: what is missing are its keys.
    keyless = re.search(r"\bsecret ([-a-z0-9.]+) needs the keys ([\w.]+(?: and [\w.]+)*)", message)
    priority = re.search(r"no PriorityClass with name ([-a-z0-9.]+)", message)
    if missing:
        what, called = missing.groups()
        found["create"] = {
            "secret": f"{found['k']} create secret generic {called} --from-literal=KEY=VALUE",
            "configmap": f"{found['k']} create configmap {called} --from-literal=KEY=VALUE",
            "serviceaccount": f"{found['k']} create serviceaccount {called}",
            "persistentvolumeclaim": f"{found['k']} get pvc",
        }[what]
    elif keyless:
        keys = " ".join(f"--from-literal={key}=VALUE" for key in keyless.group(2).split(" and "))
        made = f"create secret generic {keyless.group(1)} {keys} --dry-run=client -o yaml"
        found["create"] = f"{found['k']} {made} | {found['k']} apply -f -"
    elif priority:
        found["create"] = f"kubectl create priorityclass {priority.group(1)} --value=0"
    if found.get("format"):
        found["set_format"] = json.dumps({"spec": {"output": {"model": {"format": found["format"]}}}})
    found["set_active"] = json.dumps({"spec": {"active": True}})
    found["set_auto"] = json.dumps({"spec": {"rollout": {"strategy": "Auto"}}})
    image = _image(obj, message, found)
    return {**found, "image": image} if image else found


def _image(obj: Json, message: str, fields: dict[str, str]) -> str:
    """The command that corrects the image which can not be pulled; IMAGE is the user's to write."""
    if re.search(r"-(publish|probe|verify)-\d+$|-input-", fields.get("pod", "")):
        upgrade = "helm upgrade aifactory charts/aifactory -n aifactory-system --reset-then-reuse-values"
        return f"{upgrade} --set images.registry=REGISTRY"
    pod = (obj.get("spec", {}).get("template") or {}).get("spec") or {}
    for part in ("containers", "initContainers"):
        for index, container in enumerate(pod.get(part) or ()):
            if container.get("image") and str(container["image"]) in message:
                path = f"/spec/template/spec/{part}/{index}/image"
                change = json.dumps([{"op": "replace", "path": path, "value": "IMAGE"}])
                return f"{fields['k']} patch {fields['ref']} --type=json -p '{change}'"
    return ""


# ---- the screen


class Screen(NamedTuple):
    """Where it is shown."""

    width: int = 100
    colour: bool = False
    now: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc)

    def paint(self, text: str, colour: str) -> str:
        """Coloured where colours are wanted."""
        code = {"red": 31, "green": 32, "yellow": 33, "blue": 36, "bold": 1, "dim": 2}.get(colour)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def wrap(self, text: str, indent: int, first: str = "") -> list[str]:
        """A paragraph; `first` stands before its first line."""
        room = max(20, min(self.width, 120) - indent)
        wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        return [(first.ljust(indent) if not number else " " * indent) + line for number, line in enumerate(wrapped)]


def terminal() -> Screen:
    """What standard output is."""
    tty = sys.stdout.isatty()
    try:
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (OSError, ValueError):
        width = 100
    colour = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(max(width, 40), colour, datetime.now(timezone.utc))


COLOURS = {"ok": "green", "busy": "blue", "held": "yellow", "wait": "yellow", "stuck": "red"}
SIGNS = {"ok": " ", "busy": ">", "held": "=", "wait": "!", "stuck": "!"}


def bar(percent: object, width: int = 16) -> str:
    """A progress bar; empty if nothing is known."""
    if not isinstance(percent, (int, float)):
        return ""
    full = round(width * min(100, max(0, percent)) / 100)
    return f"[{'#' * full}{'-' * (width - full)}] {round(percent)}%"


def size(count: object) -> str:
    """Bytes in binary units."""
    value = float(count) if isinstance(count, (int, float)) else 0.0
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns as wide as what is in them; the last one is cut at the edge of the terminal."""
    rows = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    found = ["   ".join(cell.ljust(wide) for cell, wide in zip(row, widths)).rstrip() for row in rows]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in found]


def phase_of(obj: Json, state: State) -> str:
    """One word."""
    if obj.get("kind") == VERSION:
        return "Ready" if is_true(obj, "Ready") else clean(state.reason)
    return clean(status_of(obj).get("phase") or state.reason or "-")


def details(obj: Json) -> list[str]:
    """What is worth a place in the line: progress where something runs."""
    status = status_of(obj)
    if obj.get("kind") == JOB:
        progress, nodes = status.get("progress") or {}, status.get("nodes") or {}
        running = status.get("phase") not in ("Succeeded", "Failed")
        restarts = (status.get("restarts") or {}).get("total")
        return [
            bar(progress.get("percent")) if running else "",
            f"pods {nodes['summary']}" if nodes.get("summary") and running else "",
            f"loss {progress['loss']}" if progress.get("loss") else "",
            f"{progress['tokensPerSecond']} tokens/s" if progress.get("tokensPerSecond") and running else "",
            f"eta {progress['eta']}" if progress.get("eta") and running else "",
            f"restarts {restarts}" if restarts else "",
        ]
    if obj.get("kind") == VERSION:
        used = status.get("inUse") or 0
        pools = f"in use by {used} pool{'s' if used != 1 else ''}" if used else "not in use"
        return [str(status.get("size", "")), str(obj.get("spec", {}).get("format", "")), pools]
    figures = status.get("throughput") or {}
    rollout = status.get("rollout") or {}
    candidate = (status.get("candidate") or {}).get("modelVersion")
    return [
        f"pods {status['summary']}" if status.get("summary") else "",
        f"version {status['version']}" if status.get("version") and not status.get("models") else "",
        f"{rollout.get('strategy') or 'rollout'} to {candidate}" if candidate else "",
        f"{figures['requestsPerSecond']} requests/s" if figures else "",
        f"{figures['tokensPerSecond']} tokens/s" if figures else "",
    ]


def several_of(obj: Json) -> list[tuple[str, str, list[str]]]:
    """Each model of a pool of several: name, state, details."""
    status = status_of(obj) if obj.get("kind") == POOL else {}
    counted = {each.get("name"): each for each in (status.get("throughput") or {}).get("models") or ()}
    found = []
    for model in status.get("models") or ():
        figures = counted.get(model.get("name"), {})
        words = [
            f"version {model['version']}" if model.get("version") else "",
            f"version {model['wanted']} wanted" if model.get("wanted") else "",
            f"{model.get('readyReplicas', 0)} pods" if model.get("version") else "",
            f"memory {model['memory']}" if model.get("memory") else "",
            f"{figures['requestsPerSecond']} requests/s" if figures else "",
            f"{figures['tokensPerSecond']} tokens/s" if number(figures.get("tokensPerSecond")) else "",
        ]
        found.append((str(model.get("name")), str(model.get("state")), [word for word in words if word]))
    return found


def inputs_of(job: Json) -> list[tuple[str, str, list[str]]]:
    """The data of a job: name, phase, details."""
    known = {entry.get("name"): entry for entry in status_of(job).get("inputs") or ()}
    found = []
    for wish in job.get("spec", {}).get("inputs") or ():
        entry = known.get(wish.get("name"), {})
        there = entry.get("phase") == "Ready"
        amount = size(entry["totalBytes"]) if entry.get("totalBytes") else ""
        source = str(wish.get("modelVersion") or wish.get("uri") or "")
        words = ["" if there else bar(entry.get("percent")), amount, source]
        found.append((str(wish.get("name")), str(entry.get("phase") or "-"), words))
    return found


def drawn(line: Line, screen: Screen) -> list[str]:
    """A line of the factory, from data to tokens."""
    rows: list[tuple[str, str, str, str, list[str]]] = []
    for item in line.jobs:
        data = [] if is_over(item.obj) else inputs_of(item.obj)
        rows += [("ok", "data", name, phase, words) for name, phase, words in data[:SHOWN]]
        if len(data) > SHOWN:
            rows.append(("ok", "", f"and {len(data) - SHOWN} more", "", []))
    for stage, items in (("train", line.jobs), ("version", line.versions), ("serve", line.pools)):
        for item in items:
            rows.append((item.state.mark, stage, ref(item.obj), phase_of(item.obj, item.state), details(item.obj)))
            rows += [("ok", "", name, state, words) for name, state, words in several_of(item.obj)]
    names = min(max(len(row[2]) for row in rows), 40)
    phases = max(len(row[3]) for row in rows)
    found = [screen.paint(clean(line.title), "bold")]
    for mark, stage, name, phase, words in rows:
        head = f"{SIGNS[mark]} {stage:<8}{clean(name):<{names}}  "
        text = "  ".join(clean(word) for word in words if word)
        room = screen.width - len(head) - phases - 2
        painted = screen.paint(SIGNS[mark], COLOURS[mark]) + head[1:] + screen.paint(phase, COLOURS[mark])
        if len(text) <= room:
            found.append((painted + " " * (phases - len(phase)) + "  " + text).rstrip())
        else:  # a narrow terminal
            found += [painted.rstrip(), *screen.wrap(text, 10)]
    if line.left_out:
        found.append(f"          and {line.left_out} earlier that nothing depends on")
    return found


VERBS = {"stuck": "is stuck", "wait": "waits", "held": "rests"}


def explained(item: Item, screen: Screen) -> list[str]:
    """What blocks: the reason, the words of the condition, what it means, and the commands."""
    obj, state = item
    since = age(state.since, screen.now)
    title = f"{ref(obj)} {VERBS.get(state.mark, 'is on its way')}: {clean(state.reason)}"
    why, todo = meaning(state.reason)
    found = [screen.paint(SIGNS[state.mark], COLOURS[state.mark]) + " " + screen.paint(title, "bold")]
    if since and len(title) + len(since) + 11 <= screen.width:
        found[0] += f" (since {since})"
    found += screen.wrap(state.message, 2, "  ") if state.message else []
    found += ["", *screen.wrap(why, 8, "  why")] if why else [""]
    found += screen.wrap(todo, 8, "  do") if todo else []
    for number, command in enumerate(commands(obj, state.reason, state.message)):
        found.append(("  run" if not number else "").ljust(8) + screen.paint(clean(command), "green"))
    return found


def screen_of(
    found: Sequence[Line], screen: Screen, *, about: Json | None = None, everywhere: bool = False
) -> list[str]:
    """The whole screen of `status`."""
    text: list[str] = []
    for line in found:
        text += [screen.paint(f"namespace {line.namespace}", "dim")] if everywhere else []
        text += [*drawn(line, screen), ""]
    blocked = blockers(found)
    if about is not None:
        own = next((item for line in found for item in line.items() if ref(item.obj) == ref(about)), None)
        text += [*more_about(about, screen), ""]
        # What lies behind the object does not block it.
        order = [ref(item.obj) for line in found for item in line.items()]
        blocked = [item for item in blocked if own and order.index(ref(item.obj)) <= order.index(ref(about))]
    if not blocked:
        served = [item.obj for line in found for item in line.pools if is_true(item.obj, "Ready")]
        chat = next((obj for obj in served if speaks_openai(obj)), None)
        talk = [f"  talk  kubectl aifactory -n {space_of(chat)} chat {ref(chat)}"] if chat else []
        return [*text, "Nothing blocks.", *talk]
    text += explained(blocked[0], screen)
    if len(blocked) > 1:
        text += ["", f"Behind it, or beside it ({len(blocked) - 1}):"]
    for item in blocked[1 : 1 + SHOWN]:
        words = f"  {SIGNS[item.state.mark]} {ref(item.obj)}: {item.state.reason}: {item.state.message}"
        text.append(clean_cut(words, screen.width))
    return text


def clean_cut(text: str, width: int) -> str:
    """On one line of the terminal; leading blanks stay."""
    indent = len(text) - len(text.lstrip())
    text = " " * indent + clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def more_about(obj: Json, screen: Screen) -> list[str]:
    """What the status of one object says beside its phase."""
    status, spec = status_of(obj), obj.get("spec", {})
    rows: list[tuple[str, object]] = []
    if obj.get("kind") == JOB:
        restarts = status.get("restarts") or {}
        causes = ", ".join(f"{cause} {count}" for cause, count in (restarts.get("byCause") or {}).items())
        failure, saved = status.get("lastFailure") or {}, status.get("checkpoint") or {}
        rows.append(("attempt", status.get("attempt")))
        checked, queued = status.get("check") or {}, condition(obj, "Admitted")
        rows.append(("check", f"{checked.get('phase')}: {checked.get('message', '')}" if checked else ""))
        rows.append(("queue", f"{queued.get('reason')}: {queued.get('message', '')}" if queued else ""))
        told = f"{restarts['total']}{f' ({causes})' if causes else ''}" if restarts.get("total") else ""
        rows.append(("restarts", told))
        if failure:
            code = f", exit code {failure['exitCode']}" if failure.get("exitCode") is not None else ""
            where = f"pod {failure.get('pod')}{' on ' + failure['node'] if failure.get('node') else ''}{code}"
            words = f"{failure.get('cause')} {failure.get('message', '')}"
            rows.append(("failure", f"{age(failure.get('time'), screen.now)} ago, {where}: {words}"))
        if saved:
            rows.append(("checkpoint", f"step {saved.get('step')}, {age(saved.get('time'), screen.now)} ago"))
        rows.append(("publishes", (status.get("output") or {}).get("modelVersion") or model_of(obj)))
    elif obj.get("kind") == VERSION:
        lineage = spec.get("lineage") or {}
        rows.append(("source", (spec.get("source") or {}).get("uri")))
        rows.append(("digest", status.get("resolvedDigest") or spec.get("digest")))
        rows.append(("made by", f"tjob/{lineage['trainingJob']['name']}" if lineage.get("trainingJob") else ""))
        rows.append(("used by", ", ".join(f"{use['kind']}/{use['name']}" for use in status.get("usedBy", ()))))
    else:
        rollout = status.get("rollout") or {}
        rows.append(("address", status.get("url")))
        rows.append(("traffic", status.get("traffic")))
        messages = [str(model.get("message") or "") for model in status.get("models") or ()]
        for (name, state, parts), message in zip(several_of(obj), messages):
            rows.append((name, f"{state}: {', '.join([*parts, *filter(None, [message])])}"))
        rows.append(("rollout", f"{rollout.get('phase')} {rollout.get('message', '')}" if rollout else ""))
        if rollout.get("strategy"):
            rows.append(("strategy", f"{rollout['strategy']}: {rollout.get('strategyReason', '')}"))
    found = [screen.paint(ref(obj), "bold")]
    for title, told_ in rows:
        if told_ not in (None, ""):
            found += screen.wrap(clean(told_), 14, f"  {title}")
    return found


def as_json(found: Sequence[Line]) -> Json:
    """`status -o json`: what a script needs of the screen."""

    def told(item: Item) -> Json:
        obj, state = item
        return {
            "kind": obj["kind"],
            "namespace": space_of(obj),
            "name": name_of(obj),
            "phase": phase_of(obj, state),
            "state": state.mark,
            "reason": state.reason,
            "message": state.message,
            "since": state.since,
        }

    def blocked(item: Item) -> Json:
        why, todo = meaning(item.state.reason)
        mend = commands(item.obj, item.state.reason, item.state.message)
        return {**told(item), "meaning": why, "advice": todo, "commands": mend}

    drawn_lines = [
        {
            "namespace": line.namespace,
            "model": line.title,
            "models": list(line.models),
            "objects": [told(item) for item in line.items()],
        }
        for line in found
    ]
    return {"lines": drawn_lines, "blocked": [blocked(item) for item in blockers(found)]}


def page_of(item: Item, screen: Screen) -> list[str]:
    """`why`: what the reasons page says about what an object shows."""
    obj, state = item
    phase = status_of(obj).get("phase", "")
    said = PHASES.get(str(obj.get("kind")), {}).get(phase, "")
    why, todo = meaning(state.reason)
    found = [screen.paint(f"{ref(obj)}: {clean(state.reason) or '-'}", "bold")]
    found += screen.wrap(state.message, 2, "  ") if state.message else []
    found += ["", *screen.wrap(f"{phase}: {said}.", 8, "  phase")] if said else [""]
    found += screen.wrap(why, 8, "  why") if why else []
    found += screen.wrap(todo, 8, "  do") if todo else []
    if state.mark in BLOCKS:
        for number, command in enumerate(commands(obj, state.reason, state.message)):
            found.append(("  run" if not number else "").ljust(8) + clean(command))
    return found


def tree_of(found: Sequence[Line], pods: Sequence[Json], screen: Screen) -> list[str]:
    """Lines with their objects and the pods of those."""
    text: list[str] = []
    for line in found:
        text.append(screen.paint(clean(line.title), "bold"))
        items = line.items()
        for number, item in enumerate(items):
            last = number == len(items) - 1
            phase = screen.paint(phase_of(item.obj, item.state), COLOURS[item.state.mark])
            text.append(f"{'└─' if last else '├─'} {ref(item.obj)}  {phase}")
            own = pods_of(item.obj, pods)
            for index, pod in enumerate(own):
                branch = "└─" if index == len(own) - 1 else "├─"
                text.append(f"{'  ' if last else '│ '} {branch} {pod_words(pod, item.obj)}")
    return text


def pods_of(obj: Json, pods: Sequence[Json]) -> list[Json]:
    """The pods that belong to an object, in the order of their names."""
    label = POD_LABEL[obj["kind"]]
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == name_of(obj)]
    own = [pod for pod in own if space_of(pod) == space_of(obj)]
    return sorted(own, key=lambda pod: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name_of(pod))])


def pod_words(pod: Json, obj: Json) -> str:
    """A pod in one line."""
    status = status_of(pod)
    phase = str(status.get("reason") or status.get("phase", "-"))
    waiting = [c.get("state", {}).get("waiting", {}).get("reason") for c in status.get("containerStatuses") or ()]
    phase = next((str(reason) for reason in waiting if reason and reason != "PodInitializing"), phase)
    attempt = label_of(pod, "attempt")
    old = obj["kind"] == JOB and label_of(pod, "role") == "node" and attempt != str(status_of(obj).get("attempt", 0))
    kept = "  (kept for its log)" if old and status.get("phase") in ("Failed", "Succeeded") else ""
    node = pod.get("spec", {}).get("nodeName")
    return f"pod/{name_of(pod)}  {clean(phase)}{f'  on {node}' if node else ''}{kept}"


def label_of(pod: Json, name: str) -> str:
    """A label of ours."""
    return str(pod.get("metadata", {}).get("labels", {}).get(f"{GROUP}/{name}", ""))


def part_of(value: object, whole: float) -> str:
    """In percent; empty if it is not known."""
    known = number(value)
    return f"{100 * known / whole:.0f}%" if known is not None and whole else ""


def top_of(objects: Sequence[Json], screen: Screen, everywhere: bool) -> list[str]:
    """Figures of what runs, from the statuses."""
    jobs = [["JOB", "PHASE", "PROGRESS", "STEP", "LOSS", "TOKENS/S", "ETA", "GPUS", "GOODPUT", "COST"]]
    pools = [["POOL", "PHASE", "PODS", "VERSION", "REQUESTS/S", "TOKENS/S", "GPUS", "BUSY", "$/MTOK"]]
    for obj in sorted(objects, key=lambda obj: (space_of(obj), name_of(obj))):
        status, name = status_of(obj), f"{space_of(obj)}/{name_of(obj)}" if everywhere else name_of(obj)
        phase, cost = str(status.get("phase", "-")), status.get("cost") or {}
        if obj["kind"] == JOB and not is_over(obj):
            progress = status.get("progress") or {}
            step = f"{progress['step']}/{progress.get('totalSteps', '?')}" if "step" in progress else "-"
            row: list[object] = [bar(progress.get("percent")), step]
            row += [progress.get(key) for key in ("loss", "tokensPerSecond", "eta")]
            row += [cost.get("gpus"), part_of(cost.get("goodput"), 1), cost.get("cost")]
            jobs.append([name, phase, *(str(cell or "-") for cell in row)])
        elif obj["kind"] == POOL:
            figures = status.get("throughput") or {}
            row = [status.get("summary"), "" if status.get("models") else status.get("version")]
            row += [figures.get(key) for key in ("requestsPerSecond", "tokensPerSecond")]
            held, idle = number(cost.get("gpuSeconds")) or 0, number(cost.get("idleGPUSeconds")) or 0
            row += [cost.get("gpus"), part_of(held - idle, held), figures.get("costPerMillionTokens")]
            pools.append([name, phase, *(str(cell or "-") for cell in row)])
            counted = {each.get("name"): each for each in figures.get("models") or ()}
            for model in status.get("models") or ():  # the GPUs are those of all
                own = counted.get(model.get("name"), {})
                row = [model.get("readyReplicas"), model.get("version")]
                row += [own.get(key) for key in ("requestsPerSecond", "tokensPerSecond")] + [""] * 3
                words = [f"{name}: {model.get('name')}", str(model.get("state")), *(str(cell or "-") for cell in row)]
                pools.append(words)
    shown = [table(rows, screen.width) for rows in (jobs, pools) if len(rows) > 1]
    if not shown:
        return ["No job runs and no pool is there."]
    return [line for part in shown for line in (*part, "")][:-1]


def lineage_of(version: Json, objects: Sequence[Json], seen: tuple[str, ...] = ()) -> list[str]:
    """Where a version comes from, back to what is not of this namespace."""
    spec, status = version.get("spec", {}), status_of(version)
    lineage = spec.get("lineage") or {}
    rows: list[tuple[str, object]] = [
        ("digest", status.get("resolvedDigest") or spec.get("digest")),
        ("source", (spec.get("source") or {}).get("uri")),
        ("size", f"{status['size']}, {status.get('files')} files" if status.get("size") else ""),
    ]
    if lineage.get("trainingJob"):
        job = lineage["trainingJob"]
        there = any(obj["metadata"].get("uid") == job.get("uid") for obj in objects if obj["kind"] == JOB)
        rows.append(("made by", f"tjob/{job.get('name')} (uid {job.get('uid')}){'' if there else ', which is gone'}"))
    else:
        rows.append(("made by", "nobody here: it was registered by hand"))
    attempt = f", attempt {lineage['attempt']}" if lineage.get("attempt") is not None else ""
    rows.append(("steps", f"{lineage['steps']}{attempt}" if lineage.get("steps") is not None else ""))
    rows.append(("image", lineage.get("image")))
    rows.append(("metrics", ", ".join(f"{m.get('name')} {m.get('value')}" for m in lineage.get("metrics") or ())))
    inputs = lineage.get("inputs") or ()
    rows += [(f"input {entry.get('name')}", f"{entry.get('uri')} {entry.get('digest')}") for entry in inputs]
    rows.append(("used by", ", ".join(f"{use['kind']}/{use['name']}" for use in status.get("usedBy", ()))))
    wide = max(len(title) for title, _ in rows) + 2
    found = [ref(version)]
    found += [f"  {title:<{wide}}{clean(words)}" for title, words in rows if words not in (None, "")]
    parents = [str(entry["modelVersion"]) for entry in inputs if entry.get("modelVersion")]
    for name in parents or [str(parent) for parent in (lineage.get("parent"),) if parent]:
        parent = next((obj for obj in objects if obj["kind"] == VERSION and name_of(obj) == name), None)
        if parent is None:
            found += [f"  from mver/{name}, which is gone"]
        elif name not in seen:
            first, *more = lineage_of(parent, objects, (*seen, name))
            found += [f"  from {first}", *(f"  {text}" for text in more)]
    return found


def events_of(
    events: Sequence[Json], wanted: set[tuple[str, str]], patterns: Sequence[str], screen: Screen
) -> list[str]:
    """A table of Events about these objects, and about pods of theirs that are gone by now."""
    rows = []
    for event in events:
        about = event.get("involvedObject") or event.get("regarding") or {}
        kind, name = str(about.get("kind", "")), str(about.get("name", ""))
        gone = kind == "Pod" and any(re.fullmatch(pattern, name) for pattern in patterns)
        if (kind, name) not in wanted and not gone:
            continue
        series = event.get("series") or {}
        last = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
        last = last or event.get("metadata", {}).get("creationTimestamp")
        count = int(series.get("count") or event.get("count") or 1)
        times = f" (x{count})" if count > 1 else ""
        words = [str(event.get("type", "")), str(event.get("reason", "")), f"{SHORT.get(kind, kind.lower())}/{name}"]
        words.append(clean(event.get("message") or event.get("note")) + times)
        rows.append((str(last), [age(last, screen.now), *words]))
    rows.sort(key=lambda row: row[0])
    if not rows:
        return ["No Events; Kubernetes keeps them for an hour."]
    return table([["LAST", "TYPE", "REASON", "OBJECT", "MESSAGE"], *(row for _, row in rows)], max(screen.width, 60))


# ---- commands


def find(objects: Sequence[Json], words: Sequence[str], kind: str = "") -> Json | None:
    """The object that somebody has named, as kind/name, kind name, or name alone; None if nothing was named.

    Raises Failed where there is none, or more than one.
    """
    if not words:
        return None
    called = "/".join(words)
    prefix, _, name = called.rpartition("/")
    wanted = kind
    if prefix:
        plain = prefix.lower().partition(".")[0]
        wanted = next((k for k in SHORT if plain in (SHORT[k], PLURAL[k], k.lower())), "")
        if not wanted or (kind and wanted != kind):
            fitting = ", ".join([SHORT[kind]] if kind else SHORT.values())
            raise Failed(f"{prefix} is not a kind that has this: write {fitting}")
    matching = [obj for obj in objects if name_of(obj) == name and (not wanted or obj["kind"] == wanted)]
    if not matching:
        known = ", ".join(sorted(ref(obj) for obj in objects if not wanted or obj["kind"] == wanted)[:10])
        raise Failed(f"there is no {called} in this namespace" + (f"; there are: {known}" if known else ""))
    if len(matching) > 1:
        raise Failed(f"{name} is the name of {' and of '.join(ref(obj) for obj in matching)}: write one of these")
    return matching[0]


def only(objects: Sequence[Json], words: Sequence[str], kind: str) -> Json:
    """The named object of that kind, or the only one there is."""
    named = find(objects, words, kind)
    candidates = [obj for obj in objects if obj["kind"] == kind]
    if named is None and len(candidates) != 1:
        known = ", ".join(sorted(map(ref, candidates))[:10])
        raise Failed(f"name one: {known}" if known else f"there is no {kind} in this namespace")
    return named if named is not None else candidates[0]


def say(text: Iterable[str]) -> None:
    """Print lines."""
    print("\n".join(text))


def nothing_here(k: Kubectl, everywhere: bool) -> list[str]:
    """For a namespace without any object of ours."""
    where = "in any namespace" if everywhere else f"in namespace {k.home()}"
    hint = "" if everywhere else "; elsewhere: kubectl aifactory status --all-namespaces"
    return [f"There is no {JOB}, {VERSION} or {POOL} {where}{hint}", "Is the cluster fit: kubectl aifactory check"]


def cmd_status(k: Kubectl, args: argparse.Namespace) -> int:
    """What there is, and the first thing that blocks."""
    screen, objects = terminal(), k.factory(args.all_namespaces)
    about = find(objects, args.object)
    found = lines(objects, screen.now, ref(about) if about else "")
    found = chain(found, about) if about else found
    if args.output == "json":
        say([json.dumps(as_json(found), indent=2)])
    elif not found:
        say(nothing_here(k, args.all_namespaces))
    else:
        say(screen_of(found, screen, about=about, everywhere=args.all_namespaces))
    return 0


def cmd_why(k: Kubectl, args: argparse.Namespace) -> int:
    """What the reasons page says about what is shown."""
    screen = terminal()
    if len(args.object) == 1 and args.object[0] in REASONS:
        why, todo = REASONS[args.object[0]]
        say([args.object[0], *screen.wrap(why, 8, "  why"), *screen.wrap(todo, 8, "  do")])
        return 0
    objects = k.factory()
    about = find(objects, args.object)
    items = [item for line in lines(objects, screen.now, ref(about) if about else "") for item in line.items()]
    if about is not None:
        items = [item for item in items if ref(item.obj) == ref(about)]
    elif blocked := [item for item in items if item.state.mark in BLOCKS]:
        items = blocked[:1]
    if not items:
        say(nothing_here(k, False))
    for number, item in enumerate(items):
        say([*([""] if number else []), *page_of(item, screen)])
    return 0


def our_pods(k: Kubectl, *args: str) -> list[Json]:
    """Pods of the factory in the namespace."""
    return k.get("pods", "-l", f"{GROUP}/role", *args)


def cmd_tree(k: Kubectl, args: argparse.Namespace) -> int:
    """Objects, by lineage, with their pods."""
    screen, objects = terminal(), k.factory()
    about = find(objects, args.object)
    found = lines(objects, screen.now, ref(about) if about else "")
    found = chain(found, about) if about else found
    say(tree_of(found, our_pods(k), screen) if found else nothing_here(k, False))
    return 0


def cmd_top(k: Kubectl, args: argparse.Namespace) -> int:
    """Figures of what runs."""
    say(top_of(k.factory(args.all_namespaces), terminal(), args.all_namespaces))
    return 0


def chosen(job_or_other: Json, pods: Sequence[Json], args: argparse.Namespace) -> list[Json]:
    """The pods whose logs are wanted."""
    obj, own = job_or_other, pods_of(job_or_other, pods)
    role = args.role or {JOB: "node", VERSION: "verify", POOL: "serve"}[obj["kind"]]
    own = [pod for pod in own if label_of(pod, "role") == role]
    if obj["kind"] != JOB or role != "node":
        return own
    failed = str((status_of(obj).get("lastFailure") or {}).get("pod", ""))
    if args.failed and any(name_of(pod) == failed for pod in own):
        return [pod for pod in own if name_of(pod) == failed]
    attempts = sorted({int(label_of(pod, "attempt") or 0) for pod in own})
    current = int(status_of(obj).get("attempt") or 0)
    earlier = [number for number in attempts if number < current]
    wanted = args.attempt if args.attempt is not None else current
    if args.previous_attempt:
        wanted = earlier[-1] if earlier else -1
    elif args.attempt is None and args.rank is None and wanted not in attempts and attempts:
        wanted = attempts[-1]  # the next attempt has no pods yet
    own = [pod for pod in own if int(label_of(pod, "attempt") or 0) == wanted]
    own = [pod for pod in own if args.rank is None or label_of(pod, "node-index") == str(args.rank)]
    if not own:
        kept = ", ".join(map(str, attempts)) or "none"
        have = f"it is at attempt {current}, pods are there of attempts: {kept}"
        raise Failed(f"{ref(obj)} has no pod of that rank and attempt; {have}")
    return own


def cmd_logs(k: Kubectl, args: argparse.Namespace) -> int:
    """Logs of an object's pods."""
    objects = k.factory()
    obj = find(objects, args.object) or only(objects, (), JOB)
    own = chosen(obj, our_pods(k), args)
    if not own:
        raise Failed(f"{ref(obj)} has no such pod now; what became of it: kubectl aifactory events {ref(obj)}")
    usual = {"node": "trainer", "serve": "triton"}
    code = 0
    flags = [f"--tail={args.tail}"] if args.tail is not None else []
    if args.follow and len(own) > 1:
        label = f"{POD_LABEL[obj['kind']]}={name_of(obj)},{GROUP}/role={label_of(own[0], 'role')}"
        label += f",{GROUP}/attempt={label_of(own[0], 'attempt')}" if obj["kind"] == JOB else ""
        container = ["-c", args.container or usual[label_of(own[0], "role")]]
        container = ["--all-containers"] if args.all_containers else container
        return k.show("logs", "-f", "--prefix", f"--max-log-requests={len(own)}", "-l", label, *container, *flags)
    for number, pod in enumerate(own):
        if len(own) > 1:
            print(f"{chr(10) if number else ''}==> {name_of(pod)} <==")
        if status_of(pod).get("phase") == "Pending":
            print(
                f"{pod_words(pod, obj)}: no log before it runs; see: kubectl aifactory events {ref(obj)}",
                file=sys.stderr,
            )
        container = ["-c", args.container or usual.get(label_of(pod, "role"), "")]
        container = ["--all-containers", "--prefix"] if args.all_containers else container if container[1] else []
        follow = ["-f"] if args.follow else []
        code = k.show("logs", name_of(pod), *container, *follow, *flags) or code
    return code


def cmd_events(k: Kubectl, args: argparse.Namespace) -> int:
    """Events about objects and their pods."""
    screen, objects = terminal(), k.factory()
    about = find(objects, args.object)
    wanted_objects = [about] if about is not None else objects
    pods = our_pods(k)
    wanted = {(obj["kind"], name_of(obj)) for obj in wanted_objects}
    wanted |= {("Pod", name_of(pod)) for obj in wanted_objects for pod in pods_of(obj, pods)}
    endings = {JOB: r"-(\d+-\d+|publish-\d+|probe-\d+|(input|check)-.+)", VERSION: r"-verify-\d+", POOL: r"-v\d.*"}
    patterns = [re.escape(name_of(obj)) + endings[obj["kind"]] for obj in wanted_objects]
    say(events_of(k.get("events"), wanted, patterns, screen))
    return 0


def cmd_retry(k: Kubectl, args: argparse.Namespace) -> int:
    """Have something tried again now."""
    obj = find(k.factory(), args.object)
    assert obj is not None
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return k.show("annotate", f"{PLURAL[obj['kind']]}.{GROUP}/{name_of(obj)}", "--overwrite", f"{GROUP}/retry={stamp}")


def cmd_suspend(k: Kubectl, args: argparse.Namespace) -> int:
    """Remove a job's pods."""
    return _suspend(k, only(k.factory(), args.object, JOB), True)


def cmd_resume(k: Kubectl, args: argparse.Namespace) -> int:
    """Let a suspended job or a paused Canary go on."""
    found = k.factory()
    obj = find(found, args.object) or only(found, (), JOB)
    if obj["kind"] == VERSION:
        raise Failed(f"a ModelVersion is not suspended or paused; to have it checked again: retry {ref(obj)}")
    return _suspend(k, obj, False) if obj["kind"] == JOB else _ask_of(k, obj, "resume")


def _suspend(k: Kubectl, job: Json, suspend: bool) -> int:
    patch = json.dumps({"spec": {"suspend": suspend}})
    return k.show("patch", f"{PLURAL[JOB]}.{GROUP}/{name_of(job)}", "--type=merge", "-p", patch)


def cmd_change(k: Kubectl, args: argparse.Namespace) -> int:
    """Promote, abort or pause what a pool is about to change to."""
    pool = only(k.factory(), args.object, POOL)
    if (status_of(pool).get("rollout") or {}).get("phase") != "Progressing":
        raise Failed(f"no change of {ref(pool)} is under way, so there is nothing to {args.command}")
    return _ask_of(k, pool, args.command)


def _ask_of(k: Kubectl, pool: Json, what: str) -> int:
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return k.show("annotate", f"{PLURAL[POOL]}.{GROUP}/{name_of(pool)}", "--overwrite", f"{GROUP}/{what}={stamp}")


def cmd_rollback(k: Kubectl, args: argparse.Namespace) -> int:
    """Pin a pool to a version that was Ready before."""
    objects = k.factory()
    pool = only(objects, args.object, POOL)
    model = rolled_back(pool, args.model)
    number = rollback_to(pool, objects, args.to, model)
    # The list is replaced as a whole: the other models stay in it.
    wishes = [wish if wish["name"] != model else {"name": model, "version": number} for wish in pool["spec"]["models"]]
    patch = json.dumps({"spec": {"models": wishes}})
    code = k.show("patch", f"{PLURAL[POOL]}.{GROUP}/{name_of(pool)}", "--type=merge", "-p", patch)
    if code == 0 and any(wish["name"] == model and wish.get("track") for wish in pool["spec"]["models"]):
        say([f"{ref(pool)} stays at {model}@{number} from now on; to follow new versions again: track: Latest"])
    return code


def rolled_back(pool: Json, named: str | None) -> str:
    """The model of a pool that goes back. Raises Failed where it has to be named."""
    names = [str(wish["name"]) for wish in pool["spec"]["models"]]
    if named is None and len(names) > 1:
        raise Failed(f"{ref(pool)} serves {', '.join(names)}: say which one goes back with --model")
    if named is not None and named not in names:
        raise Failed(f"{ref(pool)} does not serve {named}; it serves {', '.join(names)}")
    return named or names[0]


def rollback_to(pool: Json, objects: Sequence[Json], wanted: int | None, model: str = "") -> int:
    """The version to go back to: the one that is named, or the newest that is Ready and older than what the pool is to
    serve. Raises Failed where there is none."""
    status, model = status_of(pool), model or model_of(pool)
    versions = [obj for obj in objects if obj["kind"] == VERSION and model_of(obj) == model]
    ready = sorted((_number(obj) for obj in versions if is_true(obj, "Ready")), reverse=True)
    there_are = f"; Ready are: {', '.join(map(str, ready))}" if ready else ""
    if wanted is not None:
        if wanted not in ready:
            raise Failed(f"version {wanted} of {model} is not Ready{there_are}")
        return wanted
    parts = [status.get("candidate"), status.get("stable")]
    if "models" in status:
        parts = [
            next((each for each in (part or {}).get("models", ()) if each["name"] == model), None) for part in parts
        ]
    now = [part["version"] for part in parts if part and part.get("version")]
    if not now:
        raise Failed(f"{ref(pool)} has served nothing yet, so there is nothing to go back from")
    # In the middle of a change it is what was served before it; that need not be the next lower one.
    stable = (parts[1] or {}).get("version")
    if stable is not None and stable != now[0] and stable in ready:
        return int(stable)
    older = [number for number in ready if number < now[0]]
    if not older:
        raise Failed(f"no version of {model} that is older than {now[0]} is Ready{there_are}; name one with --to")
    return older[0]


def cmd_lineage(k: Kubectl, args: argparse.Namespace) -> int:
    """Where versions come from."""
    objects = k.factory()
    about = find(objects, args.object)
    names = {name_of(obj) for obj in objects if obj["kind"] == VERSION}
    if about is not None and about["kind"] == POOL:
        names &= {str(name) for name in _versions_of(about)}
    elif about is not None and about["kind"] == JOB:
        names &= {str((status_of(about).get("output") or {}).get("modelVersion"))}
    elif about is not None:
        names = {name_of(about)}
    versions = [obj for obj in objects if obj["kind"] == VERSION and name_of(obj) in names]
    if not versions:
        none = f"there is no {VERSION} in this namespace"
        raise Failed(f"{ref(about)} has no {VERSION} yet" if about is not None else none)
    for number, version in enumerate(sorted(versions, key=name_of)):
        say([*([""] if number else []), *lineage_of(version, objects)])
    return 0


# ---- chat


class Forward:
    """A port of this machine that leads to a Service, by kubectl port-forward, as long as it is wanted."""

    def __init__(self, k: Kubectl, target: str, port: int, seconds: float = 30) -> None:
        import threading

        patience = f"--pod-running-timeout={seconds:.0f}s"
        command = k.command("port-forward", "--address=127.0.0.1", patience, target, f":{port}")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdout is not None
        guard = threading.Timer(seconds + 5, self._process.kill)
        guard.start()
        first = self._process.stdout.readline().decode(errors="replace")
        guard.cancel()
        found = re.search(r"127\.0\.0\.1:(\d+)", first)
        if found is None:
            _, words = self._process.communicate()
            raise Failed(words.decode(errors="replace").strip() or f"kubectl port-forward: {target} does not answer")
        self.port = int(found.group(1))
        # It prints a line for each connection: unread, they would fill the pipe and stop it.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def ask(port: int, path: str, body: Json) -> Iterator[str]:
    """The pieces of a streamed answer. Raises Failed with the server's words."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            words = answer.read(65536).decode(errors="replace")
            raise Failed(_error_words(words) or f"{path} answers {answer.status}")
        for raw in answer:
            text = raw.decode(errors="replace").strip()
            if not text.startswith("data:") or text == "data: [DONE]":
                continue
            event = json.loads(text[5:])
            if event.get("error"):
                raise Failed(_error_words(text[5:]))
            for choice in event.get("choices") or ():
                yield str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"the connection to the pool broke: {error}") from error
    finally:
        connection.close()


def _error_words(body: str) -> str:
    try:
        error = json.loads(body).get("error")
        return clean(error.get("message", "") if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return clean(body)[:500]


def answered(port: int, body: Json, history: list[Json]) -> str:
    """Print the answer as it comes, and return it. A model without a chat template goes on with the text itself."""
    parts: list[str] = []
    try:
        pieces = ask(port, "/v1/chat/completions", {**body, "messages": history})
        first = next(pieces, "")
    except Failed as error:
        if "no chat template" not in str(error):
            raise
        pieces = ask(port, "/v1/completions", {**body, "prompt": history[-1]["content"]})
        first = next(pieces, "")
    for piece in _chained(first, pieces):
        parts.append(piece)
        # What a model writes is shown, and obeyed by no terminal.
        print("".join(c for c in piece if c.isprintable() or c in "\n\t"), end="", flush=True)
    print()
    return "".join(parts)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def cmd_chat(k: Kubectl, args: argparse.Namespace) -> int:
    """Talk to a pool."""
    pool = only(k.factory(), args.object, POOL)
    status = status_of(pool)
    if not is_true(pool, "Available"):
        raise Failed(f"{ref(pool)} does not answer now; see: kubectl aifactory status {ref(pool)}")
    if not speaks_openai(pool):
        raise Failed(f"{ref(pool)} serves no language model: it is asked at {status.get('url')}")
    served = [str(model["name"]) for model in status.get("models") or () if model.get("version")]
    body: Json = {"model": args.model or next(iter(served), model_of(pool))}
    body.update({"max_tokens": args.max_tokens} if args.max_tokens else {})
    body.update({"temperature": args.temperature} if args.temperature is not None else {})
    history: list[Json] = [{"role": "system", "content": args.system}] if args.system else []
    alone = args.message or (None if sys.stdin.isatty() else sys.stdin.read().strip())
    forward = Forward(k, way_to(pool), OPENAI_PORT)
    try:
        if alone is not None:
            answered(forward.port, body, [*history, {"role": "user", "content": alone}])
            return 0
        print(f"{ref(pool)}, model {body['model']}; an empty line or Ctrl-D ends it")
        while question := _asked():
            history.append({"role": "user", "content": question})
            history.append({"role": "assistant", "content": answered(forward.port, body, history)})
        return 0
    finally:
        forward.close()


def speaks_openai(pool: Json) -> bool:
    """Whether a pool serves a language model: its address is then the base URL of OpenAI's API."""
    return str(status_of(pool).get("url")).endswith("/v1")


def way_to(pool: Json) -> str:
    """What leads to a pool's pods: its Service, but where its gateway wants a key or TLS the pods themselves."""
    stable, gateway = status_of(pool).get("stable") or {}, pool.get("spec", {}).get("gateway") or {}
    if stable.get("revision") and ("apiKeys" in gateway or "tls" in gateway):
        return f"deployment/{stable.get('deployment') or name_of(pool) + '-' + stable['revision']}"
    return f"service/{name_of(pool)}"


def _asked() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


# ---- check


class Check(NamedTuple):
    """One thing that was looked at."""

    mark: str
    """ok, note or bad."""
    what: str
    words: str
    command: str = ""


def checks(k: Kubectl, now: datetime) -> Iterator[Check]:
    """Whether the cluster is fit. Each look may be refused, which is told and stops no other."""
    looks = (
        _check_version,
        _check_crds,
        _check_operator,
        _check_storage,
        _check_nodes,
        _check_gangs,
        _check_queues,
        _check_gateways,
        _check_prometheus,
    )
    for look in looks:
        try:
            yield from look(k, now)
        except Failed as error:
            yield Check("note", look.__name__[7:], f"can not be looked at: {clean(error)}")


def _check_version(k: Kubectl, now: datetime) -> Iterator[Check]:
    server = json.loads(k.run("version", "-o", "json")).get("serverVersion") or {}
    numbers = [int(re.sub(r"\D.*", "", str(server.get(part, "0"))) or 0) for part in ("major", "minor")]
    good = tuple(numbers) >= MIN_KUBERNETES
    words = f"{server.get('gitVersion')}; needed is {'.'.join(map(str, MIN_KUBERNETES))} or newer"
    yield Check("ok" if good else "bad", "Kubernetes", words)


def _check_crds(k: Kubectl, now: datetime) -> Iterator[Check]:
    names = [f"{plural}.{GROUP}" for plural in PLURAL.values()]
    found = {name_of(crd): crd for crd in k.get("crd", *names, "--ignore-not-found")}
    missing = [name for name in names if name not in found or not is_true(found[name], "Established")]
    install = "kubectl apply --server-side -f crds/  # or install the chart"
    if missing:
        yield Check("bad", "CRDs", f"not there: {', '.join(missing)}", install)
    else:
        yield Check("ok", "CRDs", f"{len(names)} are established")


def _check_operator(k: Kubectl, now: datetime) -> Iterator[Check]:
    deployments = k.get("deployments", "--all-namespaces", "-l", OPERATOR)
    if not deployments:
        command = "helm install aifactory charts/aifactory -n aifactory-system --create-namespace --wait"
        yield Check("bad", "operator", "no Deployment of it in any namespace", command)
        return
    leases = {}
    for found in deployments:
        where, status = f"{space_of(found)}/{name_of(found)}", status_of(found)
        container = found["spec"]["template"]["spec"]["containers"][0]
        up = int(status.get("availableReplicas") or 0)
        words = f"{where}: {up} of {found['spec'].get('replicas', 1)} ready, {container.get('image')}"
        yield Check(
            "ok" if up else "bad", "operator", words, "" if up else f"kubectl -n {space_of(found)} describe pods"
        )
        given = [arg for arg in container.get("args") or () if arg.startswith("--") and "=" in arg]
        options = dict(arg[2:].split("=", 1) for arg in given)
        watched = options.get("namespace")
        leases[options.get("lease-namespace", "kube-system"), f"{watched}.{GROUP}" if watched else GROUP] = watched
    for (space, name), watched in leases.items():
        yield from _check_lease(k, now, space, name, f"namespace {watched}" if watched else "all namespaces")


def _check_lease(k: Kubectl, now: datetime, space: str, name: str, over: str) -> Iterator[Check]:
    command = f"kubectl -n {space} get lease {name} -o yaml"
    leases = k.within(space).get("lease", name, "--ignore-not-found")
    spec = leases[0].get("spec", {}) if leases else {}
    holder, silent = spec.get("holderIdentity"), seconds_since(spec.get("renewTime"), now)
    if not holder:
        yield Check("bad", "leader", f"nobody leads over {over}", command)
    elif silent > 4 * int(spec.get("leaseDurationSeconds") or 15):
        yield Check("bad", "leader", f"{holder} leads over {over} and is silent for {silent:.0f} s", command)
    else:
        yield Check("ok", "leader", f"{holder} leads over {over}")


def _check_storage(k: Kubectl, now: datetime) -> Iterator[Check]:
    classes = k.get("storageclasses")
    key = "storageclass.kubernetes.io/is-default-class"
    default = [c for c in classes if c["metadata"].get("annotations", {}).get(key) == "true"]
    if not default:
        which = name_of(classes[0]) if classes else "NAME"
        mark = json.dumps({"metadata": {"annotations": {key: "true"}}})
        words = "no default StorageClass: claims that name none wait for ever"
        yield Check("bad", "storage", words, f"kubectl patch storageclass {which} -p '{mark}'")
        return
    name = name_of(default[0])
    volumes = [v["spec"] for v in k.get("pv") if v["spec"].get("storageClassName") == name]
    shared = any("ReadWriteMany" in spec.get("accessModes", ()) for spec in volumes)
    words = f"default StorageClass {name} ({default[0].get('provisioner')})"
    if shared:
        yield Check("ok", "storage", f"{words} has made ReadWriteMany volumes")
    else:
        known = "it has made none yet, so whether it can is not known; else write accessModes: [ReadWriteOnce]"
        yield Check("note", "storage", f"{words}; jobs of several pods need ReadWriteMany: {known}")


def _check_nodes(k: Kubectl, now: datetime) -> Iterator[Check]:
    nodes = k.get("nodes")
    ready = [node for node in nodes if is_true(node, "Ready")]
    words = f"{len(ready)} of {len(nodes)} are Ready"
    yield Check("ok" if ready else "bad", "nodes", words, "" if ready else "kubectl get nodes")
    devices: dict[str, int] = {}
    for node in ready:
        for resource, amount in (status_of(node).get("allocatable") or {}).items():
            if re.search(r"gpu|gaudi|neuron|nvidia\.com/mig", resource) and str(amount).isdigit():
                devices[resource] = devices.get(resource, 0) + int(amount)
    told = ", ".join(f"{amount} {resource}" for resource, amount in sorted(devices.items()) if amount)
    none = "none is allocatable: everything runs on CPUs; is the device plugin installed?"
    yield Check("ok" if told else "note", "GPUs", f"{told} allocatable" if told else none)


def _check_gangs(k: Kubectl, now: datetime) -> Iterator[Check]:
    served = "scheduling.k8s.io/v1beta1" in k.run("api-versions").split()
    group = "scheduling.k8s.io/v1beta1"
    none = f"{group} is not served: pods of a job are placed one by one, and jobs may wait for each other"
    words = f"{group} is served" if served else none
    yield Check("ok" if served else "note", "PodGroups", words)


def _check_queues(k: Kubectl, now: datetime) -> Iterator[Check]:
    versions = [text for text in k.run("api-versions").split() if text.startswith("kueue.x-k8s.io/")]
    if not versions:
        yield Check("note", "Kueue", "not here: quotas of teams are those of ResourceQuotas")
    elif "kueue.x-k8s.io/v1beta2" not in versions:
        words = f"serves {' and '.join(versions)}, and the operator asks for v1beta2: jobs with a queue wait for ever"
        yield Check("bad", "Kueue", words)
    else:
        queues = k.get("clusterqueues.kueue.x-k8s.io")
        rest = [name_of(queue) for queue in queues if not is_true(queue, "Active")]
        words = f"{len(queues) - len(rest)} of {len(queues)} ClusterQueues are active"
        command = f"kubectl describe clusterqueues.kueue.x-k8s.io {rest[0]}" if rest else ""
        yield Check("note" if rest or not queues else "ok", "Kueue", words, command)


def _check_gateways(k: Kubectl, now: datetime) -> Iterator[Check]:
    if "gateway.networking.k8s.io/v1" not in k.run("api-versions").split():
        words = "no Gateway API here: a pool may have gateway.mode Envoy, whose proxies are its own, and not GatewayAPI"
        yield Check("note", "gateways", words)
        return
    gateways = k.get("gateways.gateway.networking.k8s.io", "--all-namespaces")
    rest = [gateway for gateway in gateways if not is_true(gateway, "Programmed")]
    words = f"{len(gateways) - len(rest)} of {len(gateways)} Gateways are programmed"
    command = f"kubectl -n {space_of(rest[0])} describe gateway {name_of(rest[0])}" if rest else ""
    yield Check("note" if rest or not gateways else "ok", "gateways", words, command)


def _check_prometheus(k: Kubectl, now: datetime) -> Iterator[Check]:
    found = k.get("crd", "servicemonitors.monitoring.coreos.com", "--ignore-not-found")
    none = "no Prometheus operator here: nobody collects metrics by it"
    words = "the Prometheus operator's CRDs are there" if found else none
    yield Check("ok" if found else "note", "Prometheus", words)


def checked(found: Iterable[Check], screen: Screen) -> Iterator[str]:
    """The results as they come."""
    for check in found:
        colour = {"ok": "green", "note": "yellow", "bad": "red"}[check.mark]
        first, *more = screen.wrap(clean(check.words), 20, f"  {check.mark:<6}{check.what:<12}"[:20])
        yield first.replace(check.mark, screen.paint(check.mark, colour), 1)
        yield from more
        if check.command:
            yield f"{'':20}{check.command}"


def cmd_check(k: Kubectl, args: argparse.Namespace) -> int:
    """Is this cluster fit."""
    screen, seen = terminal(), []

    def noted() -> Iterator[Check]:
        for check in checks(k, screen.now):
            seen.append(check.mark)
            yield check

    for text in checked(noted(), screen):
        print(text, flush=True)
    return 1 if "bad" in seen else 0


# ---- report


HIDDEN = "REDACTED"
_OURS = re.compile(r"(AIFACTORY_|PET_|MASTER_|TORCHELASTIC_).*|WORLD_SIZE|NODE_RANK")
_WORDS = "token|password|passwd|secret|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|signature|sig"
_SECRETS = (
    (re.compile(r"(?<=://)[^/@\s]+(?=@)"), HIDDEN),
    (re.compile(rf"(?i)((?:{_WORDS})[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(rf"(?i)(--[\w-]*(?:{_WORDS})\s+)[^\s\"']+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]*)"), HIDDEN),
    (re.compile(r"(?i)(\bbearer\s+)\S+"), rf"\g<1>{HIDDEN}"),
)
_DROPPED = ("kubectl.kubernetes.io/last-applied-configuration", f"{GROUP}/applied")
"""Annotations that repeat the whole object."""


def redacted_text(text: str) -> str:
    """Without what looks like a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def redacted(value: Any, key: str = "") -> Any:
    """A copy without the values of environment variables that users have set, and without what looks like a secret."""
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name not in _DROPPED and name != "managedFields"}
        return {name: redacted(part, name) for name, part in kept.items()}
    if isinstance(value, list):
        if key == "env":
            return [_variable(entry) for entry in value]
        if key in ("args", "command"):
            return _arguments(value)
        return [redacted(entry) for entry in value]
    return redacted_text(value) if isinstance(value, str) else value


def _variable(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return HIDDEN
    ours = _OURS.fullmatch(str(entry.get("name", ""))) is not None
    return {name: HIDDEN if name == "value" and not ours else redacted(part) for name, part in entry.items()}


def _arguments(words: list[Any]) -> list[Any]:
    """`--token X` in two arguments is hidden as well."""
    found: list[Any] = []
    for word in words:
        before = str(words[len(found) - 1]) if found else ""
        named = re.fullmatch(rf"(?i)--?[\w-]*(?:{_WORDS})", before)
        found.append(HIDDEN if named and not str(word).startswith("-") else redacted(word))
    return found


REPORTED = ("pods", "events", "persistentvolumeclaims", "services", "deployments", "resourcequotas", "limitranges")
LOG_LINES = 5000


def reported(k: Kubectl, screen: Screen) -> Iterator[tuple[str, str]]:
    """The files of the archive. What may not be read is told in one of them and keeps nothing else out."""
    refused: list[str] = []

    def look(what: str, *args: str) -> list[Json]:
        try:
            return k.get(what, *args)
        except Failed as error:
            refused.append(f"{what}: {error}")
            return []

    def dump(found: Any) -> str:
        return json.dumps(redacted(found), indent=2)

    objects = [obj for kind in PLURAL.values() for obj in look(f"{kind}.{GROUP}")]
    found = lines(objects, screen.now)
    yield "status.txt", redacted_text("\n".join(screen_of(found, screen)))
    yield "status.json", dump(as_json(found))
    yield "check.txt", redacted_text("\n".join(checked(checks(k, screen.now), screen)))
    yield "objects/factory.json", dump(objects)
    for kind in REPORTED:
        label = ["-l", f"{GROUP}/role"] if kind == "pods" else []
        yield f"objects/{kind}.json", dump(look(kind, *label))
    yield "cluster/nodes.json", dump([{**node, "status": {**status_of(node), "images": []}} for node in look("nodes")])
    yield "cluster/storageclasses.json", dump(look("storageclasses"))
    everywhere = k.within("")
    for kind in ("deployments", "pods"):
        try:
            found_objects = everywhere.get(kind, "--all-namespaces", "-l", OPERATOR)
        except Failed as error:
            refused.append(f"{kind} of the operator: {error}")
            continue
        yield f"operator/{kind}.json", dump(found_objects)
        for pod in found_objects if kind == "pods" else ():
            for previous in ("", "--previous"):
                try:
                    flags = [f"--tail={LOG_LINES}", *filter(None, [previous])]
                    text = k.within(space_of(pod)).run("logs", name_of(pod), *flags)
                    yield f"operator/{name_of(pod)}{previous and '.previous'}.log", redacted_text(text)
                except Failed as error:
                    refused += [] if previous else [f"log of {name_of(pod)}: {error}"]
    try:
        yield "version.json", dump({"plugin": __version__, **json.loads(k.run("version", "-o", "json"))})
    except Failed as error:
        refused.append(f"version: {error}")
    yield "refused.txt", redacted_text("\n".join(refused))


def cmd_report(k: Kubectl, args: argparse.Namespace) -> int:
    """An archive for support."""
    import zipfile

    screen = terminal()._replace(colour=False, width=120)
    path = args.file or f"aifactory-report-{k.home()}-{screen.now:%Y%m%dT%H%M%SZ}.zip"
    k.home()
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in reported(k, screen):
                archive.writestr(name, text)
                print(f"  {name:<36}{size(len(text.encode()))}", flush=True)
    except FileExistsError as error:
        raise Failed(f"{path} exists: name another file with --file") from error
    say(
        [
            "",
            f"wrote {path}",
            "No Secret was read; values of environment variables and what looks like a secret are left",
        ]
    )
    say(["out, and so are logs of your own pods. Look through it before you send it."])
    return 0


# ---- dashboard: what the page shows


WINDOW = 400
"""Points of a curve. Of a longer one every second point goes; its ends stay."""
LINES = 100
"""Lines on a page; those that block or serve somebody come first."""
Points = list[tuple[float, Optional[float]]]


def number(value: object) -> float | None:
    """A finite number; statuses have theirs as text."""
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if found - found == 0 else None


class History:
    """The figures of statuses, each of which holds only its latest, since somebody looks."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[str, Points]] = {}

    def note(self, obj: Json, now: datetime) -> None:
        """What an object says now: a job by its step, a pool by the time."""
        status = status_of(obj)
        figures = (status.get("progress") if obj["kind"] == JOB else status.get("throughput")) or {}
        if obj["kind"] not in (JOB, POOL):
            return
        names = ("loss", "tokensPerSecond") if obj["kind"] == JOB else ("tokensPerSecond", "requestsPerSecond")
        x = number(figures.get("step")) if obj["kind"] == JOB else now.timestamp()
        curves = self._curves.setdefault(str(obj["metadata"].get("uid")), {})
        for name in names:
            points, y = curves.setdefault(name, []), number(figures.get(name))
            gap = y is None and (obj["kind"] == JOB or not points)  # a pool without a figure has stopped to have it
            if x is None or gap or (points and points[-1] == (x, y)):
                continue
            if points and (points[-1][0] == x or (obj["kind"] == POOL and points[-1][1] == y)):
                points[-1] = (x, y) if obj["kind"] == JOB else points[-1]
                continue
            points.append((x, y))
            if len(points) > WINDOW:
                del points[1:-1:2]

    def keep(self, uids: set[str]) -> None:
        """Forget all other objects."""
        self._curves = {uid: curves for uid, curves in self._curves.items() if uid in uids}

    def curves(self, obj: Json, titles: dict[str, str], axis: str) -> list[Json]:
        """The curves of an object that have a point, by these titles."""
        own = self._curves.get(str(obj["metadata"].get("uid")), {})
        return [{"title": titles[name], "axis": axis, "points": own[name]} for name in titles if own.get(name)]


def rows_of(entries: object, *columns: str) -> list[list[str]]:
    """Rows of a table: these fields of each entry."""
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [[clean(entry.get(column, "")) for column in columns] for entry in found]


def facts(*pairs: tuple[str, object]) -> list[list[str]]:
    """Names and values; without those that are not there."""
    return [[name, clean(value)] for name, value in pairs if value not in (None, "", [], {})]


def table_of(title: str, head: list[str], rows: list[list[str]]) -> Json:
    """A table that is shown on request."""
    return {"title": title, "head": head, "rows": rows}


def more_of(*pairs: tuple[str, object]) -> Json:
    """What is not worth a place at once."""
    return table_of("More", ["what", "value"], facts(*pairs))


def bar_of(title: str, words: str, *parts: tuple[str, float]) -> Json:
    """A bar whose full length is 100."""
    named = [{"name": clean(name), "percent": min(100.0, max(0.0, round(part, 2)))} for name, part in parts]
    return {"title": title, "words": clean(words), "parts": named}


def card_of(item: Item, **more: Any) -> Json:
    """What the page shows of an object."""
    obj, state = item
    columns = ("type", "status", "reason", "message", "lastTransitionTime")
    conditions = table_of(
        "Conditions",
        ["type", "status", "reason", "message", "since"],
        rows_of(status_of(obj).get("conditions"), *columns),
    )
    tables = [found for found in (*more.pop("tables", ()), conditions) if found["rows"]]
    told = {"ref": ref(obj), "mark": state.mark, "phase": phase_of(obj, state), "reason": clean(state.reason)}
    return {**told, "message": clean(state.message), "since": state.since, **more, "tables": tables}


def gpu_time(cost: Json, kept: str, lost: str, lost_seconds: object, lost_cost: object) -> list[Json]:
    """A bar of the GPU seconds of an object, and what they cost; none where it has had no GPU."""
    total, part = number(cost.get("gpuSeconds")) or 0, number(lost_seconds) or 0
    if not total:
        return []
    words = f"{total / 3600:.2f} GPU hours"
    words += f", cost {cost['cost']}" if cost.get("cost") else ""
    words += f", of which {lost} {lost_cost}" if lost_cost else ""
    share = 100 * part / total
    return [bar_of("GPU time", words, (kept, 100 - share), (lost, share))]


def data_cards(job: Json) -> list[Json]:
    """The inputs of a job."""
    told = {entry.get("name"): entry for entry in status_of(job).get("inputs") or ()}
    found = []
    for name, phase, words in inputs_of(job):
        entry = told.get(name, {})
        percent = number(entry.get("percent"))
        shown = phase != "Ready" and percent is not None
        source = str(words[2])
        base = source.rpartition("-v")[0] if any(source == each for each in bases_of(job)) else ""
        found.append(
            {
                "ref": clean(name),
                "mark": {"Ready": "ok", "Waiting": "wait"}.get(phase, "busy"),
                "phase": clean(phase),
                "reason": clean(entry.get("reason", "")),
                "message": clean(entry.get("message", "")),
                "bars": [bar_of("Fetched", f"{percent:.0f} %", ("there", percent or 0))] if shown else [],
                "facts": facts(("size", words[1]), ("from", source)),
                "tables": [more_of(("digest", entry["digest"]))] if entry.get("digest") else [],
                "base": clean(base),
            }
        )
    return found


def job_card(item: Item, history: History) -> Json:
    """A job: how far it is, what it has learned, what it has cost."""
    job, status = item.obj, status_of(item.obj)
    progress, restarts, saved = (status.get(part) or {} for part in ("progress", "restarts", "checkpoint"))
    failure, cost = status.get("lastFailure") or {}, status.get("cost") or {}
    runs = not is_over(job)
    percent, step = number(progress.get("percent")), progress.get("step")
    bars = []
    if percent is not None:
        words = f"step {step} of {progress.get('totalSteps', '?')}, {percent:.0f} %"
        bars = [bar_of("Progress", words, ("done", percent))]
    bars += gpu_time(cost, "kept", "lost", cost.get("lostGPUSeconds"), cost.get("lostCost"))
    causes = ", ".join(f"{cause} {count}" for cause, count in (restarts.get("byCause") or {}).items())
    total = restarts.get("total")
    code = f", exit code {failure['exitCode']}" if failure.get("exitCode") is not None else ""
    titles = {"loss": "Loss", **({"tokensPerSecond": "Tokens/s"} if runs else {})}
    return card_of(
        item,
        bars=bars,
        curves=history.curves(job, titles, "step"),
        facts=facts(
            ("pods", (status.get("nodes") or {}).get("summary") if runs else ""),
            ("time left", progress.get("eta") if runs else ""),
            ("step", step if percent is None else ""),
            ("restarts", f"{total}{f' ({causes})' if causes else ''}" if total else ""),
            ("failure", f"pod {failure['pod']}{code}: {failure.get('cause')}" if failure.get("pod") else ""),
            ("checkpoint", f"step {saved['step']}" if "step" in saved else ""),
            ("publishes", (status.get("output") or {}).get("modelVersion") or model_of(job)),
        ),
        tables=[
            table_of("Metrics", ["name", "value"], rows_of(progress.get("metrics"), "name", "value")),
            more_of(
                ("attempt", status.get("attempt")),
                ("check of its program", (status.get("check") or {}).get("message")),
                ("queue", condition(job, "Admitted").get("message")),
                ("steps done again", restarts.get("lostSteps")),
                ("last words", failure.get("message")),
                ("heard of", progress.get("lastHeartbeatTime")),
                ("GPUs", cost.get("gpus")),
                ("price of a GPU hour", cost.get("gpuHourPrice")),
                ("GPU seconds since the checkpoint", cost.get("unsavedGPUSeconds")),
            ),
        ],
    )


def version_card(item: Item) -> Json:
    """A version: what it is and where it comes from."""
    version, status = item.obj, status_of(item.obj)
    spec = version.get("spec", {})
    lineage = spec.get("lineage") or {}
    made_by = (lineage.get("trainingJob") or {}).get("name")
    memory = status.get("memoryBytes")
    metrics = ", ".join(f"{name} {value}" for name, value in rows_of(lineage.get("metrics"), "name", "value"))
    return card_of(
        item,
        facts=facts(
            ("format", spec.get("format")),
            ("size", status.get("size")),
            ("made by", f"tjob/{made_by}" if made_by else "registered by hand"),
            ("metrics", metrics),
            ("used by", ", ".join(f"{use[0]}/{use[1]}" for use in rows_of(status.get("usedBy"), "kind", "name"))),
        ),
        tables=[
            table_of("Made from", ["input", "from", "digest"], rows_of(lineage.get("inputs"), "name", "uri", "digest")),
            more_of(
                ("digest", status.get("resolvedDigest") or spec.get("digest")),
                ("source", (spec.get("source") or {}).get("uri")),
                ("image", lineage.get("image")),
                ("steps", lineage.get("steps")),
                ("parent", lineage.get("parent")),
                ("files", status.get("files")),
                ("memory", size(memory) if memory else ""),
                ("time to load", f"{status['loadSeconds']} s" if status.get("loadSeconds") else ""),
                ("first answer", f"{status['firstTokenSeconds']} s" if status.get("firstTokenSeconds") else ""),
                ("pools that use it", status.get("inUse")),
            ),
        ],
    )


def traffic_of(pool: Json) -> list[Json]:
    """Which version answers which part of the requests; without weights, of the pods that answer."""
    status = status_of(pool)
    stable, candidate, rollout = (status.get(part) or {} for part in ("stable", "candidate", "rollout"))
    old, new = (_version_words(part) for part in (stable, candidate))
    weight = number(rollout.get("actualWeight"))
    if new and weight is not None and rollout.get("strategy") == "Canary":
        wanted = f"{weight:.0f} % to the new version, {rollout.get('weight', '?')} % wanted"
        return [bar_of("Traffic", wanted, (old or "nothing", 100 - weight), (new, weight))]
    if new and rollout.get("strategy") == "Shadow" and rollout.get("phase") == "Progressing":
        return [bar_of("Traffic", f"{new} gets copies of {rollout.get('mirror', 0)} %", (old, 100))]
    pods = [number(part.get("readyReplicas")) or 0 for part in (stable, candidate)]
    if not sum(pods):
        return []
    shares = [(name, 100 * count / sum(pods)) for name, count in zip((old, new), pods) if name and count]
    words = f"all to {shares[0][0]}" if len(shares) == 1 else "to as many of the pods that answer"
    return [bar_of("Traffic", words, *shares)]


def _version_words(part: Json) -> str:
    """What a set of pods serves; of several models the operator joins them in the same way."""
    several = [str(model.get("modelVersion")) for model in part.get("models") or ()]
    return " + ".join(sorted(several)) or str(part.get("modelVersion") or "")


def steps_of(pool: Json) -> list[list[str]]:
    """The steps of a Canary or Shadow that is under way: done, now, next."""
    rollout = status_of(pool).get("rollout") or {}
    if rollout.get("strategy") not in ("Canary", "Shadow") or rollout.get("phase") != "Progressing":
        return []
    found, at = [], int(number(rollout.get("step")) or 0)
    for place, step in enumerate((pool["spec"].get("rollout") or {}).get("steps") or ()):
        words = "wait for promote"
        known = {"weight": "{} %", "mirror": "copy {} %", "pauseSeconds": "wait {} s", "analyzeSeconds": "compare {} s"}
        for field, text in known.items():
            words = text.format(step[field]) if step.get(field) is not None else words
        found.append([words, "done" if place < at else "now" if place == at else "next"])
    return found


def pool_card(item: Item) -> Json:
    """A pool: who answers, what changes, how many there are."""
    pool, status = item.obj, status_of(item.obj)
    rollout, scaling = status.get("rollout") or {}, status.get("scaling") or {}
    pending = scaling.get("pending") or {}
    under_way = rollout.get("phase") == "Progressing"
    change = f"{rollout.get('strategy', '')}{', paused' if rollout.get('paused') else ''}" if under_way else ""
    # What has been taken back is told after something else has come up as well.
    outcome = clean(rollout.get("message") or "")
    outcome = "" if outcome in item.state.message else outcome
    compared = ("metric", "outcome", "candidate", "stable", "bound", "samples", "message")
    return card_of(
        item,
        bars=traffic_of(pool),
        steps=steps_of(pool),
        facts=facts(
            ("pods", status.get("summary")),
            ("version", "" if status.get("models") else status.get("version")),
            *((name, f"{told}: {', '.join(words)}") for name, told, words in several_of(pool)),
            ("change", change),
            ("outcome", outcome),
            ("scaling", scaling.get("summary")),
            ("soon", f"{pending['replicas']} pods" if "replicas" in pending else ""),
            ("limit", scaling.get("message")),
        ),
        tables=[
            table_of(
                "Models",
                ["model", "state", "version", "wanted", "pods", "memory", "words"],
                rows_of(
                    status.get("models"), "name", "state", "version", "wanted", "readyReplicas", "memory", "message"
                ),
            ),
            table_of(
                "Analysis of the new version",
                ["metric", "outcome", "new", "old", "bound", "samples", "words"],
                rows_of(rollout.get("analysis"), *compared),
            ),
            table_of(
                "Decisions of autoscaling",
                ["time", "from", "to", "by", "measured"],
                rows_of(scaling.get("decisions"), "time", "from", "to", "metric", "value"),
            ),
            table_of(
                "Pods that change over",
                ["pod", "version", "loaded in seconds", "words"],
                rows_of(rollout.get("pods"), "name", "version", "loadSeconds", "message"),
            ),
            more_of(
                ("address", status.get("url")),
                ("answers", status.get("traffic")),
                ("why it changes so", rollout.get("strategyReason") if under_way else ""),
                ("GPUs", (status.get("cost") or {}).get("gpus")),
            ),
        ],
    )


def tokens_cards(pool: Json, history: History) -> list[Json]:
    """What comes out at the end, and what it costs; nothing before anything was measured."""
    status = status_of(pool)
    figures, cost = status.get("throughput") or {}, status.get("cost") or {}
    if not figures and not cost.get("gpuSeconds"):
        return []
    big = [(figures.get("tokensPerSecond"), "tokens/s"), (figures.get("requestsPerSecond"), "requests/s")]
    titles = {"tokensPerSecond": "Tokens/s", "requestsPerSecond": "Requests/s"}
    card = {
        "ref": ref(pool),
        "big": [[clean(value), name] for value, name in big if value],
        "curves": history.curves(pool, titles, "time"),
        "bars": gpu_time(cost, "in use", "idle", cost.get("idleGPUSeconds"), cost.get("idleCost")),
        "facts": facts(
            ("1M tokens cost", figures.get("costPerMillionTokens")),
            ("1M requests cost", figures.get("costPerMillionRequests")),
            ("tokens/s per GPU", figures.get("tokensPerSecondPerGPU")),
            ("last change cost", cost.get("surgeCost")),
        ),
    }
    return [card]


def totals(objects: Sequence[Json]) -> list[list[str]]:
    """The figures at the head of the page: sums of what the statuses say."""
    sums: dict[str, float] = {}

    def add(name: str, *values: object) -> None:
        product = 1.0
        for value in values:
            known = number(value)
            if known is None:
                return
            product *= known
        sums[name] = sums.get(name, 0) + product

    for obj in objects:
        status = status_of(obj)
        cost, figures = status.get("cost") or {}, status.get("throughput") or {}
        if obj["kind"] == JOB and status.get("phase") == "Running":
            add("tokens/s in training", (status.get("progress") or {}).get("tokensPerSecond"))
        if obj["kind"] == POOL:
            add("tokens/s served", figures.get("tokensPerSecond"))
            add("requests/s", figures.get("requestsPerSecond"))
        add("GPUs held", cost.get("gpus"))
        add("cost an hour", cost.get("gpus"), cost.get("gpuHourPrice"))
    order = ("tokens/s in training", "tokens/s served", "requests/s", "GPUs held", "cost an hour")
    return [[f"{sums[name]:,.2f}".rstrip("0").rstrip("."), name] for name in order if name in sums]


def view_of(objects: Sequence[Json], now: datetime, history: History) -> Json:
    """The page: text and numbers only. Nothing of a spec gets there that could hold a secret, as env and args do."""
    found = lines(objects, now)
    blocking = {id(item.obj) for item in blockers(found)}
    important = sorted(found, key=lambda line: (not any(id(i.obj) in blocking for i in line.items()), not line.pools))[
        :LINES
    ]
    shown = [line for line in found if line in important]
    drawn_lines = []
    for line in shown:
        stages = [
            ["Data", [card for item in line.jobs for card in data_cards(item.obj)]],
            ["Train", [job_card(item, history) for item in line.jobs]],
            ["Version", [version_card(item) for item in line.versions]],
            ["Serve", [pool_card(item) for item in line.pools]],
            ["Tokens", [card for item in line.pools for card in tokens_cards(item.obj, history)]],
        ]
        told = {"namespace": clean(line.namespace), "title": clean(line.title), "leftOut": line.left_out}
        drawn_lines.append({**told, "stages": stages})
    blocked = [{key: _cleaned(value) for key, value in each.items()} for each in as_json(found)["blocked"]]
    for each in blocked:
        each["ref"] = f"{SHORT[each['kind']]}/{each['name']}"
    return {
        "totals": totals(objects),
        "blocked": blocked[: LINES // 2],
        "blockedInAll": len(blocked),
        "lines": drawn_lines,
        "linesInAll": len(found),
    }


def _cleaned(value: Any) -> Any:
    return [clean(each) for each in value] if isinstance(value, list) else clean(value)


# ---- dashboard: what keeps it up to date, and who may see it


class Floor:
    """What the API server says of our kinds, for several threads: lists of all, and events between them."""

    def __init__(self, now: datetime) -> None:
        import threading

        self.changed = threading.Condition()
        self.number = 0
        """It grows with every change."""
        self.history = History()
        self._since = now
        self._objects: dict[str, Json] = {}
        self._heard: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._listed: set[str] = set()

    def listed(self, kind: str, objects: Sequence[Json], asked: float, now: datetime) -> None:
        """All objects of a kind, as they were at some time after `asked`: what an event has said since is newer."""
        found = {str(obj["metadata"]["uid"]): obj for obj in objects}
        with self.changed:
            newer = {uid for uid, heard in self._heard.items() if heard >= asked}
            for uid, obj in list(self._objects.items()):
                if obj["kind"] == kind and uid not in found and uid not in newer:
                    del self._objects[uid]
            for uid, obj in found.items():
                if uid not in newer:
                    self._put(uid, obj, now)
            self._heard = {uid: heard for uid, heard in self._heard.items() if heard >= asked or uid in self._objects}
            self.history.keep(set(self._objects))
            self._listed.add(kind)
            self._tell()

    def event(self, event: Json, heard: float, now: datetime) -> None:
        """Something was made, changed or deleted."""
        obj = event.get("object") or {}
        uid = str((obj.get("metadata") or {}).get("uid", ""))
        if obj.get("kind") not in SHORT or not uid:
            return
        with self.changed:
            self._heard[uid] = heard
            if event.get("type") == "DELETED":
                self._objects.pop(uid, None)
            else:
                self._put(uid, obj, now)
            self._tell()

    def _put(self, uid: str, obj: Json, now: datetime) -> None:
        obj["metadata"].pop("managedFields", None)
        self._objects[uid] = obj
        self.history.note(obj, now)

    def _tell(self) -> None:
        self.number += 1
        self.changed.notify_all()

    def trouble(self, kind: str, words: str) -> None:
        """Why a kind can not be read; empty when it can."""
        with self.changed:
            if self._troubles.get(kind, "") != words:
                self._troubles[kind] = words
                self._tell()

    def wait(self, number: int, seconds: float) -> None:
        """Until something has changed since that number, but not longer."""
        with self.changed:
            self.changed.wait_for(lambda: self.number != number, seconds)

    def view(self, now: datetime) -> Json:
        """The page."""
        with self.changed:
            objects = sorted(self._objects.values(), key=lambda obj: (space_of(obj), obj["kind"], name_of(obj)))
            troubles = [[kind, clean(words)] for kind, words in sorted(self._troubles.items()) if words]
            known = len(self._listed | {kind for kind, _ in troubles}) == len(SHORT)
            return {
                **view_of(objects, now, self.history),
                "troubles": troubles,
                "known": known,
                "since": f"{self._since:%Y-%m-%dT%H:%M:%SZ}",
            }


LIST_SECONDS = 60
"""Between two lists. They find what was deleted while no watch was open."""
AGAIN_SECONDS = 30
"""At most between two tries of what has failed."""


class Reading:
    """Reads our kinds by kubectl for as long as it is wanted, with the user's own rights."""

    def __init__(self, k: Kubectl, everywhere: bool, floor: Floor) -> None:
        import threading

        self._k, self._floor = k, floor
        self._all = ["--all-namespaces"] if everywhere else []
        self._ended = threading.Event()
        self._watches: dict[str, subprocess.Popen[bytes]] = {}
        tasks: list[tuple[Any, tuple[str, ...]]] = [(self._list, ())]
        tasks += [(self._watch, (kind,)) for kind in PLURAL]
        self._threads = [threading.Thread(target=run, args=args, daemon=True) for run, args in tasks]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it, and the kubectl processes that watch."""
        self._ended.set()
        for process in list(self._watches.values()):
            process.terminate()
        for thread in self._threads:
            thread.join(5)

    def _list(self) -> None:
        import time

        while not self._ended.is_set():
            good = True
            for kind in PLURAL:
                asked = time.monotonic()
                try:
                    limit = "--request-timeout=30s"
                    found = self._k.get(f"{PLURAL[kind]}.{GROUP}", limit, *self._all)
                    self._floor.listed(kind, found, asked, datetime.now(timezone.utc))
                    self._floor.trouble(kind, "")
                except (Failed, ValueError) as error:
                    self._floor.trouble(kind, str(error) or "kubectl said nothing")
                    good = False
            self._ended.wait(LIST_SECONDS if good else AGAIN_SECONDS)

    def _watch(self, kind: str) -> None:
        import time

        command = self._k.command("get", f"{PLURAL[kind]}.{GROUP}", "-o", "json", *self._all)
        wait = 1.0
        while not self._ended.is_set():
            began = time.monotonic()
            flags = ["--watch", "--output-watch-events"]
            with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                self._watches[kind] = process
                if self._ended.is_set():
                    process.terminate()
                assert process.stdout is not None
                try:
                    for line in process.stdout:  # an event in each, while objects alone would be printed over many
                        self._floor.event(json.loads(line), time.monotonic(), datetime.now(timezone.utc))
                except ValueError:
                    process.terminate()
            # Watches end by themselves now and then. Where they are refused, the lists say so or go on without them.
            wait = 1.0 if time.monotonic() - began > AGAIN_SECONDS else min(2 * wait, AGAIN_SECONDS)
            self._ended.wait(wait)


LOCAL = ("127.0.0.1", "localhost", "::1")
STREAMS = 16
"""Pages that are open at a time."""
BEAT_SECONDS = 10
"""After so long what depends on the time is judged again, and a page that is gone is noticed."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serving(floor: Floor, title: str, token: str, port: int = 0) -> Any:
    """An HTTP server on loopback that gives the page, and its changes as they come, to who knows the token."""
    import hmac
    import threading
    import time
    from http import HTTPStatus
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from urllib.parse import urlsplit

    streams = threading.BoundedSemaphore(STREAMS)

    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        """Of a socket: for a request to come, and for what is sent to go."""

        def do_GET(self) -> None:
            """A file of the page, or the stream of changes."""
            # A name that somebody else's DNS leads here is not ours, and no other page may ask.
            try:
                host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            except ValueError:
                host = None
            if host not in LOCAL or self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                self._say(HTTPStatus.FORBIDDEN, "this page is for the browser of this machine only")
                return
            given, slash, name = self.path.partition("?")[0][1:].partition("/")
            if not slash or not hmac.compare_digest(given.encode(), token.encode()):
                self._say(HTTPStatus.NOT_FOUND, "open the address that kubectl aifactory dashboard prints, all of it")
            elif name == "changes":
                self._changes()
            elif name in PAGE:
                self._send(HTTPStatus.OK, *PAGE[name])
            else:
                self._say(HTTPStatus.NOT_FOUND, "there is no such file")

        def _say(self, code: HTTPStatus, words: str) -> None:
            self._send(code, "text/plain", words + "\n")

        def _send(self, code: HTTPStatus, kind: str, text: str) -> None:
            body = text.encode()
            self._head(code, kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _head(self, code: HTTPStatus, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            for name, value in HEADERS.items():
                self.send_header(name, value)

        def _changes(self) -> None:
            if not streams.acquire(blocking=False):
                self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"it is open {STREAMS} times: close one")
                return
            try:
                self._head(HTTPStatus.OK, "text/event-stream")
                self.end_headers()
                last = ""
                while True:
                    number, began = floor.number, time.monotonic()
                    text = json.dumps({"title": title, **floor.view(datetime.now(timezone.utc))})
                    self.wfile.write(b": nothing new\n\n" if text == last else f"data: {text}\n\n".encode())
                    self.wfile.flush()
                    last = text
                    # What changes faster is told together, and a large factory takes a fifth of a core at most.
                    time.sleep(max(0.5, 4 * (time.monotonic() - began)))
                    floor.wait(number, BEAT_SECONDS)
            finally:
                streams.release()

        def version_string(self) -> str:
            """What it calls itself."""
            return "aifactory"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the token is in every line."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A browser that has gone is no error."""

    try:
        return Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or error
        raise Failed(f"port {port} of this machine can not be used: {words}; leave out --port") from error


def cmd_dashboard(k: Kubectl, args: argparse.Namespace) -> int:
    """The line from data to tokens as a page, live."""
    import secrets
    import signal

    k.home()
    context = k.run("config", "view", "--minify", "-o", "jsonpath={.contexts[0].name}").strip()
    title = "all namespaces" if args.all_namespaces else f"namespace {k.namespace}"
    title += f" of {clean(context)}" if context else ""
    floor = Floor(datetime.now(timezone.utc))
    token = secrets.token_urlsafe(24)
    with serving(floor, title, token, args.port) as server:
        reading = Reading(k, args.all_namespaces, floor)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            say(
                [
                    f"The factory of {title}, live: http://127.0.0.1:{server.server_address[1]}/{token}/",
                    "Whoever has this address and is on this machine sees what you may see. It changes nothing; "
                    "Ctrl-C ends it.",
                ]
            )
            sys.stdout.flush()
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
        finally:
            reading.close()
    return 0


# ---- the command line


FLAGS = ("context", "kubeconfig", "cluster", "user", "as")
"""Of kubectl, and passed on to it, beside the namespace."""


def parser() -> argparse.ArgumentParser:
    """What is understood."""
    # Before the command and after it: what is not given after it leaves what was given before.
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = shared.add_argument_group("as in kubectl")
    group.add_argument("-n", "--namespace", help="the namespace (default: that of the context)")
    for flag in FLAGS:
        group.add_argument(f"--{flag}", metavar="NAME", help=argparse.SUPPRESS)
    top = argparse.ArgumentParser(
        prog="kubectl aifactory",
        usage="%(prog)s COMMAND [KIND/NAME] [-n NAMESPACE] ...",
        parents=[shared],
        description="What the AI factory does, what blocks it, and the command that mends it.",
        epilog="Flags as in kubectl: --namespace, --context, --kubeconfig, --cluster, --user, --as.\n"
        "Objects are written as tjob/NAME, mver/NAME, ipool/NAME, or NAME alone. Colours go with NO_COLOR=1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"kubectl-aifactory {__version__}")
    commands_ = top.add_subparsers(prog=top.prog, dest="command", metavar="COMMAND", title="commands")

    def add(name: str, words: str, run: Any, objects: str = "*", what: str = "KIND/NAME") -> argparse.ArgumentParser:
        own = commands_.add_parser(name, help=words, description=words, parents=[shared])
        own.set_defaults(run=run, object=[])
        if objects:
            own.add_argument("object", nargs=objects, metavar=what)
        return own

    words = "The line from data to tokens, the first thing that blocks it, and the command that mends it"
    status = add("status", words, cmd_status)
    status.add_argument("-o", "--output", choices=["json"], help="for scripts")
    status.add_argument("-A", "--all-namespaces", action="store_true")
    add("why", "What the reason that is shown means, and what to do about it", cmd_why, what="KIND/NAME or REASON")
    add("tree", "Objects by lineage, with their pods", cmd_tree)
    top_ = add("top", "Progress, loss, tokens and requests a second of what runs", cmd_top, objects="")
    top_.add_argument("-A", "--all-namespaces", action="store_true")
    words = "The same as a page in the browser, live: loss curves, traffic, tokens/s and cost"
    dashboard = add("dashboard", words, cmd_dashboard, objects="")
    dashboard.add_argument("-A", "--all-namespaces", action="store_true")
    dashboard.add_argument("--port", type=int, default=0, help="of this machine (default: one that is free)")
    logs = add("logs", "Logs of a job by rank and attempt, of a version's check, of a pool", cmd_logs)
    logs.add_argument("--rank", type=int, help="of one pod of a job")
    logs.add_argument("--attempt", type=int, help="of that attempt (default: the current one)")
    words = "of the attempt before, whose failed pod is kept"
    logs.add_argument("-p", "--previous-attempt", action="store_true", help=words)
    logs.add_argument("--failed", action="store_true", help="of the pod whose failure decided last")
    logs.add_argument(
        "--role",
        choices=["node", "input", "check", "probe", "publish", "verify", "serve", "shadow"],
        help="of these pods",
    )
    logs.add_argument("-c", "--container", help="of that container (default: trainer, triton)")
    logs.add_argument("--all-containers", action="store_true")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--tail", type=int, help="lines from the end")
    add("events", "Events about objects and their pods, those that are gone too", cmd_events)
    add("retry", "Publish, check or roll out again, now", cmd_retry, objects="+")
    add("suspend", "Remove a job's pods and keep its workspace", cmd_suspend)
    add("resume", "Let a suspended job, or a pool's paused Canary, go on", cmd_resume)
    add("pause", "Keep a pool's Canary at the step where it is", cmd_change)
    add("promote", "Let a pool's Canary go on to the end of its wait, or over a failed analysis", cmd_change)
    add("abort", "Take back what a pool is about to change to", cmd_change)
    rollback = add("rollback", "Pin a pool to the version that it served before, or to another one", cmd_rollback)
    rollback.add_argument("--to", type=int, metavar="VERSION", help="number of a version that is Ready")
    rollback.add_argument("--model", help="which one, where the pool serves several")
    add("lineage", "Where a version comes from: job, image, inputs, digests, metrics, parent", cmd_lineage)
    chat = add("chat", "Talk to a pool of a language model", cmd_chat)
    chat.add_argument("-m", "--message", help="ask this and end (default: from standard input)")
    chat.add_argument("--model", help="<name>, <name>@<version> or <name>:<adapter> (default: the pool's)")
    chat.add_argument("--system", help="system message")
    chat.add_argument("--max-tokens", type=int, help="of an answer")
    chat.add_argument("--temperature", type=float)
    add(
        "check", "Is this cluster fit: version, CRDs, operator, storage, GPUs, gangs, Prometheus", cmd_check, objects=""
    )
    report = add(
        "report", "A redacted archive for support: objects, Events, the operator's logs", cmd_report, objects=""
    )
    report.add_argument("--file", help="where it is written")
    return top


def bound(args: argparse.Namespace) -> Kubectl:
    """kubectl with the flags that were given."""
    flags = [(f"--{name}", getattr(args, name, "")) for name in FLAGS]
    return Kubectl([part for flag, value in flags if value for part in (flag, value)], getattr(args, "namespace", ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    if args.command is None:
        parser().print_help()
        return 0
    try:
        code = int(args.run(bound(args), args))
        sys.stdout.flush()
        return code
    except Failed as error:
        print(error, file=sys.stderr)
        return error.code
    except FileNotFoundError as error:
        print(f"kubectl is not on PATH: {error}" if error.filename == "kubectl" else error, file=sys.stderr)
        return 127
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def complete(argv: Sequence[str] | None = None) -> int:
    """kubectl_complete-aifactory: kubectl asks it for what may come next, and passes what was typed so far."""
    words = list(sys.argv[1:] if argv is None else argv) or [""]
    current, before = words[-1], words[:-1]
    found: list[str] = []
    choices = next(a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    command = next((word for word in before if word in choices), None)
    if command is None:
        found = list(choices)
    elif current.startswith("-"):
        found = [option for action in choices[command]._actions for option in action.option_strings]
    elif not before[-1].startswith("-"):
        known, _ = choices[command].parse_known_args([word for word in before if word != command])
        try:
            found = [ref(obj) for obj in bound(known).factory()]
        except (Failed, FileNotFoundError):
            found = []
    say([*(word for word in found if word.startswith(current)), ":4"])  # 4: no names of files
    return 0


# ---- generated by `make generate` from plugin/dashboard: do not edit
# fmt: off
PAGE: dict[str, tuple[str, str]] = {
    "": ("text/html", r'''
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>AI factory</title>
<link rel="stylesheet" href="style.css">
<script type="module" src="page.js"></script>
</head>
<body>
<a class="skip" href="#lines">To the lines</a>
<header>
<div class="name">
<h1>AI factory</h1>
<p id="title"></p>
</div>
<dl id="totals" aria-label="Sums of all that is shown"></dl>
<p id="link" role="status">connecting</p>
</header>
<main>
<noscript><p>A script that comes with the page draws it: allow it, or use kubectl aifactory status.</p></noscript>
<div id="troubles"></div>
<p id="said" class="unseen" role="status"></p>
<section id="blocked" aria-labelledby="blocked-title"></section>
<section aria-labelledby="lines-title">
<div class="bar-of-tools">
<h2 id="lines-title">From data to tokens</h2>
<form id="filter" role="search">
<label for="words">Show</label>
<input id="words" type="search" placeholder="name, phase, reason (press /)" autocomplete="off" spellcheck="false">
<label><input id="only" type="checkbox"> only what blocks</label>
</form>
</div>
<div id="lines" tabindex="-1"></div>
<p id="count" class="dim" role="status"></p>
</section>
</main>
<footer>
<p id="since"></p>
<p>The page only reads, by your kubectl and with your rights; to change something, type the commands it shows.</p>
</footer>
</body>
</html>
'''),
    "style.css": ("text/css", r'''
:root {
  --back: #f6f6f4; --card: #fff; --ink: #1b1e22; --dim: #59616b; --rule: #dcdfe3; --shade: #eef0f2;
  --blue: #2459ad; --green: #1d6b41; --amber: #7a4f00; --red: #a8231c; --second: #c26a12;
  color-scheme: light dark;
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #121417; --card: #1a1d21; --ink: #e5e8eb; --dim: #a0a8b2; --rule: #31363d; --shade: #23272d;
    --blue: #8ab6ff; --green: #7fd0a0; --amber: #f0bd6a; --red: #ff938a; --second: #f0a35c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font-variant-numeric: tabular-nums; }
p, dl, dd, ol, ul, figure, h1, h2, h3, h4 { margin: 0; padding: 0; }
ol, ul { list-style: none; }
a { color: var(--blue); }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; border-radius: 3px; }
.dim { color: var(--dim); font-weight: 400; }
.skip { position: absolute; left: -99rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.skip:focus { left: .5rem; top: .5rem; background: var(--card); padding: .5rem; z-index: 1; }

header, main, footer { max-width: 100rem; margin: 0 auto; padding: 0 1.25rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: center; }
header { padding-top: 1rem; padding-bottom: .75rem; }
.name { flex: 1 1 14rem; min-width: 0; overflow-wrap: anywhere; }
h1 { font-size: 1.2rem; }
#title { color: var(--dim); }
#totals { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; }
#totals div { display: flex; flex-direction: column-reverse; }
#totals dt { color: var(--dim); font-size: .8rem; }
#totals dd { font-size: 1.25rem; font-weight: 600; }
#link { border: 1px solid var(--rule); border-radius: 1rem; padding: .1rem .7rem; color: var(--dim); }
#link, footer, .facts { font-size: .85rem; }
#link::before { content: "○ "; }
#link.live { color: var(--green); }
#link.live::before { content: "● "; }
#link.lost { color: var(--red); border-color: currentcolor; }
footer { color: var(--dim); padding-top: 1rem; padding-bottom: 2rem; max-width: 100rem; }

h2 { font-size: 1.05rem; margin: 1rem 0 .5rem; }
.bar-of-tools { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: baseline; }
.bar-of-tools { justify-content: space-between; }
#filter { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; }
input[type="search"] {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--dim); border-radius: .35rem;
  padding: .25rem .5rem; width: 17rem; max-width: 100%;
}
input[type="search"]::placeholder { color: var(--dim); opacity: 1; }

.mark {
  display: inline-grid; place-items: center; width: 1.25em; height: 1.25em; border-radius: 50%; margin-right: .4em;
  font-size: .8em; font-weight: 700; color: var(--card); background: var(--dim); flex: none;
}
.mark.ok { background: var(--green); }
.mark.busy { background: var(--blue); border-radius: .3em; }
.mark.held { background: var(--amber); border-radius: .3em; }
.mark.wait { background: var(--amber); }
.mark.stuck { background: var(--red); border-radius: 0; }

.trouble, .blocker {
  background: var(--card); border: 1px solid var(--rule); border-left: .3rem solid var(--red); border-radius: .35rem;
  padding: .55rem .8rem; margin-bottom: .4rem;
}
.blocker.wait, .blocker.held { border-left-color: var(--amber); }
.blocker > * + * { margin-top: .5rem; }
.blocker dt { min-width: 3rem; }
.ref, code {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .92em;
  overflow-wrap: anywhere;
}
.commands li { display: flex; gap: .5rem; align-items: flex-start; margin-top: .25rem; }
.commands code { flex: 1; background: var(--shade); padding: .25rem .5rem; border-radius: .25rem; }
button {
  font: inherit; font-size: .85rem; color: inherit; background: var(--card); border: 1px solid var(--dim);
  border-radius: .25rem; padding: .2rem .6rem; cursor: pointer;
}
button:hover { background: var(--shade); }
summary { cursor: pointer; }

.line {
  background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .7rem .9rem .9rem;
  margin-bottom: .9rem;
}
h3 { font-size: 1rem; display: flex; align-items: center; gap: 0 .4em; flex-wrap: wrap; overflow-wrap: anywhere; }
h3 .mark { margin: 0; }
.stages {
  display: grid; grid-template-columns: minmax(0, .8fr) repeat(4, minmax(0, 1fr)); gap: 1.6rem; margin-top: .5rem;
}
.stage { position: relative; min-width: 0; }
.stage > h4 { font-size: .8rem; color: var(--dim); font-weight: 600; }
.stage > h4 { border-bottom: 2px solid var(--rule); padding-bottom: .15rem; }
.stage.moves > h4 { border-bottom-color: var(--blue); }
.stage + .stage::before { content: "→"; position: absolute; left: -1.3rem; top: -.1rem; color: var(--dim); }
.stage.empty { color: var(--dim); font-size: .9rem; }
.stage.empty > h4 { border-bottom-style: dashed; }
.stage > p { margin-top: .4rem; }
.card { padding: .5rem 0; }
.card + .card { border-top: 1px solid var(--rule); }
.card > * + * { margin-top: .45rem; }
.head { display: flex; align-items: center; }
.head .ref { flex: 1; }
.phase { color: var(--dim); font-size: .85rem; margin-left: .5rem; overflow-wrap: anywhere; }
.card.ok .phase { color: var(--green); }
.card.busy .phase { color: var(--blue); }
.card.held .phase, .card.wait .phase { color: var(--amber); }
.card.stuck .phase { color: var(--red); }
.words { overflow-wrap: anywhere; font-size: .9rem; }
.big { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; color: var(--dim); font-size: .85rem; }
.big b { font-size: 1.5rem; color: var(--ink); line-height: 1.1; }
.facts div { display: flex; gap: .5rem; }
.facts dt { color: var(--dim); flex: none; min-width: 4.6rem; max-width: 50%; }
.facts dd { overflow-wrap: anywhere; min-width: 0; }

.bar p, figcaption, .axis { display: flex; flex-wrap: wrap; gap: 0 .75rem; font-size: .85rem; }
.bar p, figcaption, .axis { justify-content: space-between; }
svg { display: block; width: 100%; overflow: visible; }
.bar svg { height: .6rem; background: var(--shade); border-radius: .2rem; margin: .15rem 0; overflow: hidden; }
.part0 { fill: var(--blue); }
.part1 { fill: var(--second); }
.cut { stroke: var(--card); stroke-width: 1; }
.bar .legend { justify-content: flex-start; color: var(--dim); font-size: .8rem; overflow-wrap: anywhere; }
.key { display: inline-block; width: .7em; height: .7em; margin-right: .35em; border-radius: .15em; }
.key.part0 { background: var(--blue); }
.key.part1 { background: var(--second); border-radius: 50%; }
figure svg { height: 3.5rem; }
figure path { fill: none; stroke: var(--blue); stroke-width: 1.75; stroke-linejoin: round; }
figure path.dot { stroke-width: 6; stroke-linecap: round; }
.base { stroke: var(--rule); }
.axis { color: var(--dim); font-size: .75rem; flex-wrap: nowrap; }
.steps { display: flex; flex-wrap: wrap; gap: .25rem; font-size: .8rem; }
.steps li { border: 1px solid var(--rule); border-radius: .25rem; padding: 0 .4rem; color: var(--dim); }
.steps .now { border-color: var(--blue); color: var(--ink); font-weight: 600; }

.card details, figure details { font-size: .8rem; }
.card summary { color: var(--dim); }
.scroll { overflow: auto; max-height: 16rem; margin-top: .25rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .15rem .6rem .15rem 0; border-bottom: 1px solid var(--rule); }
th { color: var(--dim); font-weight: 600; position: sticky; top: 0; background: var(--card); }
td { min-width: 3.5rem; }

@media (max-width: 62rem) {
  .stages { grid-template-columns: minmax(0, 1fr); gap: .9rem; }
  .stage + .stage::before { content: "↓"; left: auto; right: 0; }
}
@media (max-width: 40rem) {
  header, main, footer { padding-left: .75rem; padding-right: .75rem; }
  #totals { gap: .25rem 1.1rem; }
  summary, button, #filter label { min-height: 1.75rem; }
}
@media (prefers-reduced-motion: no-preference) {
  .stage.moves > h4 {
    border-image: linear-gradient(90deg, var(--blue), var(--rule), var(--blue)) 1;
    animation: flow 2.4s linear infinite;
  }
  @keyframes flow { 50% { opacity: .65; } }
}
@media print { .copy, #filter, .skip { display: none; } }
'''),
    "page.js": ("text/javascript", r'''
// The page of `kubectl aifactory dashboard`. The server sends the whole view as JSON whenever it has changed; `draw`
// makes a tree of it, and `mend` changes the page until it is like that tree: what has the focus or is open stays so.
// Text gets into the page as text only (createTextNode), never as HTML: names and messages come from anybody.

const MARKS = {
  ok: ["✓", "fine"],
  busy: ["▸", "on its way"],
  held: ["‖", "rests on request"],
  wait: ["!", "waits for somebody"],
  stuck: ["✕", "stuck"],
};
const NOTHING = {
  Data: "no inputs named",
  Train: "no job makes it",
  Version: "no version yet",
  Serve: "no pool serves it",
  Tokens: "none yet",
};
const SVG = "http://www.w3.org/2000/svg";

// ---- making and mending elements

function h(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line"].includes(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child instanceof Node) made.append(child);
    else if (child !== undefined && child !== null && child !== "") made.append(document.createTextNode(child));
  }
  return made;
}

// Which child is which: by its key, else the how-manieth of its sort it is among those that have none.
function keysOf(parent) {
  const counts = {};
  return [...parent.childNodes].map((node) => {
    const key = node.nodeType === 1 && node.getAttribute("data-key");
    if (key) return `${node.nodeName} ${key}`;
    counts[node.nodeName] = (counts[node.nodeName] || 0) + 1;
    return `${node.nodeName} #${counts[node.nodeName]}`;
  });
}

function mend(old, made) {
  const keys = keysOf(made);
  const known = new Map();
  // What goes, goes first: an element that is moved would lose the focus.
  keysOf(old).forEach((key, place) => known.set(key, known.get(key) || [...old.childNodes][place]));
  const kept = new Set(keys.map((key) => known.get(key)));
  [...old.childNodes].filter((node) => !kept.has(node)).forEach((node) => node.remove());
  let next = old.firstChild;
  [...made.childNodes].forEach((wanted, place) => {
    const node = known.get(keys[place]) || wanted;
    known.delete(keys[place]);
    if (node === next) next = next.nextSibling;
    else old.insertBefore(node, next);
    if (node === wanted) return;
    if (node.nodeType === 3) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return;
    }
    const names = new Set([...node.attributes, ...wanted.attributes].map((attribute) => attribute.name));
    names.delete("open"); // whether something is open is for the reader to say
    for (const name of names) {
      if (!wanted.hasAttribute(name)) node.removeAttribute(name);
      else if (node.getAttribute(name) !== wanted.getAttribute(name)) {
        node.setAttribute(name, wanted.getAttribute(name));
      }
    }
    mend(node, wanted);
  });
}

function fill(id, ...children) {
  mend(document.getElementById(id), h("div", {}, ...children));
}

// ---- words

function ago(since) {
  const seconds = (Date.now() - Date.parse(since)) / 1000;
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds / 10) * 10)}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86400)}d`;
}

const clock = (seconds) => new Date(seconds * 1000).toTimeString().slice(0, 8);
const places = (value) => (value === null ? "none" : String(Number(value.toPrecision(5))));

function mark(name) {
  if (!MARKS[name]) return undefined;
  const [sign, words] = MARKS[name];
  return h("span", { class: `mark ${name}`, role: "img", "aria-label": words, title: words }, sign);
}

const opened = new Set();

// Rows are made when somebody looks at them: there may be hundreds behind each picture.
function table(owner, title, head, rows) {
  const name = `${owner} ${title}`;
  const summary = h("summary", {}, `${title} (${rows.length})`);
  const told = h("details", { "data-key": `table ${title}`, "data-table": name }, summary);
  if (!opened.has(name)) return told;
  told.append(
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": title },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
      ),
    ),
  );
  return told;
}

// ---- pictures

const WIDE = 240;
const HIGH = 56;

// Where the line is broken: after an attempt that began again at an earlier step, and where there was no figure.
function pieces(points) {
  const found = [[]];
  points.forEach((point, place) => {
    if (point[1] === null || (place && point[0] < points[place - 1][0])) found.push([]);
    if (point[1] !== null) found[found.length - 1].push(point);
  });
  return found.filter((piece) => piece.length);
}

function curve(owner, { title, axis, points }) {
  const time = axis === "time";
  const last = points[points.length - 1];
  // A pool says its figure when it has changed: until then it is what it was.
  const drawn = time ? [...points, [Math.max(Date.now() / 1000, last[0]), last[1]]] : points;
  const known = drawn.filter((point) => point[1] !== null);
  if (!known.length) return undefined;
  const xs = drawn.map((point) => point[0]);
  const ys = known.map((point) => point[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  // Of a loss the shape counts, of all else the size.
  const [low, high] = [title === "Loss" ? Math.min(...ys) : 0, Math.max(...ys)];
  const x = (value) => 3 + ((WIDE - 6) * (value - left)) / (right - left || 1);
  const y = (value) => HIGH - 4 - ((HIGH - 8) * (value - low)) / (high - low || 1);
  const at = (point) => `${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`;
  const path = pieces(drawn)
    .map((piece) =>
      piece
        .map((point, place) => {
          if (!place) return `M${at(point)}`;
          return time ? `H${x(point[0]).toFixed(1)}V${y(point[1]).toFixed(1)}` : `L${at(point)}`;
        })
        .join(""),
    )
    .join("");
  const where = (value) => (time ? clock(value) : `step ${value}`);
  const words =
    `${title}: ${places(last[1])} at ${where(last[0])}; ` +
    `since ${where(left)} between ${places(Math.min(...ys))} and ${places(Math.max(...ys))}`;
  return h(
    "figure",
    { "data-key": `curve ${title}` },
    h("figcaption", {}, title, h("b", {}, places(last[1]))),
    h(
      "svg",
      { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": words },
      h("line", { class: "base", x1: 0, x2: WIDE, y1: HIGH - 0.5, y2: HIGH - 0.5 }),
      h("path", { d: path, "vector-effect": "non-scaling-stroke" }),
      known.length === 1
        ? h("path", { class: "dot", d: `M${at(known[0])}h0.01`, "vector-effect": "non-scaling-stroke" })
        : undefined,
    ),
    h(
      "p",
      { class: "axis" },
      h("span", {}, where(left)),
      h("span", {}, `${places(low)} to ${places(high)}`),
      h("span", {}, time ? "now" : where(right)),
    ),
    table(
      owner,
      `${title} as a table`,
      [time ? "time" : "step", title],
      [...points].reverse().map((point) => [time ? clock(point[0]) : String(point[0]), places(point[1])]),
    ),
  );
}

function bar({ title, words, parts }) {
  const many = parts.length > 1;
  const said = parts.map((part) => `${part.name} ${Math.round(part.percent)} %`).join(", ");
  return h(
    "div",
    { class: "bar", "data-key": `bar ${title}` },
    h("p", {}, h("span", {}, title), h("span", { class: "dim" }, words)),
    h(
      "svg",
      { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${said}` },
      parts.map((part, place) => {
        const from = parts.slice(0, place).reduce((sum, other) => sum + other.percent, 0);
        const to = Math.min(100, from + part.percent);
        return h("path", { class: `part${place}`, d: `M${from} 0H${to}V10H${from}Z` });
      }),
      many ? h("line", { class: "cut", x1: parts[0].percent, x2: parts[0].percent, y1: 0, y2: 10 }) : undefined,
    ),
    many
      ? h(
          "p",
          { class: "legend" },
          parts.map((part, place) =>
            h(
              "span",
              {},
              h("i", { class: `key part${place}`, "aria-hidden": "true" }),
              `${part.name} ${Math.round(part.percent)} %`,
            ),
          ),
        )
      : undefined,
  );
}

// ---- the line from data to tokens

function fact([name, value]) {
  return h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value));
}

function card(found, namespace) {
  const owner = `${namespace}/${found.ref}`;
  return h(
    "article",
    { class: `card ${found.mark || ""}`, "data-key": found.ref, "aria-label": found.ref },
    h(
      "p",
      { class: "head" },
      mark(found.mark),
      h("b", { class: "ref" }, found.ref),
      found.phase ? h("span", { class: "phase" }, found.phase) : undefined,
    ),
    found.big && found.big.length
      ? h("p", { class: "big" }, found.big.map(([value, unit]) => h("span", {}, h("b", {}, value), ` ${unit}`)))
      : undefined,
    found.message && found.mark !== "ok"
      ? h(
          "p",
          { class: "words" },
          found.reason ? h("b", {}, `${found.reason}: `) : undefined,
          found.message,
          found.since ? h("span", { class: "dim" }, ` (for ${ago(found.since)})`) : undefined,
        )
      : undefined,
    (found.bars || []).map(bar),
    found.steps && found.steps.length
      ? h(
          "ol",
          { class: "steps", "aria-label": "Steps of the change" },
          found.steps.map(([words, state]) =>
            h("li", { class: state, "aria-current": state === "now" ? "step" : undefined },
              `${{ done: "✓ ", now: "▸ " }[state] || ""}${words}`),
          ),
        )
      : undefined,
    (found.curves || []).map((each) => curve(owner, each)),
    (found.facts || []).length ? h("dl", { class: "facts" }, found.facts.map(fact)) : undefined,
    found.base
      ? h("p", {}, h("a", { href: `#${placeOf(namespace, found.base)}` }, `see the line of ${found.base}`))
      : undefined,
    (found.tables || []).map(({ title, head, rows }) => table(owner, title, head, rows)),
  );
}

const placeOf = (namespace, title) => `line-${namespace}-${title}`;

function stage([title, cards], namespace) {
  const marks = cards.map((found) => found.mark);
  const moves = marks.includes("busy") ? " moves" : "";
  return h(
    "li",
    { class: `stage${cards.length ? "" : " empty"}${moves}`, "data-key": title },
    h("h4", {}, title),
    cards.length ? cards.map((found) => card(found, namespace)) : h("p", { class: "dim" }, NOTHING[title]),
  );
}

function worst(line) {
  const marks = line.stages.flatMap(([, cards]) => cards.map((found) => found.mark));
  return ["stuck", "wait", "held", "busy", "ok"].find((name) => marks.includes(name));
}

function drawLine(line, everywhere) {
  return h(
    "section",
    {
      class: "line",
      "data-key": `${line.namespace}/${line.title}`,
      id: placeOf(line.namespace, line.title),
      "aria-label": `line of ${line.title}${everywhere ? ` in ${line.namespace}` : ""}`,
    },
    h(
      "h3",
      {},
      mark(worst(line)),
      line.title,
      everywhere ? h("span", { class: "dim" }, `in ${line.namespace}`) : undefined,
    ),
    h("ol", { class: "stages" }, line.stages.map((found) => stage(found, line.namespace))),
    line.leftOut ? h("p", { class: "dim" }, `and ${line.leftOut} earlier that nothing depends on`) : undefined,
  );
}

// ---- what blocks

// Our own words have code between backticks.
function coded(text) {
  return text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));
}

function command(text) {
  return h("li", {}, h("code", {}, text), h("button", { type: "button", class: "copy", "data-text": text }, "Copy"));
}

function blocker(found, first) {
  return h(
    "details",
    { class: `blocker ${found.state}`, "data-key": `${found.namespace}/${found.ref}`, open: first },
    h(
      "summary",
      {},
      mark(found.state),
      h("b", { class: "ref" }, found.ref),
      ` ${{ stuck: "is stuck", wait: "waits", held: "rests" }[found.state]}: ${found.reason}`,
      found.since ? h("span", { class: "dim" }, ` for ${ago(found.since)}`) : undefined,
    ),
    found.message ? h("p", { class: "words" }, found.message) : undefined,
    h(
      "dl",
      { class: "facts" },
      found.meaning ? fact(["why", coded(found.meaning)]) : undefined,
      found.advice ? fact(["do", coded(found.advice)]) : undefined,
    ),
    h("ul", { class: "commands", "aria-label": "Commands that mend it" }, found.commands.map(command)),
  );
}

function drawBlocked(view) {
  const more = view.blockedInAll - view.blocked.length;
  return [
    h("h2", { id: "blocked-title" }, view.blockedInAll ? `What blocks (${view.blockedInAll})` : "Nothing blocks"),
    view.blocked.map((found, place) => blocker(found, place === 0)),
    more > 0 ? h("p", { class: "dim" }, `and ${more} more`) : undefined,
  ];
}

// ---- the page

let view;
let told = "";

function wanted(line) {
  const words = document.getElementById("words").value.trim().toLowerCase();
  const mine = ["stuck", "wait", "held"].includes(worst(line));
  if (document.getElementById("only").checked && !mine) return false;
  const text = [line.namespace, line.title, ...line.stages.flatMap(([, cards]) =>
    cards.flatMap((found) => [found.ref, found.phase, found.reason, found.message]))].join(" ").toLowerCase();
  return words.split(/\s+/).every((word) => text.includes(word));
}

function draw() {
  if (!view) return;
  const blocked = view.blockedInAll;
  const title = `${blocked ? `(${blocked}!) ` : ""}AI factory, ${view.title}`;
  if (document.title !== title) document.title = title;
  fill("title", view.title);
  fill("totals", view.totals.map(([value, name]) => fact([name, value])));
  fill(
    "troubles",
    view.troubles.map(([kind, words]) =>
      h("p", { class: "trouble", role: "alert", "data-key": kind }, mark("stuck"), `${kind}s can not be read: `, words),
    ),
  );
  fill("blocked", view.known ? drawBlocked(view) : h("h2", { id: "blocked-title" }, "Reading the cluster"));
  const first = view.blocked[0];
  fill("said", first ? `${blocked} block, first ${first.ref}: ${first.reason}` : "");
  const lines = view.lines.filter(wanted);
  const everywhere = new Set(view.lines.map((line) => line.namespace)).size > 1;
  fill("lines", lines.map((line) => drawLine(line, everywhere)));
  const none = view.known && !view.linesInAll && !view.troubles.length;
  const hidden = view.linesInAll - lines.length;
  fill("count", none
    ? "There is no TrainingJob, ModelVersion or InferencePool here yet. Is the cluster fit: kubectl aifactory check"
    : hidden ? `${lines.length} of ${view.linesInAll} lines are shown` : "");
  fill(
    "since",
    `Curves begin when the command was started, at ${new Date(view.since).toLocaleString()}: a status holds its `,
    "latest figures only. What was before is in Prometheus, if it collects the operator's metrics.",
  );
}

function link(words, state) {
  if (told === words) return;
  told = words;
  const place = document.getElementById("link");
  place.className = state;
  fill("link", words);
}

const changes = new EventSource("changes");
changes.onmessage = (event) => {
  view = JSON.parse(event.data);
  link("live", "live");
  draw();
};
changes.onopen = () => link("live", "live");
changes.onerror = () => link("not connected: has the command ended? It is tried again", "lost");

setInterval(draw, 10000);
document.getElementById("filter").addEventListener("input", draw);
document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById("words").focus();
  }
});
document.addEventListener(
  "toggle",
  ({ target }) => {
    if (!target.dataset.table) return;
    if (target.open) opened.add(target.dataset.table);
    else opened.delete(target.dataset.table);
    draw();
  },
  true,
);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
});
'''),
}
# fmt: on
# ---- end of what is generated


# ---- generated by `make generate` from operator/aifactory/api/reasons.py and docs/advice.yaml: do not edit
# fmt: off
REASONS: dict[str, tuple[str, str]] = {
    "AbortedAtEnd": (
        "The program had done its last step and was aborted on its way out; it is started again to publish "
        "its result.",
        "Nothing; let the program end by `os._exit(0)`, or destroy its process groups, once its result is "
        "written.",
    ),
    "AccessDenied": (
        "The store refused the credentials.",
        "Correct the keys in the Secret or what they may do; for a claim, let the pod's fsGroup read it (to "
        "publish, write). It is tried again by itself, within a minute.",
    ),
    "Admitted": (
        "Kueue has admitted the job; the message says to which ClusterQueue and flavors.",
        "Nothing.",
    ),
    "AllNodesReady": (
        "Every pod of the current attempt is running.",
        "Nothing.",
    ),
    "AnalysisFailed": (
        "The new version broke a bound of rollout.analysis; metric, both values and the bound are in the "
        "message.",
        "See `status.rollout.analysis`; publish a version that does better, or pin the one that is served. "
        "With `autoRollback: false` say `aifactory.dev/promote` or `aifactory.dev/abort`.",
    ),
    "AnalysisInconclusive": (
        "The time of an analysis is over, and there were too few requests to tell; it waits for more.",
        "Nothing if requests are on their way; else lower `spec.rollout.analysis.minSamples`, or decide "
        "yourself: `aifactory.dev/promote` or `aifactory.dev/abort`.",
    ),
    "Analyzing": (
        "Two versions are compared, in a Canary or Shadow; who gets what requests stays as it is.",
        "Nothing; `status.rollout.window` has what was counted so far.",
    ),
    "ApplicationError": (
        "The training program exited with an error; its last words are the message.",
        "Read `status.lastFailure` and the log of the pod that it names: `kubectl logs POD`. The job restarts"
        " by itself as long as `failurePolicy` allows.",
    ),
    "BackOff": (
        "The next attempt waits for the failure policy's backoff.",
        "Nothing; the message says when it goes on. A template that is corrected meanwhile is used then.",
    ),
    "CheckFailed": (
        "The program has found that it could not train with its options and inputs, before a pod asked for a "
        "GPU; its words are in the message.",
        "Correct what the message names in the spec, which is checked again at once; or what is meant by it, "
        "and ask again with `kubectl annotate tjob NAME --overwrite aifactory.dev/retry=\"$(date)\"`. After an "
        "edit the pods of before run on until it has passed (how (docs/training-program.md)).",
    ),
    "CheckPassed": (
        "The program has found nothing in the way of training, before a pod asked for a GPU.",
        "Nothing.",
    ),
    "CheckSkipped": (
        "The program did not get to an answer where it has no GPU; its pods are made all the same.",
        "Nothing: the job trains. If the message names time or memory, raise `taskPods.defaults.check` of the"
        " chart, or leave the check out with `spec.check: none`.",
    ),
    "Checking": (
        "The program looks at its options and inputs in a pod without a GPU; no pod that trains is made "
        "before.",
        "Nothing; it takes as long as the program takes to read its inputs. No pod of the job asks for a GPU "
        "before. `spec.check: none` leaves it out.",
    ),
    "ClaimNotBound": (
        "Pods wait for a PersistentVolumeClaim that is missing or has no volume yet.",
        "See `kubectl describe pvc` for the claim that the message names: its storage class must exist and "
        "offer the access modes (storage (docs/storage.md)). It goes on by itself.",
    ),
    "ContainerCannotStart": (
        "The program is not in the image or can not be executed; no restart mends that.",
        "The job has ended. Correct `image` and `command` in another TrainingJob.",
    ),
    "ContainerConfigError": (
        "A container cannot be created from its settings.",
        "Create the Secret or ConfigMap that the message names, or correct the template. As the cause of a "
        "restart it counts against `failurePolicy.maxRestarts`.",
    ),
    "CrashLoopBackOff": (
        "A container that is restarted in its pod ends again and again; the message names it and how it "
        "ended.",
        "Read `kubectl logs POD -c CONTAINER --previous`; where it was OOMKilled, raise the container's "
        "memory limit.",
    ),
    "CreatingPods": (
        "The pods of the current attempt are being created.",
        "Nothing; it takes seconds.",
    ),
    "Deactivated": (
        "The job's Workload is not active, so Kueue does not admit it; a person has to.",
        "See why: `kubectl describe workload.kueue.x-k8s.io NAME`; then activate it by the command in the "
        "message, or delete it, and the job asks anew (Kueue (docs/kueue.md)).",
    ),
    "DeadlineExceeded": (
        "A pod ran longer than its template's activeDeadlineSeconds allow.",
        "Raise `activeDeadlineSeconds` of the template, or leave it out.",
    ),
    "DependencyMissing": (
        "A PriorityClass or ServiceAccount that a pod names, or the WorkloadPriorityClass of a job, does not "
        "exist.",
        "Create the PriorityClass, ServiceAccount or WorkloadPriorityClass, or correct its name in the "
        "template (for publishers and verifiers in `taskPods` of the chart) or in the job's label. It is "
        "noticed within half a minute.",
    ),
    "DigestMismatch": (
        "The files do not have the digest that they should have.",
        "Somebody has changed the files. Put them right and ask again, or publish another version; for an "
        "input, write the digest that it has now into `spec.inputs`.",
    ),
    "Disruption": (
        "A pod was evicted, preempted, drained or deleted by somebody else; it does not count.",
        "Nothing; the job restarts from its last checkpoint. If it comes often, see who evicts, preempts or "
        "deletes its pods.",
    ),
    "Evicted": (
        "Kueue has taken the job's quota back (a queue was stopped, pods came up too late ...); its own words"
        " are in the message.",
        "Nothing, if the message's cause passes: the job goes on from its last checkpoint when it has quota "
        "again (Kueue (docs/kueue.md)).",
    ),
    "FailureLasts": (
        "What the object needs has failed for a while and is tried again every minute; the failure is in the "
        "message. What was Ready before still is.",
        "Mend what the message names, mostly a webhook or the API server itself. It is noticed within a "
        "minute. If it says `a mistake in the operator`, report it.",
    ),
    "FormatMismatch": (
        "The result is of another format than output.model.format says; it waits.",
        "Set `output.model.format` to what the message says; or replace the files in the workspace and ask "
        "again.",
    ),
    "GatewayApiMissing": (
        "spec.gateway.mode is GatewayAPI, and the cluster does not serve the routes that it takes.",
        "Install the Gateway API's CRDs and restart the operator, which looks for them when it starts; or "
        "write `spec.gateway.mode: Envoy` or `None`. The pool's Service leads to the pods meanwhile.",
    ),
    "GatewayNotFound": (
        "There is no Gateway, or no listener of it, of the name that spec.gateway.parentRefs says.",
        "Create the Gateway or listener, or correct `spec.gateway.parentRefs`. It goes on by itself.",
    ),
    "GatewayNotReady": (
        "The version is loaded on every pod, and the gateway that leads to them is not in place yet or not "
        "whole.",
        "Nothing if it passes; else see the pods with the label aifactory.dev/role=gateway (gateway "
        "(docs/gateway.md)).",
    ),
    "HotSwapImpossible": (
        "spec.rollout.strategy is HotSwap, and the pods have no room for the version beside the one they "
        "serve.",
        "Write `spec.rollout.strategy: Auto` or `Surge`, by which the version gets pods of its own, or give "
        "the pods more room as the message says. What is served goes on.",
    ),
    "ImagePullFailed": (
        "A node cannot pull the image; the runtime's own words are in the message.",
        "Correct the image's name or the pull secret: `imagePullSecrets` in the template; for publishers and "
        "verifiers `taskPods.defaults.imagePullSecrets` of the chart.",
    ),
    "InitContainerFailed": (
        "An init container of a pod failed, so its trainer was never started.",
        "Read `kubectl logs POD -c INIT-CONTAINER`. It counts against `failurePolicy.maxRestarts`.",
    ),
    "InputFailed": (
        "The pod that fetches an input failed without an answer; another one is made.",
        "Read the log of the pod that `status.inputs` names: `kubectl logs POD`. It is tried again by itself,"
        " after five minutes at most.",
    ),
    "InputsPrepared": (
        "Every input is there, with the digest that status.inputs says.",
        "Nothing.",
    ),
    "InvalidArtifact": (
        "The artifact misses files its format needs, or holds files that run code; or a line of an input is "
        "not what its format asks for.",
        "Add or remove the files that the message names (a job's are in its workspace), or put the line "
        "right, and ask again; an input may be another one too, in `spec.inputs`.",
    ),
    "InvalidSpec": (
        "The stored object does not fit this operator's API; the message names the field. What was asked for "
        "before goes on; what is asked for now is not there, so Ready is False. Available, Running and "
        "Verified say what was true when the object could be read last.",
        "Correct the field that the message names, or update the CRDs: they are older or newer than the "
        "operator.",
    ),
    "KueueMissing": (
        "The job names a queue of Kueue's, and the operator sees no Kueue that admits it.",
        "Install Kueue and restart the operator, or take the label `kueue.x-k8s.io/queue-name` off the job. "
        "An operator that watches single namespaces can not read Kueue's flavors (Kueue (docs/kueue.md)).",
    ),
    "MaxRestartsExceeded": (
        "The failure policy allows no further restart within its window.",
        "The job has ended; the message names the last failure, and its pods are kept for their logs. Mend it"
        " and create another TrainingJob.",
    ),
    "ModelLoadFailed": (
        "Triton could not load the version; its own words are in the message.",
        "Publish a version that loads, or pin one that does; where one pod fails and others do not, the "
        "message says how to move it off its node. After something outside the pool was mended it is tried "
        "again by itself, else ask again.",
    ),
    "ModelNotReady": (
        "The pinned ModelVersion exists and is not Ready; the message says why.",
        "See the ModelVersion that the message names; the pool or job goes on when it is Ready.",
    ),
    "ModelTooLarge": (
        "The version is larger than the memory that its pods may use: none is made; both sizes are in the "
        "message.",
        "Raise `resources.limits.memory` of container `triton` in `spec.template` (a CPU without bfloat16 "
        "computes in float32, twice the size of most models), or serve it on a GPU. What is served goes on.",
    ),
    "NameConflict": (
        "An object with a name we need belongs to somebody else; the message names both.",
        "Rename one of the two. What an earlier object of the name has left is removed by the command in the "
        "message; what belongs to a job that is being deleted goes by itself.",
    ),
    "NoProgress": (
        "The job was restarted as often as it may be without a later checkpoint between.",
        "The job has ended. See why no later checkpoint was reported between the restarts, or raise "
        "`failurePolicy.maxRestartsWithoutProgress`; then create another TrainingJob.",
    ),
    "NoRestartRequested": (
        "The trainer exited with code 93, which asks for no restart.",
        "The job has ended. The program's own words are in `status.lastFailure`; create another TrainingJob.",
    ),
    "NodeLost": (
        "A pod should have ended and its node has not confirmed that it has; the message says what a person "
        "can do.",
        "Bring the node back. If the machine is off for good: `kubectl delete node NODE`. If only the pod "
        "hangs and surely does not run any more: `kubectl delete pod POD --force`.",
    ),
    "NodeRefused": (
        "The node of a pod did not admit it (OutOfcpu, UnexpectedAdmissionError ...); no program ran, so it "
        "does not count and is tried again with growing waits.",
        "If it lasts, look at the node (`kubectl describe node NODE`): its device plugin, or something that "
        "uses what the scheduler believes to be free. `kubectl cordon NODE` sends the pods elsewhere.",
    ),
    "NotAdmissible": (
        "As things are Kueue can never admit the job (no such queue, more than all quota, no matching flavor "
        "...).",
        "Create the LocalQueue that the job names or correct its label, raise the quota, or ask for less; "
        "Kueue's own words are in the message. It goes on by itself (Kueue (docs/kueue.md)).",
    ),
    "NotSuspended": (
        "spec.suspend is not set.",
        "Nothing.",
    ),
    "NotUsed": (
        "No InferencePool serves the version.",
        "Nothing.",
    ),
    "OutOfDisk": (
        "A pod used more local disk than its own limits (emptyDir sizeLimit, ephemeral-storage) allow: it was"
        " evicted.",
        "Raise that limit in the template, or write to `/workspace`. It counts against "
        "`failurePolicy.maxRestarts`.",
    ),
    "OutOfMemory": (
        "The kernel ended the trainer because it used more memory than its limit.",
        "Raise `resources.limits.memory` of the trainer, or use less; files in `/dev/shm` count too. For "
        "publishers and verifiers raise `taskPods.defaults.resources` of the chart.",
    ),
    "PodNotSetUp": (
        "A node can not set up a pod (runtime, network, devices); the kubelet's own words are in the message.",
        "Correct `runtimeClassName`, or see to the runtime, network plugin and devices of the node.",
    ),
    "PodRejected": (
        "The API server refused an object of ours; its own words are in the message.",
        "Correct what the API server's words name in the template. A job goes on from its last checkpoint; "
        "after an edit that was refused, the pods of before run on until it is corrected.",
    ),
    "PodSecurityViolated": (
        "The pods break the Pod Security level of the namespace; what they break is in the message.",
        "Take what the message names out of the template, or relax the namespace's Pod Security label.",
    ),
    "PodsNotReady": (
        "Fewer pods are ready than wanted.",
        "Nothing if it passes; else see the pool's pods.",
    ),
    "PodsScheduled": (
        "Every pod has a node.",
        "Nothing.",
    ),
    "Preempted": (
        "Kueue has given the job's quota to another; its pods end with their grace period, and it waits for "
        "quota again.",
        "Nothing; the job goes on from its last checkpoint when it has quota again. If it comes often, see "
        "the quotas and priorities (Kueue (docs/kueue.md)).",
    ),
    "PreparingInputs": (
        "Inputs are being fetched; no pod that trains is made before they are there.",
        "Nothing; it takes as long as the files are large. How far it is: `kubectl get tjob NAME -o "
        "jsonpath='{.status.inputs}'`. No pod asks for a GPU before.",
    ),
    "ProbeFailed": (
        "The pod that tries out the model store failed without an answer; another one is made.",
        "Read `kubectl logs JOB-probe-NUMBER`. It is tried again by itself.",
    ),
    "ProbingStore": (
        "It is found out whether the model store takes a result, before a pod trains.",
        "Nothing; it takes seconds. No pod of the job asks for a GPU before.",
    ),
    "PublisherFailed": (
        "The pod that publishes failed without an answer; another one is made.",
        "Read `kubectl logs JOB-publish-NUMBER`. It is tried again by itself, after five minutes at most.",
    ),
    "Publishing": (
        "All pods succeeded and the result is being published.",
        "Nothing.",
    ),
    "Queued": (
        "The job waits in a queue of Kueue's for quota; Kueue's own words are in the message.",
        "Nothing; the job waits its turn. What is before it: `kubectl get workloads.kueue.x-k8s.io` (Kueue "
        "(docs/kueue.md)).",
    ),
    "QuotaExceeded": (
        "The namespace's ResourceQuota leaves no room; the server's words are the message.",
        "Wait, free something in the namespace, or raise the ResourceQuota. Where it asks for limits, write "
        "them into the template (for publishers and verifiers `taskPods.defaults.resources` of the chart, for"
        " the Triton beside a verifier `taskPods.defaults.validation.resources`).",
    ),
    "Resized": (
        "spec.nodes.count changed, so the job restarts with the new number of pods.",
        "Nothing.",
    ),
    "Resumed": (
        "The job was suspended and runs again.",
        "Nothing.",
    ),
    "RolledOut": (
        "The wanted version takes all traffic.",
        "Nothing.",
    ),
    "RollingOut": (
        "A new version comes up beside the one that takes the traffic.",
        "Nothing; `status.traffic` says which pods answer.",
    ),
    "RolloutAborted": (
        "Somebody has had the new version taken back.",
        "Ask again, publish another version, or pin the one that is served.",
    ),
    "RolloutDeadlineExceeded": (
        "The new version made no progress for spec.rollout.progressDeadlineSeconds and was taken back.",
        "The message says what was in the way. It is tried again by itself, later and later; ask again when "
        "it is mended.",
    ),
    "RolloutPaused": (
        "Somebody has paused the Canary or Shadow; who gets what requests stays as it is.",
        "`kubectl annotate ipool NAME --overwrite aifactory.dev/resume=\"$(date)\"` lets it go on, "
        "`aifactory.dev/abort` takes the version back.",
    ),
    "RouteNotAccepted": (
        "A Gateway does not take the pool's route; the words of its controller are in the message.",
        "Let the routes of the namespace in by `allowedRoutes` of a listener, or correct `spec.gateway` as "
        "the message says (gateway (docs/gateway.md)). It goes on by itself.",
    ),
    "Scaled": (
        "spec.autoscaling has chosen another number of pods; the message says by what.",
        "Nothing; `status.scaling` has the last five decisions (how (docs/serving.md)).",
    ),
    "ScaledToZero": (
        "spec.replicas is 0, or nobody asks a pool of autoscaling.minReplicas 0: no pod, on purpose.",
        "`kubectl scale ipool NAME --replicas=1`; nothing where `spec.autoscaling.minReplicas` is 0: the next"
        " request starts a pod (how (docs/serving.md)).",
    ),
    "Serving": (
        "The wanted version is loaded on every pod and the Service routes to it.",
        "Nothing.",
    ),
    "SideContainerFailed": (
        "Every trainer runs, and a container beside one has ended badly; the message names it, and training "
        "goes on.",
        "Read `kubectl logs POD -c CONTAINER`; training goes on. It is mended with the next attempt's pods "
        "only.",
    ),
    "SourceNotFound": (
        "There is nothing at the URI.",
        "For a version, put the artifact where `spec.source.uri` says; it is read again by itself. For an "
        "input, correct its `uri`, or put the files there; it is tried again by itself. For a job's output, "
        "the program has written nothing to `/workspace/output`; put it there and ask again.",
    ),
    "Starting": (
        "Serving pods are starting and loading the model.",
        "Nothing; a large model takes its time. What it waits for: `kubectl logs POD -c agent`.",
    ),
    "StoppingPods": (
        "Pods of an earlier attempt, or of a job that is suspended or being deleted, are ending.",
        "Nothing; pods have their grace period (120 s unless the template says otherwise).",
    ),
    "StoreFull": (
        "There is no space left in the store.",
        "Enlarge the claim or raise the bucket's quota, or remove artifacts that no version needs (storage "
        "(docs/storage.md)); for inputs delete the claim (storage (docs/storage.md)). It is tried again by "
        "itself.",
    ),
    "StoreUnavailable": (
        "The store does not answer; it is asked again.",
        "Nothing if it passes; else correct `AWS_ENDPOINT_URL` or `ca.crt` in the Secret, or see to the "
        "store.",
    ),
    "Succeeded": (
        "All pods succeeded and the result, if any, is registered as a ModelVersion.",
        "Nothing.",
    ),
    "Suspended": (
        "spec.suspend is true and no pod is left.",
        "`kubectl patch tjob NAME --type=merge -p '{\"spec\":{\"suspend\":false}}'` lets it run.",
    ),
    "TemplateChanged": (
        "The pod settings changed, so the job restarts with them.",
        "Nothing.",
    ),
    "Unschedulable": (
        "The scheduler finds no place for the pods; its own words are in the message.",
        "Free or add nodes or GPUs, or ask for less; the message has the scheduler's words. It goes on by "
        "itself.",
    ),
    "Unservable": (
        "No engine, or not the one that spec.runtime.engine names, can serve such a model.",
        "Do what the message says: another engine, an image that has it, or GPUs (engines (docs/engines.md)).",
    ),
    "UsedByPools": (
        "At least one InferencePool serves the version or is about to.",
        "Nothing; as long as it is so the version can not be deleted.",
    ),
    "Validated": (
        "The version was loaded into a Triton of its own and has answered as it must.",
        "Nothing.",
    ),
    "ValidationFailed": (
        "Triton could not load the version, or it answered wrongly; Triton's or the checker's own words are "
        "in the message. No pool gets it.",
        "Read the message, and `kubectl logs POD -c triton` of the pod that it names. Publish a version that "
        "loads and answers; where it is good and the request or the pod was not, correct `spec.validation` in"
        " the next version, or ask again. Pools serve on what they have (how (docs/serving.md)).",
    ),
    "ValidationSkipped": (
        "The version was not tried before it became Ready, because that is switched off or it can not run "
        "there; the message says which.",
        "Nothing, if that is meant. Else give the trial what the message names, by "
        "`spec.validation.resources` of the next version or `taskPods.defaults.validation` of the chart.",
    ),
    "Verified": (
        "The artifact is complete and has the expected digest.",
        "Nothing.",
    ),
    "VerifierFailed": (
        "The pod that checks the artifact failed without an answer.",
        "Read `kubectl logs VERSION-verify-NUMBER`. It is tried again by itself, after five minutes at most.",
    ),
    "Verifying": (
        "The artifact is being fetched and its digest computed.",
        "Nothing; every byte is read.",
    ),
    "VolumeNotMounted": (
        "A volume, Secret or claim of a pod can not be mounted; the kubelet's own words are in the message.",
        "Create the Secret, ConfigMap or claim that the message names, or correct its name. "
        "`FailedAttachVolume`: a ReadWriteOnce volume is in use on another node (storage (docs/storage.md)).",
    ),
    "WaitingForModel": (
        "No ModelVersion that fits what the spec names is Ready; the message names it.",
        "Nothing if a job is about to publish the model; else correct `spec.models`, or `spec.inputs` of a "
        "job.",
    ),
    "WaitingForPods": (
        "Pods exist but are not all running yet.",
        "Nothing if it passes; else `kubectl describe pod` for those that do not run.",
    ),
    "WaitingForPromotion": (
        "A Canary or Shadow has come to a step that waits for somebody; who gets what requests stays as it "
        "is.",
        "Look at what the new version does; then `kubectl annotate ipool NAME --overwrite "
        "aifactory.dev/promote=\"$(date)\"`, or `aifactory.dev/abort`. Canary (docs/serving.md), Shadow "
        "(docs/serving.md).",
    ),
}
PHASES: dict[str, dict[str, str]] = {
    "TrainingJob": {
        "Pending":
        "its store is tried out, its inputs are fetched, or pods are missing, have no node, or wait for "
        "somebody",
        "Queued":
        "it waits for quota in a queue of Kueue (docs/kueue.md)'s; it has no pod that trains",
        "Starting":
        "every pod has a node; not all run",
        "Running":
        "every pod runs",
        "Restarting":
        "pods of the last attempt end, or the next one waits for its time",
        "Suspending":
        "pods end because `spec.suspend` is true, or because the job has lost its quota",
        "Suspended":
        "no pod is left, on request",
        "Terminating":
        "it is being deleted, its pods end, and a finalizer of somebody else holds it",
        "Publishing":
        "training has ended well; its output is copied, or waits for somebody",
        "Succeeded":
        "the end, well",
        "Failed":
        "the end, badly",
    },
    "InferencePool": {
        "Waiting":
        "there is no version to serve",
        "Starting":
        "the first pods come up",
        "Serving":
        "all pods that are wanted answer",
        "Scaling":
        "more pods are wanted than there are; those that were there answer",
        "RollingOut":
        "another version comes up beside the one that is served",
        "Degraded":
        "pods are missing, or a new version was taken back and the old one serves",
        "Failed":
        "the only version there is does not load",
        "ScaledToZero":
        "no pod, on purpose",
        "Rejected":
        "the API server refuses an object that the pool needs",
    },
}
# fmt: on
# ---- end of what is generated


if __name__ == "__main__":
    sys.exit(complete() if os.path.basename(sys.argv[0]).startswith("kubectl_complete") else main())
