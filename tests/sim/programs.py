"""What the containers do: fetch, probe, train, publish, verify, serve.

The world decides by changing the fields here: which artifacts are sound, which models load, which stores answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from aifactory.api import names
from tests.sim.cluster import Body, labels_of


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


class Programs:
    """Behaviour of everything that runs in pods."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._served: dict[str, str] = {}
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

    def mounted(self, pod: Body, desired: str) -> None:
        """A serving pod sees its desired state."""
        self._served[pod["metadata"]["uid"]] = json.loads(desired)["models"][0]["uri"]

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
            case names.ROLE_PUBLISH:
                end(self._task_seconds(), self._publish(arguments))
            case names.ROLE_VERIFY:
                end(self._task_seconds(), self._verify(arguments))

    def ready_after(self, pod: Body) -> float | None:
        """Seconds until a serving pod has its model loaded; None when it never does or does not serve."""
        if labels_of(pod).get(names.LABEL_ROLE) != names.ROLE_SERVE or self.load_error(pod):
            return None
        return self._rng.uniform(0.2, 4.0)

    def load_error(self, pod: Body) -> str:
        """The agent's words about a model that does not load."""
        lies = "stranger/broken" in pod["metadata"].get("annotations", {})
        broken = lies or self._served.get(pod["metadata"]["uid"]) in self.unloadable
        return "LoadFailed: the model has no such layer" if broken else ""

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
        return Exit(0, "Completed", json.dumps({"uri": uri, "digest": DIGEST, "files": 2, "sizeBytes": 1000}))


def _failed(reason: str, message: str) -> Exit:
    return Exit(1, "Error", json.dumps({"reason": reason, "message": message}))
