"""Short words for versions and their verifiers, and a tiny world in which decisions come true."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifactory.api import numbers
from aifactory.api.conditions import find
from aifactory.api.modelversion import ModelVersion, ModelVersionStatus, Use
from aifactory.api.reasons import ConditionType
from aifactory.engine.plan import Delete, Patch, Plan
from aifactory.engine.tasks import TaskPod
from aifactory.models.plan import plan_model_version
from aifactory.models.state import Counter, Observed, Settings
from tests.unit.plans import bodies

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(agent_image="aifactory/agent:1", server_image="aifactory/server:1")
COUNTER = Counter("aifactory-tiny-versions", "1", 1)
DIGEST = f"sha256:{'a' * 64}"
GOOD = {"uri": "pvc://models/tiny/1", "digest": DIGEST, "files": 2, "sizeBytes": 1_400_000, "format": "huggingface"}
TRIED = {"loadSeconds": 1.2345, "memoryBytes": 300 * 1024 * 1024, "firstTokenSeconds": 0.0123, "requests": 2}
WRONG = {
    **GOOD,
    "reason": "ValidationFailed",
    "message": "request 0: output y has 3 of 3 values that are no numbers (NaN)",
}


def version(*, uri: str = "pvc://models/tiny/1", status: dict[str, Any] | None = None, **changes: Any) -> ModelVersion:
    """ModelVersion tiny-v1; keywords are fields of its spec, written as in YAML."""
    metadata: dict[str, Any] = {"name": "tiny-v1", "namespace": "ns", "uid": "mv-uid", "generation": 1}
    if changes.pop("deleting", False):
        metadata |= {"deletionTimestamp": NOW, "finalizers": changes.pop("finalizers", ("team/hold",))}
    source = {"uri": uri, **changes.pop("source", {})}
    spec = {"model": "tiny", "version": 1, "source": source, "format": "huggingface", **changes}
    return ModelVersion.model_validate({"metadata": metadata, "spec": spec, "status": status or {}})


def conditions(status: ModelVersionStatus) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {found.type: (found.status, found.reason) for found in status.conditions}


def message(status: ModelVersionStatus, type_: ConditionType = ConditionType.READY) -> str:
    """A condition's message."""
    found = find(status.conditions, type_)
    assert found is not None, f"no condition {type_}"
    return found.message


@dataclass
class World:
    """A version, its verifiers and its users."""

    version: ModelVersion
    now: datetime = NOW
    verifiers: dict[str, TaskPod] = field(default_factory=dict)
    users: tuple[Use, ...] = ()
    counter: Counter | None = COUNTER
    settings: Settings = SETTINGS
    made: list[str] = field(default_factory=list)

    @property
    def status(self) -> ModelVersionStatus:
        return self.version.status

    def observed(self) -> Observed:
        return Observed(self.version, self.settings, tuple(self.verifiers.values()), self.counter, self.users)

    def step(self) -> Plan[ModelVersionStatus]:
        """Decide once and let it come true. The status takes the way through JSON, as in the API server."""
        decision = plan_model_version(self.observed(), self.now)
        assert decision is not None
        for body in bodies(decision):
            name = body["metadata"]["name"]
            if body["kind"] == "ConfigMap":
                self.counter = Counter(name, "1", int(body["metadata"]["annotations"][numbers.ANNOTATION]))
                continue
            assert name not in self.verifiers
            self.made.append(name)
            self.verifiers[name] = TaskPod(name, f"{name}-uid", int(name.rpartition("-")[2]))
        for noted in (write for write in decision.writes if isinstance(write, Patch)):
            assert self.counter is not None
            meta = noted.body["metadata"]
            assert (noted.kind, noted.name, meta["resourceVersion"]) == (
                "ConfigMap",
                self.counter.name,
                self.counter.resource_version,
            )
            self.counter = Counter(noted.name, "2", int(meta["annotations"][numbers.ANNOTATION]))
        for gone in (write for write in decision.writes if isinstance(write, Delete)):
            assert self.verifiers.pop(gone.name).uid == gone.uid
        written = ModelVersionStatus.model_validate(decision.status.dump())
        assert written == decision.status, "what is written is what comes back"
        self.version = self.version.model_copy(update={"status": written})
        return decision

    def settle(self) -> Plan[ModelVersionStatus]:
        """Decide until nothing is left to do now; returns the last decision, which changed nothing."""
        for _ in range(20):
            before = self.observed()
            decision = self.step()
            if not decision.writes and self.observed() == before:
                assert decision.requeue_after != 0, "it asks to be called at once and changes nothing"
                return decision
        raise AssertionError("no end after 20 steps")

    def verifier(self, **changes: Any) -> None:
        """Something happens to the only verifier."""
        (name,) = self.verifiers
        self.verifiers[name] = replace(self.verifiers[name], **changes)

    def answer(self, answer: Any, exit_code: int | None = 0, **changes: Any) -> None:
        """The verifier ends."""
        message_ = answer if isinstance(answer, str) else json.dumps(answer)
        ended = {"ended": True, "exit_code": exit_code, "message": message_}
        self.verifier(**{"finished_at": self.now, **ended, **changes})

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
