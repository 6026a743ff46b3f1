"""A pod that has room for two of its three models, with a real Triton, agent and OpenAI port: clients of all of them
are answered, and those of a model that stays are not disturbed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import AgentProcess, TritonProcess, http, wait_for
from pod import Pod

TEXT_BACKEND = Path(__file__).parents[1] / "testing" / "text_backend.py"
MODELS = ("bert", "gpt", "t5")
SLOW = 120
"""Seconds for anything on a busy machine."""


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonProcess]:
    process = TritonProcess(tmp_path, light=True, light_backend=TEXT_BACKEND)
    yield process
    process.kill()


@pytest.fixture
def door(triton: TritonProcess) -> Iterator[Pod]:
    triton.repository.mkdir()
    pod = Pod(triton.repository)
    pod.triton.port = triton.grpc_port
    triton.start()
    yield pod
    pod.end()


def want(agent: AgentProcess, *models: dict[str, Any], revision: str = "r", hold: int = SLOW, held: int = 50) -> None:
    """All of a byte, and room for two."""
    given = {"memoryBytes": 2, "holdSeconds": hold, "maxHeldRequests": held}
    each = [model | {"memoryBytes": 1} for model in models]
    agent.write(json.dumps({"pool": "chat", "revision": revision, "models": each, "onDemand": given}))


def ask(door: Pod, model: str, prompt: str = "a", tokens: int = 3) -> tuple[int, dict[str, Any]]:
    """One request; slow machines have time."""
    status, text = http(f"{door.url}/v1/completions", {"model": model, "prompt": prompt, "max_tokens": tokens}, SLOW)
    return status, json.loads(text)


def resident(agent: AgentProcess) -> set[str]:
    return {model["name"] for model in agent.status()["models"] if model["state"] == "Ready"}


def loads(agent: AgentProcess, name: str) -> int:
    return int(agent.model(name, 1).get("loads", 0))


@pytest.mark.timeout(600)
def test_what_is_asked_for_is_loaded_and_the_least_recently_used_goes(
    triton: TritonProcess, agent: AgentProcess, door: Pod, published: Callable[..., dict[str, Any]]
) -> None:
    versions = [published(name, 1, loadSeconds=0.5) for name in MODELS]
    want(agent, *versions)
    agent.start()
    status = agent.wait_ready(seconds=SLOW)
    assert sorted(model["state"] for model in status["models"]) == ["Ready", "Ready", "Standby"]
    assert status["answers"] == dict.fromkeys(MODELS, 1)
    assert [loads(agent, name) for name in MODELS] == [1, 1, 1], "each has answered once"
    door.start("--on-demand")
    assert set(MODELS) <= set(door.listed()), "those at rest too"

    for name in ("bert", "gpt", "t5", "gpt"):  # so bert is the one that nobody has asked for longest
        status_code, answer = ask(door, name)
        assert (status_code, answer.get("model")) == (200, f"{name}@1"), answer
    assert resident(agent) == {"gpt", "t5"}
    before = {name: loads(agent, name) for name in MODELS}

    # A request under way keeps its model, though nobody has asked for it longer than for the other.
    assert ask(door, "t5")[0] == 200
    long = threading.Thread(target=lambda: done.append(ask(door, "gpt", "slow 0.05", 100)))
    done: list[tuple[int, dict[str, Any]]] = []
    long.start()
    wait_for("it is under way", lambda: "aifactory_agent_admitted_requests 1.0" in agent.get("/metrics")[1], SLOW)
    assert ask(door, "t5")[0] == 200
    assert ask(door, "bert")[1]["model"] == "bert@1"
    assert resident(agent) == {"bert", "gpt"}
    long.join(SLOW)
    assert done[0][0] == 200
    assert done[0][1]["usage"]["completion_tokens"] == 100
    assert loads(agent, "gpt") == before["gpt"], "it was left alone"
    assert agent.status()["ready"]

    # Restarted, neither loads anything by itself, and both go on.
    agent.kill()
    agent.start()
    agent.wait_ready(seconds=SLOW)
    assert ask(door, "t5")[0] == 200
    triton.kill()
    triton.start()
    agent.wait_ready(seconds=SLOW)
    wait_for("nothing is loaded", lambda: resident(agent) == set(), SLOW, agent.tail)
    assert ask(door, "bert")[0] == 200
    assert resident(agent) == {"bert"}


@pytest.mark.timeout(600)
def test_clients_of_more_models_than_fit_are_all_answered_and_so_they_are_through_a_swap(
    triton: TritonProcess, agent: AgentProcess, door: Pod, published: Callable[..., dict[str, Any]]
) -> None:
    versions = [published(name, 1, loadSeconds=0.2) for name in MODELS]
    second = published("gpt", 2, loadSeconds=0.2)
    want(agent, *versions, hold=60)
    agent.start()
    agent.wait_ready(seconds=SLOW)
    door.start("--on-demand")
    stop, answers, failed = threading.Event(), [], []

    def client(name: str) -> None:
        while not stop.is_set():
            code, answer = ask(door, name)
            (answers if code == 200 else failed).append((name, answer.get("model", answer)))

    clients = [threading.Thread(target=client, args=(name,)) for name in MODELS for _ in range(2)]
    for each in clients:
        each.start()

    def have(*wanted: str) -> None:
        seen = len(answers)
        wait_for(
            f"{wanted} were answered",
            lambda: set(wanted) <= {model for _, model in answers[seen:]},
            SLOW,
            lambda: f"{answers[seen:][:20]} {failed[:3]}\n{agent.tail()}",
        )

    try:
        have("bert@1", "gpt@1", "t5@1")
        bert, gpt, t5 = versions
        want(agent, bert, second, t5, gpt | {"traffic": "warm"}, revision="swap", hold=60)
        agent.wait_ready("swap", SLOW)
        have("bert@1", "gpt@2", "t5@1")
    finally:
        stop.set()
        for each in clients:
            each.join(SLOW)
    assert failed == []
    assert "gpt@1" not in {model for _, model in answers[-3:]}
    print(f"{len(answers)} answers, none failed; bert was loaded {loads(agent, 'bert')} times")


@pytest.mark.timeout(300)
def test_whoever_can_not_be_served_is_told_why_with_numbers(
    agent: AgentProcess, door: Pod, published: Callable[..., dict[str, Any]]
) -> None:
    versions = [published(name, 1) for name in MODELS]
    want(agent, *versions, hold=2, held=1)
    agent.start()
    agent.wait_ready(seconds=SLOW)
    door.start("--on-demand")
    names = sorted(resident(agent))
    (resting,) = set(MODELS) - set(names)
    busy = [threading.Thread(target=ask, args=(door, name, "slow 0.1", 60)) for name in names]
    for each in busy:
        each.start()
    code, answer = ask(door, resting)
    assert (code, answer["error"]["code"]) == (503, "model_not_loaded")
    assert "was not loaded within the 2 s of loading.holdSeconds" in answer["error"]["message"]
    for each in busy:
        each.join(SLOW)
    assert ask(door, "nothing")[0] == 404
    want(agent, *versions)
    wait_for("with more time it is answered", lambda: ask(door, resting)[0] == 200, SLOW, agent.tail)
