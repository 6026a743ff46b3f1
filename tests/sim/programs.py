"""What the containers do: fetch, probe, train, publish, verify, serve.

The world decides by changing the fields here: which artifacts are sound, which models load, which stores answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from aifactory.api import names
from aifactory.api.inferencepool import Measured
from aifactory.kube.resources import Key
from aifactory.serving.measure import Measurement
from aifactory.serving.state import Report
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready, labels_of


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ends."""

    code: int
    reason: str = ""
    message: str = ""
    side_container_runs: bool = False
    """Another container of the pod goes on, so the pod stays Running."""


SUCCESS = Exit(0, "Completed")
DIGEST = "sha256:" + "0" * 64
DATA = "s3://data/"
"""Where inputs come from that are no models."""


def digest_of(uri: str) -> str:
    """What is found at a URI."""
    return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}" if uri.startswith(DATA) else DIGEST


@dataclass
class Agent:
    """What a serving pod's agent has read, and what its Triton answers from."""

    desired: Body
    models: dict[str, Body] = field(default_factory=dict)
    """What each model is answered from."""
    failed: dict[str, str] = field(default_factory=dict)
    """Models that can not be served as they were told, and why."""
    turn: int = 0
    """How often it was told something else."""
    seconds: float | None = None
    """Of the load that the wish in force has cost."""
    used: list[str] = field(default_factory=list)
    """Models that were asked for, the last one last."""

    @property
    def resident(self) -> list[str]:
        """Models that are loaded: on demand those that were used last, as far as there is room."""
        found = sorted(self.models)
        if (given := self.desired.get("onDemand")) is None:
            return found
        room, kept = given["memoryBytes"], []
        for name in sorted(found, key=lambda each: self.used.index(each) if each in self.used else -1, reverse=True):
            taken = self.models[name]["memoryBytes"]
            if taken <= room:
                room -= taken
                kept.append(name)
        return sorted(kept)

    @property
    def wishes(self) -> list[Body]:
        """What is to take traffic."""
        return [model for model in self.desired["models"] if model.get("traffic") != "warm"]

    @property
    def error(self) -> str:
        """Why it can not serve what it was told."""
        return "; ".join(self.failed.values())

    @property
    def is_there(self) -> bool:
        """It answers from all that it was told."""
        return all(self.models.get(wish["name"], {}).get("uri") == wish["uri"] for wish in self.wishes)


class Programs:
    """Behaviour of everything that runs in pods."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.agents: dict[str, Agent] = {}
        """Of serving pods, by UID."""
        self.bad_artifacts: dict[str, str] = {}
        """URI -> reason with which its check fails for good, or as an input can not be had."""
        self.large = 0.0
        """Share of artifacts that take long, so that there is time for something to happen to the pod."""
        self.store_away = False
        """The model store does not answer."""
        self.keys_refused = False
        """Object stores refuse the credentials that jobs have."""
        self.unloadable: set[str] = set()
        """URIs of models that Triton does not load."""
        self.faulty: set[str] = set()
        """URIs of models that load, and answer each request with an error."""
        self.wrong_models: set[str] = set()
        """URIs of models that answer wrongly when they are tried."""
        self.large_models: set[str] = set()
        """URIs of models that Triton does not load beside another one."""
        self.demand: dict[Key, int] = {}
        """Requests that each pool has at any moment, in all of its pods that answer together."""
        self.asked: dict[Key, float] = {}
        """When the last of the requests of each pool has come or gone."""
        self.answered: Counter[Key] = Counter()
        """Requests of each pool that have come so far: each of its pods counts them all."""
        self.mute: dict[str, float] = {}
        """UIDs of pods whose metrics nobody can read, and since when."""

    def ask(self, pool: Key, requests: int, now: float) -> None:
        """A pool has so many requests from now on."""
        if self.demand.get(pool, 0) or requests:
            self.asked[pool] = now
        self.answered[pool] += requests
        self.demand[pool] = requests

    def use(self, pod: Body, model: str) -> None:
        """A client asks a pod for a model, which is loaded for that."""
        agent = self.agents[pod["metadata"]["uid"]]
        agent.used = [*(each for each in agent.used if each != model), model]

    def counted(self, window: Measurement, candidate: Collection[Body], stable: Collection[Body]) -> Measurement:
        """A window of an analysis some seconds later: each version has answered, or failed, some requests more."""
        return replace(
            window,
            candidate=self._more(window.candidate, candidate),
            stable=self._more(window.stable, stable),
        )

    def _more(self, before: Measured, pods: Collection[Body]) -> Measured:
        served = [found for pod in pods if is_ready(pod) and (found := self.served(pod)) is not None]
        failed = sum(found["uri"] in self.faulty for found in served)
        update = {"requests": before.requests + 30 * (len(served) - failed), "failures": before.failures + 30 * failed}
        return before.model_copy(update=update)

    def told(self, pod: Body, desired: str) -> tuple[int, float] | None:
        """A serving pod's agent sees what it shall serve; seconds until it has done what it can, None if it knew."""
        wish = json.loads(desired)
        agent = self.agents.setdefault(pod["metadata"]["uid"], Agent({}))
        if agent.desired == wish:
            return None
        agent.desired, agent.failed, agent.seconds = wish, {}, None
        agent.turn += 1
        return agent.turn, self._rng.uniform(*((0.01, 0.2) if agent.is_there else (0.2, 4.0)))

    def loaded(self, pod: Body, turn: int, seconds: float) -> bool:
        """A serving pod's agent is done; returns whether the pod serves what it was told last."""
        agent = self.agents[pod["metadata"]["uid"]]
        if turn != agent.turn:
            return False
        agent.models = {
            wish["name"]: agent.models[wish["name"]] for wish in agent.wishes if wish["name"] in agent.models
        }
        for wish in agent.wishes:
            name, before = wish["name"], agent.models.get(wish["name"])
            beside = before is not None and before["uri"] != wish["uri"]
            if wish["uri"] in self.unloadable:
                agent.failed[name] = "LoadFailed: the model has no such layer"
            elif beside and wish["uri"] in self.large_models:
                agent.failed[name] = "NoRoom: no room in memory: the model needs 3 GiB and 1 GiB are left"
            else:
                agent.seconds = agent.seconds if before == wish else seconds
                agent.models[name] = wish
        return not agent.failed

    def served(self, pod: Body) -> Body | None:
        """The version that a serving pod answers from; of several models the first that it was told."""
        return next(iter(self.answers(pod).values()), None)

    def answers(self, pod: Body) -> dict[str, Body]:
        """The version of each model that a serving pod answers from."""
        agent = self.agents.get(pod["metadata"]["uid"])
        return agent.models if agent is not None else {}

    def report(self, pod: Body) -> Report | None:
        """What the agent of a serving pod says."""
        agent = self.agents.get(pod["metadata"]["uid"])
        if agent is None:
            return None
        served = self.served(pod)
        several = len(agent.wishes) > 1
        numbers = {name: model["version"] for name, model in agent.models.items()}
        return Report(
            revision=agent.desired["revision"],
            ready=agent.is_there and not agent.error,
            version=served["version"] if served is not None else None,
            load_seconds=agent.seconds,
            error=agent.error,
            answers=tuple(sorted(numbers.items())) if several else (),
            failed=tuple(sorted(agent.failed.items())) if several else (),
            resident=tuple(agent.resident) if several else (),
        )

    def started(self, pod: Body, end: Callable[[float, Exit], None]) -> None:
        """A pod's containers run; `end` has the main one end after some seconds."""
        if answer := pod["metadata"].get("annotations", {}).get("stranger/answer"):
            end(0.1, Exit(0, "Completed", answer))
            return
        arguments = pod["spec"]["containers"][0].get("args", [])
        match labels_of(pod).get(names.LABEL_ROLE):
            case names.ROLE_PROBE:
                end(self._task_seconds(), self._probe(arguments))
            case names.ROLE_INPUT:
                end(self._task_seconds(), self._fetch(arguments))
            case names.ROLE_CHECK:
                end(self._task_seconds(), self._check(pod["spec"]["containers"][0]["image"]))
            case names.ROLE_PUBLISH:
                end(self._task_seconds(), self._publish(arguments))
            case names.ROLE_VERIFY:
                end(self._task_seconds(), self._verify(arguments))

    def load_error(self, pod: Body) -> str:
        """The agent's words about a model that does not load."""
        if "stranger/broken" in pod["metadata"].get("annotations", {}):
            return "LoadFailed: the model has no such layer"
        agent = self.agents.get(pod["metadata"]["uid"])
        return agent.error if agent is not None else ""

    def _task_seconds(self) -> float:
        return self._rng.uniform(*((10.0, 60.0) if self._rng.random() < self.large else (0.1, 2.0)))

    def _refusal(self, store: str) -> Exit | None:
        """What a store says to who wants to read or write."""
        if self.store_away:
            return _failed("StoreUnavailable", "the store does not answer")
        if self.keys_refused and store.startswith("s3://"):
            return _failed("AccessDenied", f"{store}: access denied (403)")
        return None

    def _probe(self, arguments: list[str]) -> Exit:
        store = arguments[arguments.index("--store") + 1]
        return self._refusal(store) or Exit(0, "Completed", json.dumps({"uri": store}))

    def _fetch(self, arguments: list[str]) -> Exit:
        spec = json.loads(arguments[arguments.index("--spec") + 1])
        uri, digest = spec["uri"], digest_of(spec["uri"])
        if reason := self.bad_artifacts.get(uri):
            return _failed(reason, f"{uri} is not what it should be")
        if (refusal := self._refusal(uri)) is not None:
            return refusal
        if spec.get("digest", digest) != digest:
            return _failed("DigestMismatch", f"{uri} has digest {digest} and not {spec['digest']}")
        return Exit(0, "Completed", json.dumps({"uri": uri, "digest": digest, "files": 2, "sizeBytes": 1000}))

    def _check(self, image: str) -> Exit:
        if image == manifests.BAD_OPTION:
            return Exit(1, "Error", json.dumps({"message": {"message": "NoRestart: no such layer", "errorCode": 93}}))
        return Exit(0, "Completed") if self._rng.random() < 0.8 else Exit(1, "Error", "KeyError: 'CUDA'")

    def _publish(self, arguments: list[str]) -> Exit:
        store, model = arguments[arguments.index("--store") + 1], arguments[arguments.index("--model") + 1]
        if (refusal := self._refusal(store)) is not None:
            return refusal
        uri = f"{store}/{model}/{self._rng.getrandbits(32):08x}"
        return Exit(0, "Completed", json.dumps({"uri": uri, "digest": DIGEST, "files": 2, "sizeBytes": 1000}))

    def _verify(self, arguments: list[str]) -> Exit:
        uri = arguments[arguments.index("--uri") + 1]
        if reason := self.bad_artifacts.get(uri):
            return _failed(reason, f"{uri} is not what it should be")
        if self.store_away:
            return _failed("StoreUnavailable", "the store does not answer")
        found = {"uri": uri, "digest": DIGEST, "files": 2, "sizeBytes": 1000}
        if uri in self.wrong_models:
            return Exit(1, "Error", json.dumps({**found, "reason": "ValidationFailed", "message": "the answer is NaN"}))
        tried = {"loadSeconds": 1.5, "memoryBytes": 1000, "requests": 1}
        return Exit(0, "Completed", json.dumps({**found, "validation": tried}))


def _failed(reason: str, message: str) -> Exit:
    return Exit(1, "Error", json.dumps({"reason": reason, "message": message}))
