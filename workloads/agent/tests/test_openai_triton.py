"""The OpenAI door in front of a real Triton: what the stand-in can only claim."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import tritonclient.grpc as grpc
from harness import TritonProcess, wait_for
from pod import Pod
from stand_in import INPUTS, OUTPUTS

from aifactory_contract.control import HEADER, control_key

BACKEND = Path(__file__).parents[1] / "testing" / "text_backend.py"
# Triton's workers ignore PYTHONPATH.
PATHS = "import os, sys\nsys.path[:0] = os.environ['AIFACTORY_PYTHONPATH'].split(':')\n"
HELLO: Any = [{"role": "user", "content": "hello there"}]


class RealPod(Pod):
    """A pod with a Triton."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "repository")
        self.real = TritonProcess(root, light=True)
        self.triton.port = self.real.grpc_port

    def put(self, name: str, *versions: int) -> None:
        """Load these versions and no others, as the agent does."""
        folder = self.models / name
        for version in versions:
            if not (folder / str(version)).exists():
                self.write(name, version)
                (folder / str(version) / "model.py").write_text(PATHS + BACKEND.read_text())
        (folder / "config.pbtxt").write_text(_config(name, versions))
        with grpc.InferenceServerClient(self.real.grpc) as client:
            client.load_model(name, headers={HEADER: control_key(self.repository)})


def _config(name: str, versions: tuple[int, ...]) -> str:
    def tensor(kind: str, which: str) -> str:
        number = which.startswith("num_")
        data = "BOOL" if which.startswith(("return_", "stream", "exclude")) else "UINT32" if number else "STRING"
        data = "FP32" if which == "cumulative_logprob" else data
        optional = " optional: true" if kind == "input" and which != "text_input" else ""
        return f'{kind} {{ name: "{which}" data_type: TYPE_{data} dims: [1]{optional} }}'

    lines = [f'name: "{name}"', 'backend: "python"', "max_batch_size: 0"]
    lines += [f"version_policy {{ specific {{ versions: [{', '.join(map(str, versions))}] }} }}"]
    lines += ["model_transaction_policy { decoupled: true }"]
    lines += [tensor("input", which) for which in INPUTS] + [tensor("output", which) for which in OUTPUTS]
    return "\n".join(lines) + "\n"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[RealPod]:
    (tmp_path / "repository").mkdir()
    pod = RealPod(tmp_path)
    try:
        pod.start()
        pod.real.start()
        pod.put("tiny", 1)
        wait_for("the model is offered", lambda: pod.listed() == ["tiny", "tiny@1"], 30, pod.tail)
        yield pod
    finally:
        pod.end()
        pod.real.kill()


def client(pod: Pod, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 30, **options})


def test_whole_and_streamed_answers(pod: RealPod) -> None:
    asked = client(pod).chat.completions
    whole = asked.create(model="tiny", messages=HELLO, max_tokens=3)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("w0 w1 w2 ", "length")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 3)
    chunks = list(asked.create(model="tiny", messages=HELLO, max_tokens=3, stream=True, n=2))
    told = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert sorted(told) == ["w0 ", "w0 ", "w1 ", "w1 ", "w2 ", "w2 "]


def test_refusals_keep_their_kind(pod: RealPod) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="this prompt is refused"):
            client(pod).completions.create(model="tiny", prompt="refuse", stream=stream)


def test_refusals_do_no_harm(pod: RealPod) -> None:
    """Asked by `triton_grpc_error` for a status with each, Triton crashed after some hundred."""
    own = openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=30)

    def refused(number: int) -> bool:
        try:
            own.completions.create(model="tiny", prompt="refuse", stream=number % 2 == 0)
        except openai.BadRequestError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(1500)))
    assert pod.real.process is not None
    assert pod.real.process.poll() is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_sequence(pod: RealPod, stream: bool) -> None:
    cancelled = pod.models / "tiny" / "1" / "cancelled"
    with client(pod, timeout=1) as own:
        if stream:
            with own.completions.create(model="tiny", prompt="slow 0.05", max_tokens=900, stream=True) as pieces:
                assert next(iter(pieces)).choices[0].text == "w0 "
        else:
            with pytest.raises(openai.APITimeoutError):
                own.completions.create(model="tiny", prompt="slow 0.05", max_tokens=900)
    left = time.monotonic()
    wait_for("the engine has heard", cancelled.exists, 5, pod.real.tail)
    assert time.monotonic() - left < 0.5  # of which the engine asks every 0.05 s, and we look every 0.05 s
    # Nothing of it is left that would keep the version from going.
    pod.put("tiny", 2)
    wait_for("the version is gone", lambda: pod.listed() == ["tiny", "tiny@2"], 20, pod.real.tail)


def test_versions_change_without_an_error(pod: RealPod) -> None:
    own = client(pod)
    seen = set()
    for number in range(2, 5):
        pod.put("tiny", number)
        for _ in range(20):
            seen.add(own.completions.create(model="tiny", prompt="x", max_tokens=2).model)
    assert {"tiny@2", "tiny@3", "tiny@4"} <= seen
    with pytest.raises(openai.NotFoundError, match="this pod serves tiny@4"):
        own.completions.create(model="tiny@77", prompt="x")
    assert own.completions.create(model="tiny@4", prompt="x", max_tokens=1).model == "tiny@4"


def test_triton_is_killed_and_comes_back(pod: RealPod) -> None:
    own = client(pod)
    stream = iter(own.completions.create(model="tiny", prompt="slow 0.05", max_tokens=900, stream=True))
    assert next(stream).choices[0].text == "w0 "
    pod.real.kill()
    with pytest.raises(openai.APIError, match="engine of this pod is starting again"):
        list(stream)
    started = time.monotonic()
    with pytest.raises(openai.InternalServerError, match="engine of this pod is starting again") as error:
        own.completions.create(model="tiny", prompt="x")
    assert error.value.response.headers["retry-after"] == "1"
    assert time.monotonic() - started < 1
    pod.real.start()
    wait_for("Triton is seen", lambda: pod.get("/health")[0] == 200, 5, pod.tail)
    with pytest.raises(openai.InternalServerError, match=r"is being loaded|was unloaded meanwhile"):
        own.completions.create(model="tiny", prompt="x")
    pod.put("tiny", 1)
    assert client(pod, max_retries=3).completions.create(model="tiny", prompt="x", max_tokens=1).model == "tiny@1"


def test_what_is_under_way_at_the_end_of_triton_is_told_to_its_end(pod: RealPod) -> None:
    stream = iter(client(pod).completions.create(model="tiny", prompt="slow 0.05", max_tokens=40, stream=True))
    assert next(stream).choices[0].text == "w0 "
    assert pod.real.process is not None
    pod.real.process.terminate()
    assert len(list(stream)) == 39


def test_triton_ends_though_the_door_has_just_asked_it(pod: RealPod) -> None:
    """It waits without end for a stream that stays open."""
    assert client(pod).completions.create(model="tiny", prompt="x", max_tokens=1).model == "tiny@1"
    started = time.monotonic()
    assert pod.real.terminate() == 0
    assert time.monotonic() - started < 20
