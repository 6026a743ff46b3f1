"""What the engine `bytes` does in a second, without Triton: tokens, and how long a long prompt stalls others.

    python testing/throughput.py    (in workloads/server, with the environment that `python3 venv.py` prints)

The model has random weights, about a million, and a context of 2,048; the figures are for comparing two states of the
code on one machine. Tokens are counted by seconds of CPU, so that others on the machine matter little.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from aifactory_server.causal_lm.config import ModelConfig
from aifactory_server.causal_lm.engine import Engine, Outcome
from aifactory_server.causal_lm.network import Network, file_shapes, fused
from aifactory_server.causal_lm.request import Request

CONFIG = ModelConfig(
    context=2048, layers=4, heads=4, head_size=32, embedding=128, hidden=352, vocabulary=257, end_of_text=256
)
SLOTS = 16


@dataclass
class Timed:
    """An answer that notes when its pieces came."""

    times: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    tokens: int = 0

    def piece(self, text: str) -> None:
        self.times.append(time.monotonic())

    def done(self, outcome: Outcome) -> None:
        self.times.append(time.monotonic())
        self.tokens = outcome.generated_tokens
        self.over.set()

    def failed(self, message: str) -> None:
        raise SystemExit(message)

    def cancelled(self) -> bool:
        return False


class Uncounted:
    """A meter that counts nothing."""

    def count(self, prompt: int, generated: int) -> None: ...

    def probed(self) -> None: ...

    def load(self, running: int, waiting: int) -> None: ...

    def flush(self) -> None: ...


def engine() -> Engine:
    """One that runs."""
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) * 0.02 for name, shape in file_shapes(CONFIG).items()}
    weights["model.embed_tokens.weight"][256:] = 0.0
    made = Engine(Network(CONFIG, fused(weights, CONFIG), SLOTS), 10_000, Uncounted())
    made.start()
    return made


def tokens_per_second(count: int, tokens: int) -> float:
    """Of many requests that come at once, a second of CPU."""
    runner, answers = engine(), [Timed() for _ in range(count)]
    started = time.process_time()
    for seed, answer in enumerate(answers):
        runner.submit(Request(b"def ", max_tokens=tokens, seed=seed), answer)
    for answer in answers:
        answer.over.wait()
    seconds = time.process_time() - started
    runner.stop(10)
    return sum(answer.tokens for answer in answers) / seconds


def longest_stall(prompt_tokens: int) -> float:
    """Seconds between two pieces of a running answer, the longest while a prompt of this length comes."""
    runner, stream, long = engine(), Timed(), Timed()
    runner.submit(Request(b"x", max_tokens=1500, temperature=0.0), stream)
    while len(stream.times) < 50:
        time.sleep(0.01)
    runner.submit(Request(b"y" * prompt_tokens, max_tokens=1, seed=1), long)
    long.over.wait()
    runner.stop(0.1)
    times = [at for at in stream.times if at <= long.times[-1] + 1]
    return max(after - before for before, after in pairwise(times))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    print(f"answers of   4 tokens: {tokens_per_second(160, 4):7.0f} tokens/s")
    print(f"answers of 200 tokens: {tokens_per_second(32, 200):7.0f} tokens/s")
    print(f"a prompt of 2,000 tokens stalls a stream for {longest_stall(2000):.3f} s")
