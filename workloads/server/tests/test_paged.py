"""Real architectures through transformers' manager: what it gives is what the model itself gives."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import wait_for
from hf_models import CONTEXT, LINES, write_llama, write_qwen
from kept import Kept
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from aifactory_server import device
from aifactory_server.engines import paged
from aifactory_server.engines.engine import Engine, Limits
from aifactory_server.engines.meter import Meter
from aifactory_server.engines.paged import PagedModel
from aifactory_server.engines.request import Request
from aifactory_server.engines.sampling import Sampling

from .conftest import DEVICES

GREEDY = Sampling(temperature=0.0)
PROMPTS = ["def main():", "the quick", "größer als", "日本語", "0123456789 + - * /" * 8, "x"]
GIB = 2**30


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture
def serve() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def start(
        folder: Path, device: str = "cpu", slots: int = 4, meter: Meter | None = None, **more: Any
    ) -> tuple[Engine, PagedModel]:
        model = PagedModel(folder, torch.device(device), lambda: 4 * GIB, slots=slots, **more)
        made.append(Engine(model, Limits(slots=slots), meter))
        made[-1].start()
        return made[-1], model

    yield start
    for engine in made:
        engine.stop(0)


def ask(engine: Engine, text: str, **more: Any) -> Kept:
    answer = Kept()
    engine.submit(Request(text, **{"sampling": GREEDY, "max_tokens": 24, **more}), answer)
    return answer


def reference(folder: Path, prompt: str, tokens: int, device: str = "cpu") -> str:
    """By the model alone, without a cache in pages and without company."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    words = AutoTokenizer.from_pretrained(folder)
    given = torch.tensor([words.encode(prompt)], device=device)
    with torch.no_grad():
        said = model.generate(given, do_sample=False, max_new_tokens=tokens)[0, given.shape[1] :]
    return str(words.decode(said, skip_special_tokens=True))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("write", [write_llama, write_qwen])
def test_answers_are_those_of_the_model_however_many_ask(
    write: Callable[..., Path], device: torch.device, serve: Callable[..., Any], tmp_path: Path
) -> None:
    folder = write(tmp_path / "model")
    engine, _ = serve(folder, str(device))
    answers = [ask(engine, prompt) for prompt in [*PROMPTS, *PROMPTS]]
    for prompt, answer in zip([*PROMPTS, *PROMPTS], answers, strict=True):
        assert answer.wait(60).error is None
        assert answer.text == reference(folder, prompt, 24, str(device)), prompt


def test_weights_in_several_files_are_read(llama: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    folder = write_llama(tmp_path / "shards", shards=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    engine, _ = serve(folder)
    assert ask(engine, "def main():").wait().text == reference(llama, "def main():", 24)


def test_a_rendered_template_gets_no_second_beginning(llama: Path, serve: Callable[..., Any]) -> None:
    _, model = serve(llama)
    assert model.encode("<s>def") == model.encode("def")
    assert model.encode("def")[0] == 0


def test_seeds_and_filters_are_each_requests_own(qwen: Path, serve: Callable[..., Any]) -> None:
    engine, _ = serve(qwen)
    warm = Sampling(temperature=1.0, top_p=0.95, top_k=50)
    together = [ask(engine, "x", seed=seed, sampling=warm) for seed in (1, 2, 1)]
    greedy = ask(engine, "x")
    texts = [answer.wait().text for answer in together]
    assert texts[0] == texts[2] != texts[1]
    assert greedy.wait().text == reference(qwen, "x", 24)
    assert ask(engine, "x", seed=1, sampling=warm).wait().text == texts[0]


def pieces(folder: Path) -> list[int]:
    """Gives the folder a tokenizer in sentencepiece's form, and tells what that makes of a text."""
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=made, vocab_size=320, byte_fallback=True, hard_vocab_limit=False,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return list(SentencePieceProcessor(model_proto=made.getvalue()).encode("def main():"))


def vocabulary_and_merges(folder: Path) -> list[int]:
    """As GPT-2 has them."""
    known = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}')
    return list(known.encode("def main():", add_special_tokens=False).ids)


@pytest.mark.parametrize("write", [pieces, vocabulary_and_merges])
def test_a_tokenizer_may_have_an_older_form(
    llama: Path, tmp_path: Path, serve: Callable[..., Any], write: Callable[[Path], list[int]]
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    expected = write(folder)
    (folder / "tokenizer.json").unlink()
    engine, model = serve(folder)
    assert model.encode("def main():")[-len(expected) :] == expected
    assert ask(engine, "def", max_tokens=3, ignore_eos=True).wait().tokens == 3


@pytest.mark.parametrize("many", [1, 24])
def test_what_was_read_before_is_not_read_again(llama: Path, serve: Callable[..., Any], many: int) -> None:
    class Cached(Meter):
        tokens = 0

        def cached(self, tokens: int) -> None:
            self.tokens += tokens

    meter = Cached()
    engine, _ = serve(llama, meter=meter)
    prompt = "0123456789 + - * / = the quick brown fox " * 4
    first = ask(engine, prompt, max_tokens=many).wait()
    assert meter.tokens == 0
    again = ask(engine, prompt, max_tokens=many).wait()
    assert again.text == first.text
    assert meter.tokens >= 32
    assert meter.tokens < first.prompt_tokens


def test_the_cache_is_free_when_all_is_said(llama: Path, serve: Callable[..., Any]) -> None:
    engine, model = serve(llama)
    answers = [ask(engine, prompt, max_tokens=60) for prompt in PROMPTS * 4]
    answers[3].gone = answers[7].gone = True
    for answer in answers:
        answer.wait(60)
    processor = model._manager.batch_processor
    wait_for("nothing is in the cache", lambda: not processor.scheduler.active_requests, 10)
    assert all(not allocator.block_table for allocator in processor.cache.cache_allocators.values())
    wait_for("no result is kept", lambda: model._manager.output_router.output_queue.empty(), 10)


def test_a_small_cache_serves_all_one_after_another(llama: Path, serve: Callable[..., Any]) -> None:
    """Room for about two of the twelve at full length; nobody is put off, nobody is wrong."""
    engine, model = serve(llama, slots=8, cache_bytes=350_000)
    assert CONTEXT < model.room < 3 * CONTEXT
    prompts = [f"{number} + {number}" for number in range(12)]
    answers = [ask(engine, prompt, max_tokens=200) for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.wait(90).text == reference(llama, prompt, 200)


def test_a_cache_that_is_too_small_for_the_context_shortens_it(llama: Path, serve: Callable[..., Any]) -> None:
    _, model = serve(llama, cache_bytes=90_000)
    assert 64 <= model.context < CONTEXT
    assert model.context == model.room
    _, model = serve(llama, context=100)
    assert model.context == 100


def test_a_thread_that_dies_is_noticed_and_replaced(llama: Path, serve: Callable[..., Any]) -> None:
    engine, model = serve(llama)
    processor = model._manager.batch_processor

    def fails(*_: Any) -> None:
        raise RuntimeError("no memory left on the device")

    processor._generation_step = fails
    answer = ask(engine, "x").wait()
    assert "computing failed, ask again: RuntimeError: no memory left on the device" in str(answer.error)
    assert _text(engine) == reference(llama, "x", 24)


def _text(engine: Engine) -> str:
    """Asks until the model has started anew."""

    def asked() -> str:
        answer = ask(engine, "x").wait()
        return answer.text if answer.error is None else ""

    return wait_for("it answers again", asked, 20)


def test_steps_have_the_threads_that_their_tokens_are_worth(
    llama: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def threads(matrix: int, tokens: int, most: int) -> int:
        assert matrix > 1000
        asked.append(tokens)
        return most

    monkeypatch.setattr(paged, "step_threads", threads)
    engine, model = serve(llama)
    asked.clear()  # it was warmed up
    prompt = "def main():"
    assert ask(engine, prompt, max_tokens=3).wait().error is None
    assert asked == [len(model.encode(prompt)), 1, 1]


MULTIPLIES = pytest.mark.skipif(not device.multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")


@pytest.mark.parametrize("dtype", [pytest.param(torch.bfloat16, marks=MULTIPLIES), torch.float32], ids=str)
def test_weights_in_bfloat16_are_computed_as_the_cpu_can(
    dtype: torch.dtype, llama: Path, tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for file in llama.glob("token*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: dtype is torch.bfloat16)
    engine, model = serve(tmp_path)
    assert {weight.dtype for weight in model.parameters} == {dtype}
    answer = ask(engine, "def main():").wait()
    assert (answer.error, answer.tokens) == (None, 24)


def test_a_directory_that_can_not_be_served_says_why(llama: Path, tmp_path: Path) -> None:
    def load(name: str, free: int = 4 * GIB) -> str:
        with pytest.raises((ValueError, OSError)) as caught:
            PagedModel(tmp_path / name, torch.device("cpu"), lambda: free, slots=2)
        return str(caught.value)

    for name in ("missing", "large"):
        shutil.copytree(llama, tmp_path / name)
    config = json.loads((tmp_path / "missing/config.json").read_text())
    (tmp_path / "missing/config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "the weights do not fit config.json: missing ['model.layers.2." in load("missing")
    assert "MiB are left; raise resources.limits.memory of container triton" in load("large", 1000)
    with pytest.raises(ValueError, match=r"cache: 17 tokens fit, 64 are the least; raise resources\.limits\.memory"):
        PagedModel(llama, torch.device("cpu"), lambda: GIB, slots=2, cache_bytes=10_000)


def test_another_transformers_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged.transformers, "__version__", "5.24.0")
    with pytest.raises(ValueError, match=r"made for transformers 5\.23\.0, 5\.24\.0 is installed"):
        PagedModel(llama, torch.device("cpu"), lambda: GIB, slots=1)
