"""The engine `vllm` with vLLM itself, on CPUs, behind the agent and the OpenAI port: says what holds.

    python testing/real_vllm.py MODEL_DIRECTORY --python PYTHON --backend DIRECTORY

In workloads/agent, with the Python of ../server/venv.py. PYTHON is of an environment with vLLM for CPUs and numpy 1;
DIRECTORY has the files of `src` of Triton's vLLM back end, of a release that fits that vLLM. The model is published
with a LoRA adapter made for this. The agent is told that there is one GPU, which is not so. One line per check; exit
code 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

import numpy as np  # noqa: E402
import openai  # noqa: E402
from harness import AgentProcess, TritonProcess, wait_for  # noqa: E402
from pod import Pod  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from aifactory_agent.artifacts.stores import Mounts  # noqa: E402
from aifactory_agent.artifacts.transfer import publish  # noqa: E402
from aifactory_contract.names import GENERATED_TOKENS, PROBE_REQUESTS  # noqa: E402
from aifactory_contract.uri import ArtifactUri  # noqa: E402

_NAME, _ADAPTER = "model", "loud"
_LOAD_SECONDS = 600
_LONG = 400
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def write_adapter(model: Path) -> None:
    """A LoRA adapter that changes what the model says."""
    config = json.loads((model / "config.json").read_text())
    hidden, layers, rank = config["hidden_size"], config["num_hidden_layers"], 4
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    values = config["num_key_value_heads"] * size
    made, numbers = {}, np.random.default_rng(0)
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        made[f"{name}.lora_A.weight"] = numbers.normal(0, 0.5, (rank, hidden)).astype(np.float32)
        made[f"{name}.lora_B.weight"] = numbers.normal(0, 0.5, (values, rank)).astype(np.float32)
    folder = model / "adapters" / _ADAPTER
    folder.mkdir(parents=True)
    save_file(made, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(facts))


class Trial:
    """The pod, and what it is asked."""

    def __init__(self, triton: TritonProcess, door: Pod) -> None:
        self._triton, self._door = triton, door
        self._client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="-", max_retries=0, timeout=300)
        self._whole = ""
        self.checks = (
            self.whole_answer,
            self.agents_question_is_not_counted,
            self.figures,
            self.streamed_answer,
            self.logprobs,
            self.stop_and_choices,
            self.schema,
            self.adapter,
            self.cancel,
            self.too_long,
        )

    def _chat(self, content: str = "Name three colours.", **more: Any) -> Any:
        asked = {"model": _NAME, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 24}
        return self._client.chat.completions.create(**{**asked, **more})

    def _generated(self) -> float:
        return self._triton.metric(GENERATED_TOKENS, model=_NAME, version="1")

    def whole_answer(self) -> str:
        answer = self._chat()
        self._whole = answer.choices[0].message.content
        assert self._whole, answer
        assert answer.usage.prompt_tokens > 0
        assert answer.usage.completion_tokens in range(1, 25), answer
        wait_for("the tokens are counted", lambda: self._generated() == answer.usage.completion_tokens, 10)
        return repr(self._whole)

    def agents_question_is_not_counted(self) -> str:
        labels, before = {"model": _NAME, "version": "1"}, self._generated()
        asked = self._triton.metric(PROBE_REQUESTS, **labels)
        wait_for("the agent asks again", lambda: self._triton.metric(PROBE_REQUESTS, **labels) > asked, 60)
        wait_for("that is not counted", lambda: self._generated() == before, 10)
        return f"{asked:.0f} and more"

    def figures(self) -> str:
        """By the names of all engines: they agree with vLLM's own, less the agent's questions."""
        names = ("prompt_tokens_total", "time_to_first_token_seconds_count", "inter_token_latency_seconds_count")
        found = {name: self._triton.metric(f"aifactory_{name}", model=_NAME) for name in names}
        found |= {
            name: self._triton.metric(f"aifactory_requests_{name}", model=_NAME) for name in ("running", "waiting")
        }
        assert found["time_to_first_token_seconds_count"] == 1, found
        assert found["inter_token_latency_seconds_count"] == self._generated() - 1, found
        assert found["prompt_tokens_total"] > 10, found
        assert found["running"] == found["waiting"] == 0, found
        return repr(found)

    def streamed_answer(self) -> str:
        chunks = list(self._chat(stream=True, stream_options={"include_usage": True}))
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == self._whole, texts
        assert len([text for text in texts if text]) > 3, "comes in pieces"
        assert chunks[-1].usage.completion_tokens > 3
        return f"{len(texts)} pieces"

    def logprobs(self) -> str:
        tokens = self._chat(logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs.content
        assert len(tokens) == 4
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens), tokens
        return repr([token.token for token in tokens])

    def stop_and_choices(self) -> str:
        word = self._whole.split()[1]
        stopped = self._chat(stop=[word]).choices[0]
        assert stopped.finish_reason == "stop"
        assert stopped.message.content == self._whole.split(word)[0], stopped
        several = self._chat(n=2, temperature=1).choices
        assert len(several) == 2
        assert several[0].message.content != several[1].message.content
        return repr(stopped.message.content)

    def schema(self) -> str:
        form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": _SCHEMA}}
        text = self._chat("Which colour is the sky?", response_format=form, max_tokens=40).choices[0].message.content
        assert json.loads(text)["colour"] in ("red", "green", "blue"), text
        return str(text)

    def adapter(self) -> str:
        answer = self._chat(model=f"{_NAME}:{_ADAPTER}")
        assert answer.model == f"{_NAME}@1:{_ADAPTER}"
        assert answer.choices[0].message.content != self._whole, "the adapter changes nothing"
        assert self._chat().choices[0].message.content == self._whole, "without it all is as before"
        return repr(answer.choices[0].message.content)

    def cancel(self) -> str:
        before = self._generated()
        stream = self._chat("Tell a long story.", stream=True, max_tokens=_LONG)
        for _ in zip(range(5), stream, strict=False):
            pass
        stream.close()
        log = self._triton.log
        wait_for("it is cancelled", lambda: "Successfully cancelled" in log.read_text(errors="replace"), 30)
        counted = self._generated() - before
        assert counted < _LONG / 2, counted
        return f"after {counted:.0f} of {_LONG} tokens"

    def too_long(self) -> str:
        try:
            self._chat("word " * 3000)
        except openai.BadRequestError as error:
            return str(error.body)
        raise AssertionError("not refused")


def _holds(check: Callable[[], str]) -> bool:
    name = check.__name__.replace("_", " ")
    try:
        print(f"holds: {name}: {check()}", flush=True)
    except Exception:
        print(f"FAILS: {name}: {traceback.format_exc()}", flush=True)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--backend", type=Path, required=True)
    parser.add_argument("--log", type=Path, help="where Triton's log goes at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = copytree(options.model, root / "source")
        write_adapter(source)
        (root / "claims/models").mkdir(parents=True)
        artifact = publish(source, ArtifactUri.parse("pvc://models"), _NAME, Mounts(root / "claims"))
        environ = {
            "AIFACTORY_BACKENDS": "vllm",
            "AIFACTORY_ENGINE_CONTEXT": "1024",
            "AIFACTORY_ENGINE_SLOTS": "8",
            "AIFACTORY_ENGINE_CACHE_BYTES": str(1 << 28),
            "AIFACTORY_VLLM_DTYPE": "bfloat16",
            "AIFACTORY_VLLM_ENFORCE_EAGER": "true",
            "AIFACTORY_VLLM_MAX_NUM_BATCHED_TOKENS": "512",
            # Small functions are compiled even so, while the agent waits for the first answer.
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0",
            # The engine is a process of its own, which takes the Python that the PATH has.
            "PATH": f"{options.python.parent}:{os.environ['PATH']}",
        }
        packages = next(options.python.parents[1].glob("lib/python3.*/site-packages"))
        triton = TritonProcess(root, environ=environ, gpus=1, vllm_backend=options.backend, packages=packages)
        agent = AgentProcess(triton, root / "claims")
        triton.repository.mkdir()
        door = Pod(triton.repository)
        door.triton.port = triton.grpc_port
        try:
            triton.start()
            facts = {"uri": artifact.uri, "digest": artifact.digest, "format": artifact.format, "engine": "vllm"}
            agent.want({"name": _NAME, "version": 1, **facts})
            agent.start()
            agent.wait_ready(seconds=_LOAD_SECONDS)
            door.start()
            wait_for("the model is offered", lambda: _NAME in door.listed(), 60, door.tail)
            held = [_holds(check) for check in Trial(triton, door).checks]
        finally:
            door.end()
            agent.kill()
            triton.kill()
            if options.log:
                options.log.write_bytes(triton.log.read_bytes())
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
