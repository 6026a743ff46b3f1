"""Tokens in a second of one engine, by how many ask at the same time.

    python testing/engines.py transformers MODEL_DIRECTORY [--clients 1 8 16] [--tokens 64] [--prompt 32]
    python testing/engines.py small       (the engine of `causal-lm`, a model of the same size as `tiny`)
    python testing/engines.py tiny        (a Llama of about a million weights, made on the spot)

In workloads/server, with the environment that `python3 venv.py` prints. Each client asks again as soon as it has its
answer. Printed: tokens in a second by the clock and by the CPU, and the median time to the first token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kept import Kept

ROUNDS = 3
Ask = Callable[[int], tuple[int, float]]
"""Asks for an answer, by its number, and waits for it: tokens, seconds to the first one."""


def measure(ask: Ask, clients: int) -> str:
    """All clients at once, each several times."""
    found: list[tuple[int, float]] = []

    def client(number: int) -> None:
        found.extend(ask(1000 * round_ + number) for round_ in range(ROUNDS))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started, cpu = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    tokens = sum(count for count, _ in found)
    first = statistics.median(seconds for _, seconds in found)
    rates = f"{tokens / seconds:8.1f} tokens/s, {tokens / cpu:8.1f} a CPU second"
    return f"{clients:3} clients: {rates}, first after {first * 1000:7.1f} ms"


def transformers_engine(folder: Path, tokens: int, prompt: int) -> tuple[Ask, Callable[[], None]]:
    from aifactory_server.device import free_memory
    from aifactory_server.engines.engine import Engine, Limits
    from aifactory_server.engines.paged import PagedModel
    from aifactory_server.engines.request import Request

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    model = PagedModel(folder, device, lambda: free_memory(device), slots=16)
    engine = Engine(model, Limits(slots=16))
    engine.start()

    def ask(number: int) -> tuple[int, float]:
        answer, came = Kept(), time.monotonic()
        text = f"{number} " + "word " * (prompt - 2)
        engine.submit(Request(text, max_tokens=tokens, ignore_eos=True, seed=number), answer)
        answer.wait(600)
        assert answer.error is None, answer.error
        return answer.tokens, answer.times[0] - came

    return ask, lambda: engine.stop(1)


def small_engine(tokens: int, prompt: int) -> tuple[Ask, Callable[[], None]]:
    from throughput import Timed, engine

    from aifactory_server.causal_lm.request import Request

    runner = engine()

    def ask(number: int) -> tuple[int, float]:
        answer, came = Timed(), time.monotonic()
        runner.submit(Request(b"x" * prompt, max_tokens=tokens, seed=number), answer)
        answer.over.wait()
        return answer.tokens, answer.times[0] - came

    return ask, lambda: runner.stop(1)


def tiny(folder: Path) -> Path:
    """As large as the model of `throughput`."""
    from hf_models import write_llama

    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    return write_llama(folder, **shape, max_position_embeddings=2048)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["transformers", "small", "tiny"])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.engine == "small":
            ask, stop = small_engine(options.tokens, options.prompt)
        else:
            model = options.model or tiny(Path(folder) / "tiny")
            ask, stop = transformers_engine(model, options.tokens, options.prompt)
        ask(0)
        for clients in options.clients:
            print(measure(ask, clients), flush=True)
        stop()


if __name__ == "__main__":
    main()
