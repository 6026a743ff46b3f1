"""A pretrained chat model as its users meet it: examples/chat-model.yaml, asked with the `openai` package."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import openai
import pytest

from tests.cluster.conftest import namespace
from tests.support.kubectl import ROOT, Kubectl, command, condition
from tests.support.waiting import wait_for

MODEL, VERSION = "smollm2", "smollm2@1"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
METRICS_PORT = 8002


@pytest.fixture(scope="module")
def pool(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[Kubectl]:
    """A namespace in which the example serves."""
    for within in namespace(cluster, f"chat-model-{os.getpid()}", leaving):
        command([sys.executable, "-m", "demo.pretrained", "chat-model", "--namespace", str(within.namespace)])
        within.apply((ROOT / "examples/chat-model.yaml").read_text())
        within.wait_condition("mver", "smollm2-v1", "Ready", seconds=60)
        within.wait_condition("ipool", "smollm2", "Ready", seconds=180)
        yield within


@pytest.fixture
def base_url(pool: Kubectl) -> str:
    """`status.url`, with the Service's address: its name is known inside the cluster only."""
    url = pool.get("ipool", "smollm2")["status"]["url"]
    assert url == f"http://smollm2.{pool.namespace}.svc:9000/v1"
    return str(url).replace(f"smollm2.{pool.namespace}.svc", pool.get("service", "smollm2")["spec"]["clusterIP"])


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    """As a user makes it, but for tries of its own that would hide a failure."""
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_it_answers_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=60)
    assert "Paris" in str(whole.choices[0].message.content)
    assert (whole.model, whole.choices[0].finish_reason) == (VERSION, "stop")
    assert whole.usage is not None

    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model=VERSION,
        messages=QUESTION,
        temperature=0,
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(pieces) == whole.choices[0].message.content, "the likeliest words are the same however they come"
    assert len(pieces) > 3
    assert usage == whole.usage
    assert [card.id for card in client.models.list()] == [MODEL, VERSION]


def test_mistakes_are_told_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    assert "The model 'gpt-5' does not exist; this pod serves smollm2@1" in str(missing.value)
    assert missing.value.code == "model_not_found"
    long = [{"role": "user", "content": "Paris " * 9000}]
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=MODEL, messages=long)
    assert re.search(r"maximum context length is 8192 tokens; the messages has \d+. Shorten it", str(too_long.value))
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")


def test_a_client_that_goes_away_is_computed_for_no_longer(pool: Kubectl, client: openai.OpenAI) -> None:
    story = [{"role": "user", "content": "Tell me a long story about a fox."}]
    stream = client.chat.completions.create(model=MODEL, messages=story, max_tokens=4000, stream=True)
    for _, chunk in zip(range(5), stream, strict=False):
        assert chunk.choices
    wait_for("it to be computed", lambda: running(pool), lambda found: found == 1, seconds=5)
    stream.close()
    wait_for("nothing to be computed", lambda: running(pool), lambda found: found == 0, seconds=5)


def test_a_deleted_pod_loses_no_request(pool: Kubectl, base_url: str) -> None:
    """Without any retry, by clients that keep their connections: it has left the Service long before it ends."""
    before = {pod["metadata"]["name"] for pod in pods(pool)}
    assert len(before) == 2
    traffic = Traffic(base_url)
    wait_for("answers", lambda: traffic.answered, lambda found: found >= 4, seconds=30)
    victim = min(before)
    pool.run("delete", "pod", victim, "--wait=false")
    pool.wait("ipool", "smollm2", "to be without the pod", lambda _: victim not in names(pool), seconds=90)
    reached = traffic.answered
    wait_for("answers after it", lambda: traffic.answered, lambda found: found >= reached + 4, seconds=30)
    traffic.stop()
    assert traffic.failures == []


def test_a_pod_without_room_for_it_is_told_and_not_made(pool: Kubectl) -> None:
    example = (ROOT / "examples/chat-model.yaml").read_text().split("\n---\n")[1]
    small = re.sub(r"memory: 2Gi", "memory: 200Mi", example).replace("name: smollm2\nspec", "name: small\nspec")
    pool.apply(small)
    told = condition(pool.wait_condition("ipool", "small", "Stalled", seconds=30), "Stalled")
    assert told["reason"] == "ModelTooLarge"
    assert "resources.limits.memory of container triton in spec.template is 200Mi; raise it" in told["message"]
    assert pool.list("deployments", "aifactory.dev/pool-name=small") == []
    pool.run("delete", "ipool", "small")


@dataclass
class Traffic:
    """Clients that ask again and again until `stop`."""

    base_url: str
    clients: int = 3
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No request is cut off by the end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self) -> None:
        with openai.OpenAI(base_url=self.base_url, api_key="none", max_retries=0, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, temperature=0)
                    assert answer.choices[0].message.content
                    self.answered += 1
                except Exception as error:
                    self.failures.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")


def pods(pool: Kubectl) -> list[dict[str, object]]:
    """The pods of the example's pool."""
    return pool.list("pods", "aifactory.dev/pool-name=smollm2")


def names(pool: Kubectl) -> set[str]:
    """Their names."""
    return {str(pod["metadata"]["name"]) for pod in pods(pool)}  # type: ignore[index]


def running(pool: Kubectl) -> float:
    """Sequences that are being computed, in all pods."""
    total = 0.0
    for pod in pods(pool):
        address = pod["status"]["podIP"]  # type: ignore[index]
        with urllib.request.urlopen(f"http://{address}:{METRICS_PORT}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("aifactory_requests_running{"))
    return total
