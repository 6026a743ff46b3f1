"""A version is tried in a Triton of its own: a real one, with loads and faults to order."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import TritonProcess, wait_for

from aifactory_agent import cli
from aifactory_agent.serve.triton import Answer
from aifactory_agent.validate import trial
from aifactory_agent.validate.requests import WrongAnswer, requests_of
from aifactory_contract.formats.rules import Serving
from aifactory_contract.memory import tell_memory
from aifactory_contract.signature import EMBED, GENERATE, Signature, TensorSpec

Published = Callable[..., dict[str, Any]]


@dataclass
class Verifier:
    """`aifactory-agent verify` beside a Triton."""

    triton: TritonProcess
    claims: Path

    def run(self, model: dict[str, Any], *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code and answer."""
        result = self.triton.root / "result.json"
        arguments = ["verify", "--uri", model["uri"], "--format", model["format"], "--claims", str(self.claims)]
        arguments += ["--result", str(result), "--triton", self.triton.grpc, "--model", model["name"]]
        arguments += ["--repository", str(self.triton.repository), "--model-version", str(model["version"])]
        code = cli.main([*arguments, "--timeout-seconds", "60", *options])
        return code, json.loads(result.read_text())


@pytest.fixture
def verifier(triton: TritonProcess, claims: Path) -> Verifier:
    return Verifier(triton, claims)


def test_a_version_that_loads_and_answers_is_measured(
    triton: TritonProcess, verifier: Verifier, published: Published
) -> None:
    """Triton may come up while the artifact is being read."""
    starting = threading.Timer(1, triton.start)
    starting.start()
    cgroup = triton.root / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.stat").write_text("anon 1000\nshmem 24\nfile 777\n")
    triton.repository.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    telling = threading.Thread(target=tell_memory, args=(triton.repository, stop, cgroup))
    telling.start()
    model = published("gpt", 7, loadSeconds=1)
    grows = threading.Timer(3, lambda: (cgroup / "memory.stat").write_text("anon 5000\nshmem 24\n"))
    grows.start()
    try:
        code, found = verifier.run(model)
    finally:
        stop.set()
        for thread in (starting, telling, grows):
            thread.join()
    assert code == 0
    assert (found["digest"], found["files"]) == (model["digest"], 3)
    tried = found["validation"]
    assert 1 <= tried["loadSeconds"] < 20
    assert 0 < tried["firstTokenSeconds"] < 10
    assert tried["requests"] == 1
    assert tried["memoryBytes"] in (0, 4000), "4000 as soon as it grew before the end"
    assert (triton.repository / "models/gpt/7/config.json").is_file(), "it was fetched once, for both"


def test_an_answer_without_what_is_expected_is_wrong(
    triton: TritonProcess, verifier: Verifier, published: Published
) -> None:
    triton.start()
    model = published("gpt", 1)
    requests = [{"prompt": "x", "expect": {"contains": "gpt 1"}}, {"name": "paris", "prompt": "x"}]
    code, found = verifier.run(model, "--requests", json.dumps(requests))
    assert (code, found["validation"]["requests"]) == (0, 2)
    requests[1]["expect"] = {"contains": "Paris"}
    code, found = verifier.run(published("gpt", 2), "--requests", json.dumps(requests[1:]))
    assert (code, found["reason"]) == (1, "ValidationFailed")
    assert found["message"] == "request paris: the answer 'gpt 2' does not contain 'Paris'"
    assert found["digest"].startswith("sha256:"), "what was found of the files is told all the same"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"loadError": "no layer 7"}, "no layer 7"),
        ({"answerError": "the logits are not finite"}, "it was loaded but does not answer: the logits are not finite"),
    ],
)
def test_what_triton_says_is_told(
    triton: TritonProcess, verifier: Verifier, published: Published, config: dict[str, str], words: str
) -> None:
    triton.start()
    code, found = verifier.run(published("gpt", 1, **config))
    assert (code, found["reason"]) == (1, "ValidationFailed")
    assert words in found["message"]


def test_want_of_memory_says_nothing_about_the_version(
    triton: TritonProcess, verifier: Verifier, published: Published
) -> None:
    triton.start()
    code, found = verifier.run(published("gpt", 1, loadError="no room in memory: 3 GiB are needed"))
    assert code == 0
    assert "no room in memory: 3 GiB are needed" in found["validation"]["skipped"]


def test_what_is_too_large_for_the_pod_is_read_and_not_tried(verifier: Verifier, published: Published) -> None:
    """Without a Triton: none is waited for, and nothing is copied."""
    code, found = verifier.run(published("gpt", 1), "--memory", str(400 * 2**20))
    assert code == 0
    skipped = found["validation"]["skipped"]
    assert skipped.startswith("it has 1 MiB, of which a CPU may need twice as much and Triton 512 MiB beside them")
    assert "may use 400 MiB" in skipped
    assert "spec.validation.resources" in skipped
    assert not list((verifier.triton.repository / "models").glob("*/*"))


def test_a_model_for_another_engine_is_not_tried(
    triton: TritonProcess, verifier: Verifier, published: Published
) -> None:
    triton.start()
    code, found = verifier.run(published("gpt", 1, architectures=["BloomForCausalLM"], vocab_size=250880))
    assert code == 0
    assert "the server of this pod has no back end vllm" in found["validation"]["skipped"]


def test_a_version_whose_load_ends_triton_twice_has_failed(
    triton: TritonProcess, verifier: Verifier, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once may be an accident."""
    triton.start()
    ended: list[float] = []
    stop = threading.Event()

    def kernel() -> None:
        """Ends Triton in each load, as for want of memory; the kubelet starts it again."""
        while not stop.wait(0.05):
            if triton.process is not None and triton.workers():
                triton.kill()
                ended.append(time.monotonic())
                triton.start()

    killing = threading.Thread(target=kernel)
    killing.start()
    try:
        code, found = verifier.run(published("gpt", 1, loadSeconds=3), "--memory", str(2**31))
    finally:
        stop.set()
        killing.join()
    assert (code, found["reason"]) == (1, "ValidationFailed")
    assert found["message"] == "Triton went away while it loaded model gpt"
    assert len(ended) == 2


def test_one_that_was_ended_once_is_tried_again(
    triton: TritonProcess, verifier: Verifier, published: Published
) -> None:
    triton.start()

    def accident() -> None:
        wait_for("the load has begun", triton.workers, 30)
        triton.kill()
        triton.start()

    killing = threading.Thread(target=accident)
    killing.start()
    code, found = verifier.run(published("gpt", 1, loadSeconds=1))
    killing.join()
    assert code == 0, found
    assert found["validation"]["loadSeconds"] >= 1


def test_a_triton_that_does_not_start_is_no_answer(
    verifier: Verifier, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "START_SECONDS", 0.2)
    code, found = verifier.run(published("gpt", 1))
    assert (code, found["reason"]) == (1, "TritonUnavailable"), "the version is not to blame"


def test_a_load_that_takes_too_long_has_failed(triton: TritonProcess, verifier: Verifier, published: Published) -> None:
    triton.start()
    code, found = verifier.run(published("gpt", 1, loadSeconds=20), "--timeout-seconds", "1.5")
    assert (code, found["reason"]) == (1, "ValidationFailed")
    assert "1.5" in found["message"] or "2 s" in found["message"]


def test_a_program_that_answers_nan_is_wrong(tmp_path: Path, claims: Path) -> None:
    """With the real back end: a program whose answer is no number has the right shape and type."""
    torch = pytest.importorskip("torch")

    class Root(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            return (-x * x - 1).sqrt()

    folder = claims / "models/root"
    folder.mkdir(parents=True)
    torch.export.save(torch.export.export(Root(), (torch.zeros(2, 3),)), folder / "model.pt2")
    tensor = {"dataType": "FP32", "dims": [2, 3]}
    config = {"format": "torch-export", "inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
    (folder / "config.json").write_text(json.dumps(config))
    triton = TritonProcess(tmp_path)
    triton.start()
    try:
        model = {"name": "root", "version": 1, "uri": "pvc://models/root", "format": "torch-export"}
        code, found = Verifier(triton, claims).run(model)
    finally:
        triton.kill()
    assert (code, found["reason"]) == (1, "ValidationFailed")
    words = "a request made from its signature: output y has 6 of 6 values that are no numbers (NaN)"
    assert found["message"] == words


@dataclass
class Outputs:
    """An answer, as tritonclient gives it."""

    values: dict[str, Any] = field(default_factory=dict)

    def as_numpy(self, name: str) -> Any:
        return self.values.get(name)


ROWS = Serving(
    "torch-export",
    Signature((TensorSpec("x", "FP32", (2,)), TensorSpec("ids", "INT64", (-1,))), (TensorSpec("y", "FP32", (2,)),), 8),
)


def no_template(_: Any) -> str:
    raise WrongAnswer("this model has no chat template")


def asked(request: dict[str, Any] | None, serving: Serving = ROWS, render: Any = no_template) -> Any:
    (found,) = requests_of([] if request is None else [request], serving, render)
    return found


def test_a_request_is_made_from_a_signature() -> None:
    values = asked(None).values
    assert {name: (value.shape, value.dtype) for name, value in values.items()} == {
        "x": ((1, 2), np.float32),
        "ids": ((1, 1), np.int64),
    }
    assert values["ids"].tolist() == [[0]]
    assert np.array_equal(values["x"], asked(None).values["x"]), "the same each time"


def test_a_language_model_is_greeted_by_its_template_or_without_one() -> None:
    speaks = Serving("bytes", GENERATE, decoupled=True)
    assert asked(None, speaks).values["text_input"].tolist() == [b"Hello"]
    chats = asked(None, speaks, lambda messages: f"<{messages[0]['role']}> {messages[0]['content']}")
    assert chats.values["text_input"].tolist() == [b"<user> Hello"]
    assert json.loads(chats.values["sampling_parameters"][0]) == {"max_tokens": 16, "temperature": 0}
    assert asked(None, Serving("embeddings", EMBED)).values["text_input"].tolist() == [[b"Hello"]]


GIVEN = {"inputs": {"x": [[1, 2], [3, 4]], "ids": [[5], [6]]}, "expect": {"outputs": {"y": [[1, 2], [3, 4]]}}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([[1, 2], [3, 4.0001]], ""),
        ([[1, 2], [3, 4.01]], "request 0: output y[1][1] is 4.01, expected is 4.0 (tolerance 0.0001)"),
        ([[1, 2]], "request 0: output y has shape [1, 2], expected is [2, 2]"),
        ([[1, 2, 3], [4, 5, 6]], "request 0: it was loaded but output y has dims [3], not [2] as stated"),
        ([[1, np.nan], [3, 4]], "request 0: output y has 1 of 4 values that are no numbers (NaN)"),
        ([[np.inf] * 2] * 2, "request 0: output y has no finite number among its 4 values"),
        (None, "request 0: it was loaded but its answer has no output y"),
    ],
)
def test_an_answer_has_the_shape_and_the_numbers_that_are_expected(answer: Any, words: str) -> None:
    value = None if answer is None else np.array(answer, dtype=np.float32)
    found = ""
    try:
        asked(GIVEN).check(ROWS, [Answer(0.1, Outputs({"y": value}))])
    except WrongAnswer as error:
        found = str(error)
    assert found == words


def test_an_infinite_value_may_be_a_mask() -> None:
    asked(None).check(ROWS, [Answer(0.1, Outputs({"y": np.array([[1, -np.inf]], dtype=np.float32)}))])


def test_an_answer_is_of_the_type_that_is_stated() -> None:
    with pytest.raises(WrongAnswer, match="output y is of type float64, not FP32 as stated"):
        asked(None).check(ROWS, [Answer(0.1, Outputs({"y": np.zeros((1, 2))}))])


def test_no_answer_at_all_is_wrong() -> None:
    with pytest.raises(WrongAnswer, match="request hello had an empty answer"):
        asked({"name": "hello", "prompt": "x"}, Serving("bytes", GENERATE, decoupled=True)).check(ROWS, [])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"inputs": {"z": [1]}}, "request 0: inputs.z: the model has x, ids"),
        ({"inputs": {"x": [[1, 2]]}}, "request 0: inputs.ids is missing"),
        ({"inputs": {"x": [1, 2]}}, "request 0: inputs.x has shape [2], the model takes [-1, 2]"),
        ({"inputs": {"x": [["a", 2]]}}, "request 0: inputs.x is no FP32 of shape [-1, 2]"),
        ({"prompt": "Hello"}, "request 0: such a model is asked by inputs; correct spec.validation.requests"),
    ],
)
def test_a_request_that_can_not_be_asked_is_told(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongAnswer) as told:
        asked(request_)
    assert str(told.value).startswith(words)


def test_a_model_without_a_template_does_not_chat() -> None:
    messages = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(WrongAnswer, match="request 0: this model has no chat template"):
        asked(messages, Serving("bytes", GENERATE, decoupled=True))


def test_texts_are_tensors_too() -> None:
    texts = Serving("x", Signature((TensorSpec("t", "BYTES", (1,)),), (TensorSpec("y", "BYTES", (1,)),)))
    found = asked({"inputs": {"t": ["é"]}, "expect": {"outputs": {"y": ["ok"]}}}, texts)
    assert found.values["t"].tolist() == ["é".encode()]
    found.check(texts, [Answer(0.1, Outputs({"y": np.array([b"ok"], dtype=np.object_)}))])
    with pytest.raises(WrongAnswer, match="output y\\[0\\] is 'no', expected is 'ok'"):
        found.check(texts, [Answer(0.1, Outputs({"y": np.array([b"no"], dtype=np.object_)}))])
