"""Pods that change over to another version, with the real operator and API server; kubelets and agents are played."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from aifactory.api import names
from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.component.test_operator import make_ready
from tests.support.kubectl import Kubectl, condition
from tests.support.waiting import wait_for

Json = dict[str, Any]
SELECTOR = "aifactory.dev/pool-name=chat"


class Agent:
    """What an agent says at `address`, set by the test."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.page: Json = {}
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(agent.page).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer((address, names.AGENT_PORT), Handler)

    def serves(self, revision: str, version: int, seconds: float | None = None) -> None:
        model = {"name": "m", "version": version, "state": "Ready", "traffic": "live", "loadSeconds": seconds}
        self.page = {"revision": revision, "ready": True, "models": [model], "answers": {"m": version}}

    def fails(self, revision: str, version: int, answers: int, words: str) -> None:
        failed = {"name": "m", "version": version, "state": "Failed", "reason": "LoadFailed", "message": words}
        self.page = {"revision": revision, "ready": False, "models": [failed], "answers": {"m": answers}}

    def serves_all(self, revision: str, **versions: int) -> None:
        """It serves several models."""
        models = [{"name": name, "version": number, "state": "Ready"} for name, number in versions.items()]
        self.page = {"revision": revision, "ready": True, "models": models, "answers": versions}

    def fails_one(self, revision: str, model: str, words: str, **answers: int) -> None:
        """One of several models does not load; the version before it answers."""
        models: list[Json] = [{"name": name, "state": "Ready"} for name in answers if name != model]
        models.append({"name": model, "state": "Failed", "reason": "LoadFailed", "message": words})
        self.page = {"revision": revision, "ready": False, "models": models, "answers": answers}


@contextmanager
def agents(*addresses: str) -> Iterator[list[Agent]]:
    found = [Agent(address) for address in addresses]
    for agent in found:
        Thread(target=agent.server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        for agent in found:
            agent.server.shutdown()
            agent.server.server_close()


@pytest.fixture(scope="module")
def operator(start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()
    assert "Traceback" not in process.log.read_text(), process.words()


def told(ns: Kubectl) -> tuple[str, dict[int, str]]:
    """What the pool's pods are told to serve: the revision, and the versions with their traffic."""
    (config,) = ns.list("configmaps", SELECTOR)
    desired = json.loads(config["data"]["desired.json"])
    assert config["metadata"]["annotations"][names.LABEL_ASSIGNMENT] == desired["revision"]
    return desired["revision"], {model["version"]: model.get("traffic", "live") for model in desired["models"]}


def wait_told(ns: Kubectl, versions: dict[int, str]) -> str:
    """Wait until the pods are told to serve these and have been brought it; returns the revision."""
    revision, _ = wait_for(f"the ConfigMap to name {versions}", lambda: told(ns), lambda seen: seen[1] == versions)
    wait_for(
        "the pods to be labelled",
        lambda: {pod["metadata"]["labels"].get(names.LABEL_ASSIGNMENT) for pod in ns.list("pods", SELECTOR)},
        lambda seen: seen == {revision},
    )
    return revision


def test_pods_change_over_and_back_and_a_version_that_does_not_load_is_taken_back(
    ns: Kubectl, operator: Operator
) -> None:
    ns.apply(objects.pool("chat", "m", replicas=2))
    make_ready(ns, 1)
    found = wait_for("two pods", lambda: ns.list("pods", SELECTOR), lambda seen: len(seen) == 2)
    uids = {pod["metadata"]["uid"] for pod in found}
    with agents("127.0.0.81", "127.0.0.82") as (one, other):
        for pod, agent in zip(found, (one, other), strict=True):
            pods.serve(ns, pod["metadata"]["name"], agent.address)
        pool = ns.wait_condition("ipool", "chat", "Ready")
        first = pool["status"]["stable"]["revision"]
        one.serves(first, 1)
        other.serves(first, 1)

        make_ready(ns, 2)
        second = wait_told(ns, {2: "live", 1: "warm"})
        one.serves(second, 2, 1.5)

        def seen_of_one(seen: Json) -> bool:
            return [pod.get("version") for pod in seen["status"]["rollout"].get("pods", ())] in ([1, 2], [2, 1])

        pool = ns.wait("ipool", "chat", "to tell of the first pod", seen_of_one)
        change = pool["status"]["rollout"]
        assert (change["phase"], change["strategy"]) == ("Progressing", "HotSwap")
        assert change["strategyReason"] == "only the version differs, and the pods have room for both"
        assert {pod["version"]: pod.get("loadSeconds") for pod in change["pods"]} == {1: None, 2: "1.5"}
        assert condition(pool, "Available")["status"] == "True"
        assert pool["status"]["version"] == "1"
        other.serves(second, 2, 2.5)
        pool = ns.wait("ipool", "chat", "to serve version 2", lambda seen: seen["status"]["version"] == "2")
        assert pool["status"]["rollout"]["loadSeconds"] == "2.5"
        assert pool["status"]["previous"]["modelVersion"] == "m-v1"

        make_ready(ns, 3)
        third = wait_told(ns, {3: "live", 2: "warm"})
        one.fails(third, 3, 2, "no such layer")
        pool = ns.wait_condition("ipool", "chat", "Degraded")
        assert condition(pool, "Degraded")["reason"] == "ModelLoadFailed"
        assert (
            "m-v3 was taken back, it does not load: LoadFailed: no such layer" in condition(pool, "Degraded")["message"]
        )
        assert wait_told(ns, {2: "live", 1: "warm"}) == second
        one.serves(second, 2)

        ns.run("patch", "ipool", "chat", "--type=merge", "-p", '{"spec": {"models": [{"name": "m", "version": 1}]}}')
        assert wait_told(ns, {1: "live", 2: "warm"}) == first
        one.serves(first, 1)
        other.serves(first, 1)
        pool = ns.wait("ipool", "chat", "to serve version 1", lambda seen: seen["status"]["version"] == "1")
        assert "deployment" not in pool["status"]["stable"]
    assert {pod["metadata"]["uid"] for pod in ns.list("pods", SELECTOR)} == uids
    assert len(ns.list("deployments", SELECTOR)) == 1


def wait_told_of(ns: Kubectl, *models: tuple[str, int, str]) -> str:
    """Wait until pods are told to serve these models and have been brought it; returns the revision."""

    def seen() -> tuple[str, set[tuple[str, int, str]], set[str]]:
        (config,) = ns.list("configmaps", SELECTOR)
        desired = json.loads(config["data"]["desired.json"])
        wanted = {(model["name"], model["version"], model.get("traffic", "live")) for model in desired["models"]}
        labels = {pod["metadata"]["labels"].get(names.LABEL_ASSIGNMENT, "") for pod in ns.list("pods", SELECTOR)}
        return desired["revision"], wanted, labels

    revision, _, _ = wait_for(
        f"pods to be told of {models}", seen, lambda found: found[1] == set(models) and found[2] == {found[0]}
    )
    return revision


def test_of_two_models_one_changes_or_fails_and_the_other_stays_as_it_is(ns: Kubectl, operator: Operator) -> None:
    pool = objects.pool("chat", "m", replicas=1)
    pool["spec"]["models"] = [{"name": "m", "track": "Latest"}, {"name": "n", "track": "Latest"}]
    ns.apply(pool)
    make_ready(ns, 1)
    (pod,) = wait_for("a pod", lambda: ns.list("pods", SELECTOR), lambda seen: len(seen) == 1)
    with agents("127.0.0.83") as (agent,):
        pods.serve(ns, pod["metadata"]["name"], agent.address)
        found = ns.wait(
            "ipool", "chat", "to serve the first", lambda seen: seen.get("status", {}).get("version") == "m@1"
        )
        assert {each["name"]: each["state"] for each in found["status"]["models"]} == {"m": "Serving", "n": "Waiting"}
        assert condition(found, "Available")["status"] == "True"

        make_ready(ns, 1, "n")
        both = wait_told_of(ns, ("m", 1, "live"), ("n", 1, "live"))
        agent.serves_all(both, m=1, n=1)
        found = ns.wait_condition("ipool", "chat", "Ready")
        assert found["status"]["version"] == "m@1, n@1"
        assert "m-v1 + n-v1 is loaded on 1 of 1 pods" in condition(found, "Ready")["message"]

        make_ready(ns, 2)
        broken = wait_told_of(ns, ("m", 2, "live"), ("n", 1, "live"), ("m", 1, "warm"))
        agent.fails_one(broken, "m", "no such layer", m=1, n=1)
        assert wait_told_of(ns, ("m", 1, "live"), ("n", 1, "live")) == both
        agent.serves_all(both, m=1, n=1)
        make_ready(ns, 2, "n")
        second = wait_told_of(ns, ("m", 1, "live"), ("n", 2, "live"), ("n", 1, "warm"))
        agent.serves_all(second, m=1, n=2)
        found = ns.wait("ipool", "chat", "to serve n 2", lambda seen: seen["status"]["version"] == "m@1, n@2")
        found = ns.wait_condition("ipool", "chat", "Stalled")
        states = {each["name"]: (each["state"], each["version"]) for each in found["status"]["models"]}
        assert states == {"m": ("Failed", 1), "n": ("Serving", 2)}
        assert "model m: m-v2 was taken back, it does not load" in condition(found, "Stalled")["message"]
    assert [each["metadata"]["uid"] for each in ns.list("pods", SELECTOR)] == [pod["metadata"]["uid"]]


@pytest.mark.parametrize("strategy", ["BlueGreen", "hotswap", ""])
def test_a_strategy_that_does_not_exist_is_refused(ns: Kubectl, strategy: str) -> None:
    refused = ns.run(
        "apply", "-f", "-", stdin=json.dumps(objects.pool("chat", "m", rollout={"strategy": strategy})), check=False
    )
    assert refused.code != 0
    assert "spec.rollout.strategy" in refused.err
    assert '"Auto", "Canary", "HotSwap", "Shadow", "Surge"' in refused.err
