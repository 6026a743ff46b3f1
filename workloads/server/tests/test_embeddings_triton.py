"""Back end `embeddings` in a real Triton, by the calls that its clients make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from harness import AgentProcess, TritonProcess, http, wait_for
from hf_models import CONTEXT, write_encoder
from tritonclient.utils import InferenceServerException

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.artifacts.transfer import publish
from aifactory_contract.control import probe_sign
from aifactory_contract.names import PROBE_PARAMETER
from aifactory_contract.uri import ArtifactUri

from .test_encoder import load, reference
from .test_readme import EXAMPLES, run

MODEL = "minilm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def triton(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """Loaded by the agent, which then goes: its questions would be among the counters."""
    root = tmp_path_factory.mktemp("serving")
    (root / "claims/models").mkdir(parents=True)
    triton = TritonProcess(root)
    agent = AgentProcess(triton, root / "claims")
    artifact = publish(folder, ArtifactUri.parse("pvc://models"), MODEL, Mounts(root / "claims"))
    entry = {"name": MODEL, "version": 1, "uri": artifact.uri, "digest": artifact.digest, "format": artifact.format}
    try:
        triton.start()
        agent.want({**entry, "secret": None})
        agent.start()
        agent.wait_ready(seconds=90)
        agent.kill()
        yield triton
    finally:
        agent.kill()
        triton.kill()


def ask(triton: TritonProcess, *texts: str, tokens: list[list[int]] | None = None, **more: Any) -> Any:
    if tokens is None:
        given = grpcclient.InferInput("text_input", [len(texts), 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    else:
        given = grpcclient.InferInput("input_ids", [len(tokens), len(tokens[0])], "INT32")
        given.set_data_from_numpy(np.array(tokens, dtype=np.int32))
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        return client.infer(MODEL, [given], **more)


def test_vectors_are_those_of_the_model(triton: TritonProcess, folder: Path) -> None:
    texts = ["the quick brown fox", "the"]
    result = ask(triton, *texts)
    vectors, rows = result.as_numpy("embedding"), load(folder).tokens(texts)
    np.testing.assert_allclose(vectors, [reference(folder, text) for text in texts], rtol=1e-4, atol=1e-5)
    assert result.as_numpy("num_input_tokens").tolist() == [[len(row)] for row in rows]
    for row, vector in zip(rows, vectors, strict=True):
        np.testing.assert_allclose(ask(triton, tokens=[row]).as_numpy("embedding")[0], vector, rtol=1e-4, atol=1e-5)


def test_it_answers_over_http(triton: TritonProcess, folder: Path) -> None:
    data = [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["the quick"]}]
    code, text = http(f"{triton.url}/v2/models/{MODEL}/infer", {"inputs": data})
    assert code == 200, text
    outputs = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
    np.testing.assert_allclose(outputs["embedding"], reference(folder, "the quick"), rtol=1e-4, atol=1e-5)


def test_the_example_of_the_readme_runs(triton: TritonProcess) -> None:
    (example,) = (code for code in EXAMPLES if MODEL in code)
    assert run(f"{example}print(vectors.shape)", triton) == "(2, 48)"


def test_many_clients_are_computed_together_and_get_their_own(triton: TritonProcess, folder: Path) -> None:
    texts = [f"{'the quick ' * (number % 9)}{number}" for number in range(120)]
    before = triton.metric("nv_inference_exec_count", model=MODEL)
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda text: ask(triton, text).as_numpy("embedding")[0], texts))
    encoder = load(folder)
    np.testing.assert_allclose(found, encoder.vectors(encoder.tokens(texts)), rtol=1e-4, atol=1e-5)
    assert triton.metric("nv_inference_exec_count", model=MODEL) - before < len(texts)


def test_a_bad_text_fails_alone(triton: TritonProcess) -> None:
    words = f"text_input.0. has 302 tokens, and this model reads {CONTEXT} at most"

    def outcome(number: int) -> bool:
        if number % 4:
            return bool(ask(triton, "the").as_numpy("embedding").shape == (1, 48))
        with pytest.raises(InferenceServerException, match=words):
            ask(triton, "the " * 300)
        return True

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(outcome, range(48)))
    with pytest.raises(InferenceServerException, match=r"text_input\[1\] has 302 tokens"):
        ask(triton, "the", "the " * 300)
    with pytest.raises(InferenceServerException, match=r"input_ids\[0\] has a token that is none of this model's"):
        ask(triton, tokens=[[5, 100_000]])


def test_tokens_are_counted_and_the_agent_s_are_not(triton: TritonProcess) -> None:
    def counted() -> tuple[float, float]:
        names = ("aifactory_prompt_tokens_total", "aifactory_probe_requests_total")
        read, probes = (triton.metric(name, model=MODEL, version="1") for name in names)
        return read, probes

    before = counted()
    sign = probe_sign(triton.repository)
    ask(triton, "the", parameters={PROBE_PARAMETER: sign})
    ask(triton, "the", "the the", parameters={PROBE_PARAMETER: "x"})
    after = (before[0] + 3 + 4, before[1] + 1)
    assert wait_for("it is counted", lambda: counted() == after and after, 10, lambda: str(counted())) == after
