"""`/v1/embeddings`, by the `openai` package: with nothing stood in for, and what the port itself answers for."""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from endpoint import Endpoint
from harness import WORKLOADS, http, wait_for
from pod import Pod, running_pod

sys.path.append(str(WORKLOADS / "server" / "testing"))
sys.path.append(str(WORKLOADS / "server"))

from hf_models import write_encoder, write_llama

TEXTS = ["the quick brown fox", "def main(): return 0123456789", "the"]


def client(pod: Pod, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 60, **options})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, Path]]:
    root = tmp_path_factory.mktemp("serving")
    folder, pod = write_encoder(root / "encoder"), Endpoint(root)
    try:
        pod.open()
        pod.load("tiny-bert", folder)
        pod.load("llama", write_llama(root / "llama"))
        yield pod, folder
    finally:
        pod.close()


def expected(folder: Path, texts: list[str]) -> tuple[list[list[float]], list[list[int]]]:
    """Vectors and tokens, by transformers directly."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(text, truncation=False, padding=False)["input_ids"] for text in texts]
    with torch.inference_mode():
        return [model(torch.tensor([row])).last_hidden_state[0].mean(0).tolist() for row in rows], rows


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_vectors_are_those_of_the_model(served: tuple[Endpoint, Path], encoding: Any) -> None:
    pod, folder = served
    vectors, rows = expected(folder, TEXTS)
    more = {} if encoding is None else {"encoding_format": encoding}
    for given in (TEXTS, rows):
        answer = client(pod).embeddings.create(model="tiny-bert", input=given, **more)
        assert (answer.object, answer.model) == ("list", "tiny-bert@1")
        assert [one.index for one in answer.data] == [0, 1, 2]
        found = [decoded(one.embedding) for one in answer.data]
        for one, vector in zip(found, vectors, strict=True):
            assert one == pytest.approx(vector, rel=1e-4, abs=1e-5)
        count = sum(map(len, rows))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)
    for single in (TEXTS[0], rows[0]):
        (one,) = client(pod).embeddings.create(model="tiny-bert@1", input=single, **more).data
        assert decoded(one.embedding) == pytest.approx(vectors[0], rel=1e-4, abs=1e-5)


def decoded(embedding: Any) -> list[float]:
    """The package decodes base64 itself, unless it was asked for."""
    if not isinstance(embedding, str):
        return list(embedding)
    raw = base64.b64decode(embedding)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def test_many_texts_keep_their_order(served: tuple[Endpoint, Path]) -> None:
    pod, folder = served
    texts = [f"{'the quick ' * (number % 9)}{number}" for number in range(300)]
    vectors, _ = expected(folder, texts)
    answer = client(pod).embeddings.create(model="tiny-bert", input=texts)
    for one, vector in zip(answer.data, vectors, strict=True):
        assert one.embedding == pytest.approx(vector, rel=1e-4, abs=1e-5)


def test_a_text_that_is_too_long_is_named(served: tuple[Endpoint, Path]) -> None:
    pod, _ = served
    texts = ["the"] * 20 + ["the " * 300]
    with pytest.raises(openai.BadRequestError, match="has 302 tokens, and this model reads 256 at most") as error:
        client(pod).embeddings.create(model="tiny-bert", input=texts)
    assert error.value.param == "input[20]"
    with pytest.raises(openai.BadRequestError, match="has a token that is none of this model's") as error:
        client(pod).embeddings.create(model="tiny-bert", input=[5, 100_000])
    assert error.value.param == "input"


def test_what_a_model_does_not_do_is_refused(served: tuple[Endpoint, Path]) -> None:
    pod, _ = served
    own = client(pod)
    with pytest.raises(openai.BadRequestError, match="llama@1 generates text; it makes no embeddings"):
        own.embeddings.create(model="llama", input="x")
    words = "tiny-bert@1 makes embeddings and generates no text; ask it by /v1/embeddings"
    with pytest.raises(openai.BadRequestError, match=words):
        own.chat.completions.create(model="tiny-bert", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match=words):
        own.completions.create(model="tiny-bert", prompt="x", stream=True)


def test_it_is_listed_with_the_longest_text(served: tuple[Endpoint, Path]) -> None:
    cards = {card["id"]: card for card in json.loads(served[0].get("/v1/models")[1])["data"]}
    assert cards["tiny-bert"]["max_model_len"] == 256


@contextmanager
def opened(root: Path) -> Iterator[Pod]:
    with running_pod(root, "--max-sequences", "130", "--max-seconds", "1") as pod:
        pod.triton.encoders.add("bert")
        pod.serve("bert")
        wait_for("the model is offered", lambda: "bert" in pod.listed(), 30, pod.tail)
        yield pod


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """With a stand-in for Triton, for this test alone."""
    with opened(tmp_path) as pod:
        yield pod


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One that tests leave as it is."""
    with opened(tmp_path_factory.mktemp("shared")) as pod:
        yield pod


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"model": None}, "model", "is missing: name one of those that /v1/models lists"),
        ({"input": None}, "input", "must be a string, a list of up to 2048 strings, or tokens"),
        ({"input": []}, "input", "must be a string"),
        ({"input": {}}, "input", "must be a string"),
        ({"input": ["x"] * 2049}, "input", "must be a string, a list of up to 2048 strings"),
        ({"input": ""}, "input", "is empty: there is nothing to make a vector of"),
        ({"input": ["x", ""]}, "input[1]", "is empty"),
        ({"input": ["x", 3]}, "input[1]", "must be a string, as the first of the list is"),
        ({"input": [3, "x"]}, "input", "must be text, or a list of tokens"),
        ({"input": [[3], []]}, "input[1]", "must be text, or a list of tokens"),
        ({"input": [[3], [True]]}, "input[1]", "must be text, or a list of tokens"),
        ({"input": [2**31]}, "input", "must be text, or a list of tokens"),
        ({"input": ["x", "\ud800"]}, "input[1]", "has half of a surrogate pair, which is no text"),
        ({"encoding_format": "int8"}, "encoding_format", 'must be "float" or "base64"'),
        ({"dimensions": 256}, "dimensions", "is not supported: a model's vectors have the length that they have"),
        ({"truncate": True}, "truncate", "is not known here; leave it out"),
        ({"input": ["x"] * 20 + ["refuse"]}, "input[20]", "has 9 tokens, and this model reads 8 at most"),
        ({"input": "refuse"}, "input", "has 9 tokens"),
    ],
)
def test_what_is_wrong_is_named(shared: Pod, body: dict[str, Any], param: str, words: str) -> None:
    status, answer = shared.post("/v1/embeddings", {"model": "bert", "input": "x", **body})
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["message"].startswith(f"{param} {words}")


def test_other_errors_keep_their_kind(pod: Pod) -> None:
    asked = client(pod).embeddings
    with pytest.raises(openai.InternalServerError, match="the graphics card is on fire"):
        asked.create(model="bert", input="broken")
    with pytest.raises(openai.NotFoundError, match="this pod serves bert@1, tiny@1"):
        asked.create(model="other", input="x")
    with pytest.raises(openai.InternalServerError, match="not whole after 1 s") as error:
        asked.create(model="bert", input="slow")
    assert error.value.status_code == 504
    pod.triton.stop()
    with pytest.raises(openai.InternalServerError, match="engine of this pod is starting again") as error:
        asked.create(model="bert", input="x")
    assert error.value.response.headers["retry-after"] == "1"


def test_a_version_that_has_gone_is_another_one(pod: Pod) -> None:
    pod.serve("bert", 2)
    wait_for("the version is offered", lambda: "bert@2" in pod.listed(), 10, pod.tail)
    for number in range(3, 8):
        pod.serve("bert", number)
        pod.triton.models["bert"] = [number]
        assert client(pod).embeddings.create(model="bert", input="x").model == f"bert@{number}"


def test_the_engine_gets_few_texts_at_once(pod: Pod) -> None:
    answer = client(pod).embeddings.create(model="bert", input=["xy"] * 2000, encoding_format="float")
    assert sum(pod.triton.embedded) == 2000
    assert max(pod.triton.embedded) == 16
    assert {tuple(one.embedding) for one in answer.data} == {(2.0, 16.0)}
    assert answer.usage.prompt_tokens == 4000


def test_texts_count_against_the_limit_of_the_pod(pod: Pod) -> None:
    texts = ["slow", *["x"] * 2047]
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(http, f"{pod.url}/v1/embeddings", {"model": "bert", "input": texts})
        wait_for("it is at work", lambda: pod.triton.embedded, 10, pod.tail)
        status, answer = pod.post("/v1/embeddings", {"model": "bert", "input": ["x"] * 64})
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        assert busy.result()[0] == 504
    assert pod.post("/v1/embeddings", {"model": "bert", "input": ["x"] * 64})[0] == 200


def test_numbers_are_those_of_the_engine(shared: Pod) -> None:
    _, answer = shared.post("/v1/embeddings", {"model": "bert", "input": [2**31 - 1, 1]})
    numbers = answer["data"][0]["embedding"]
    assert struct.unpack("<2f", struct.pack("<2f", *numbers)) == (2.0**31, 0.0)
    status, answer = shared.post("/v1/embeddings", {"model": "bert", "input": "x", "encoding_format": "base64"})
    assert status == 200
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (1.0, 1.0)
