"""Prometheus metrics of the agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from aifactory_agent import __version__
from aifactory_agent.serve.status import State, Status
from aifactory_contract.desired import ModelKey
from aifactory_contract.errors import Reason

_MODEL = ["model", "version"]


class Metrics:
    """One agent's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._ready = self._gauge("aifactory_agent_ready", "1 if every desired model version answers")
        self._states = self._gauge("aifactory_agent_model_state", "1 for the state a version is in", [*_MODEL, "state"])
        self._fetch = self._gauge("aifactory_agent_fetch_seconds", "Duration of the last fetch and check", _MODEL)
        self._load = self._gauge("aifactory_agent_load_seconds", "Duration of the last load in Triton", _MODEL)
        self._held = self._gauge("aifactory_agent_held_requests", "Requests that wait for their model to be loaded")
        self._admitted = self._gauge("aifactory_agent_admitted_requests", "Requests under way, with models on demand")
        self._loads = Counter("aifactory_agent_loads", "Loads of a version in Triton", _MODEL, registry=self._registry)
        self._failures = Counter(
            "aifactory_agent_failures", "Failed attempts", [*_MODEL, "reason"], registry=self._registry
        )
        self._gauge("aifactory_agent_info", "Release of the agent", ["release"]).labels(__version__).set(1)

    def observe(self, status: Status, held: int = 0, admitted: int = 0) -> None:
        """Take up a round's result, and how many requests wait for their model or are under way."""
        self._held.set(held)
        self._admitted.set(admitted)
        self._ready.set(status.ready)
        self._states.clear()
        for model in status.models:
            for state in State:
                self._states.labels(*_labels(model.key), str(state)).set(model.state is state)

    def fetched(self, key: ModelKey, seconds: float) -> None:
        """A version was fetched and checked."""
        self._fetch.labels(*_labels(key)).set(seconds)

    def loaded(self, key: ModelKey, seconds: float) -> None:
        """A version was loaded."""
        self._load.labels(*_labels(key)).set(seconds)
        self._loads.labels(*_labels(key)).inc()

    def failed(self, key: ModelKey, reason: Reason) -> None:
        """An attempt failed."""
        self._failures.labels(*_labels(key), str(reason)).inc()

    def render(self) -> bytes:
        """Text exposition."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, text, labels or [], registry=self._registry)


def _labels(key: ModelKey) -> tuple[str, str]:
    return key.name, str(key.version)
