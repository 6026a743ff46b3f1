"""The training program with models of transformers: what it makes is what transformers and our engines load."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aifactory_contract.engines import engine_for
from aifactory_trainer import corpus, memory, options, pretrain, tokens
from aifactory_trainer.distributed import Group

transformers = pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAST = ("--context=32", "--batch=4", "--learning-rate=1e-2", "--sample=5")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """The environment of a job with an input `corpus`, and a configuration, for the program run in this process."""
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_ERROR_FILE", "AIFACTORY_PROGRESS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("checkpoints", "output", "inputs"):
        monkeypatch.setenv(f"AIFACTORY_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(tmp_path / "termination-log"))
    (tmp_path / "termination-log").write_text("")
    (tmp_path / "inputs" / "corpus").mkdir(parents=True)
    write_lines(tmp_path / "inputs" / "corpus" / "texts.jsonl")
    (tmp_path / "inputs" / "shape.json").write_text(json.dumps(SHAPE))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "aifactory")
    return tmp_path


def write_lines(path: Path) -> None:
    lines = (f"number {number} is followed by number {number + 1}; größer" for number in range(400))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def refused(job: Path, *arguments: str) -> str:
    """Why the program gave up."""
    with pytest.raises(SystemExit) as ended:
        pretrain.main(arguments)
    assert ended.value.code == 93
    message = json.loads((job / "termination-log").read_text())["message"]
    assert not (job / "checkpoints").exists() or not list((job / "checkpoints").glob("step-*"))
    return str(message["message"]).removeprefix("NoRestart: ")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_what_it_trains_is_what_transformers_loads(
    job: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[Any] = []
    export = pretrain.export_huggingface

    def note(model: Any, *arguments: Any, **options: Any) -> Path:
        trained.append(model)
        return export(model, *arguments, **options)

    monkeypatch.setattr(pretrain, "export_huggingface", note)
    (job / "inputs" / "shape.json").write_text(json.dumps(SHAPE | {"model_type": kind}))
    pretrain.main(["--config=inputs/shape.json", "--tokenizer=train:600", *FAST, "--steps=40"])

    tokenizer = transformers.AutoTokenizer.from_pretrained(job / "output")
    model = transformers.AutoModelForCausalLM.from_pretrained(job / "output").eval()
    text = "number 7 is followed by number 8; größer"
    given = tokenizer(text, return_tensors="pt")
    assert given["input_ids"][0, 0] == tokenizer.bos_token_id == model.config.eos_token_id, "as each document begins"
    assert tokenizer.decode(given["input_ids"][0], skip_special_tokens=True) == text
    assert given["input_ids"].shape[1] < 20, "it has learnt words"
    with torch.no_grad():
        logits = model(**given).logits
        torch.testing.assert_close(logits, trained[0](**given).logits, rtol=1e-5, atol=1e-5)
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], given["input_ids"][0, 1:])
    assert loss < 3.5, "and what follows what"

    config = json.loads((job / "output" / "config.json").read_text())
    assert engine_for(config).name == "transformers"
    assert config["use_cache"] is not False
    assert config["metrics"].keys() == {"heldOutBitsPerByte"}
    assert 0 < config["metrics"]["heldOutBitsPerByte"] < 6
    assert "a sample:\n" in caplog.text


def test_a_model_is_trained_on(job: Path) -> None:
    pretrain.main(["--config=inputs/shape.json", "--tokenizer=train:400", *FAST, "--steps=30"])
    (job / "output").rename(job / "inputs" / "base")
    first = json.loads((job / "inputs" / "base" / "config.json").read_text())
    (job / "checkpoints").rename(job / "before")
    pretrain.main(["--init=base", *FAST, "--steps=10", "--activation-checkpointing"])
    again = json.loads((job / "output" / "config.json").read_text())
    assert again.pop("metrics")["heldOutBitsPerByte"] < first.pop("metrics")["heldOutBitsPerByte"]
    assert again == first
    for name in ("tokenizer.json", "generation_config.json"):
        assert (job / "output" / name).read_text() == (job / "inputs" / "base" / name).read_text()
    assert "step-10" in {path.name for path in (job / "checkpoints").iterdir()}


def test_weights_are_stored_in_the_type_of_the_configuration(job: Path) -> None:
    (job / "inputs" / "shape.json").write_text(json.dumps(SHAPE | {"dtype": "bfloat16"}))
    pretrain.main(["--config=inputs/shape.json", *FAST, "--steps=2"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job / "output")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    tokenizer = transformers.AutoTokenizer.from_pretrained(job / "output")
    assert tokenizer("aß")["input_ids"] == [256, *"aß".encode()], "bytes, where no tokenizer is asked for"


@pytest.mark.parametrize(
    ("name", "vocabulary", "millions"),
    [("15m", 32_000, 15), ("124m", 50_257, 124), ("360m", 49_152, 362), ("1b", 32_000, 1039)],
)
def test_presets_are_of_the_size_that_they_are_called_by(name: str, vocabulary: int, millions: int) -> None:
    from aifactory_trainer import causal

    words = tokens.Bytes()
    words.size = vocabulary
    config = causal.of_preset(options.parse([f"--preset={name}"]), words)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (
            {"model_type": "bert"},
            [],
            "model_type 'bert' is no causal language model that can be served when it is trained",
        ),
        ({"model_type": "t5"}, [], "model_type 't5' is no causal language model"),
        (
            {"model_type": "lama"},
            [],
            "--config inputs/shape.json: model_type 'lama' is no causal language model that can be",
        ),
        ({"model_type": None}, [], '--config inputs/shape.json has no "model_type"'),
        (
            {"vocab_size": 300},
            ["--tokenizer=train:400"],
            "the tokenizer has 400 tokens, and vocab_size of the configuration",
        ),
        ({}, ["--context=65"], "--context 65 is more than the 64 tokens that the model can read"),
        ({}, ["--tokenizer=corpus"], "inputs/corpus holds no tokenizer that transformers reads"),
        (
            {},
            ["--tokenizer=nowhere"],
            "--tokenizer nowhere: there is no such file or directory, and no input of this name",
        ),
        ({}, ["--tensor-parallel=2"], "--tensor-parallel 2 does not divide the 1 processes"),
    ],
)
def test_bad_input_is_a_sentence_before_training_begins(
    job: Path, change: dict[str, object], arguments: list[str], words: str
) -> None:
    (job / "inputs" / "shape.json").write_text(json.dumps(SHAPE | change))
    assert words in refused(job, "--config=inputs/shape.json", *FAST, *arguments)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "--config=nowhere.json",
            "--config nowhere.json: there is no such file or directory, and no input of this name",
        ),
        ("--config=broken.json", "--config broken.json: Expecting property name"),
        ("--init=nowhere", "--init nowhere: there is no such file or directory, and no input of this name"),
        ("--init=corpus", "config.json is missing"),
    ],
)
def test_a_model_that_is_not_there_or_broken(job: Path, argument: str, words: str) -> None:
    (job / "broken.json").write_text("{")
    assert words in refused(job, argument)


def test_a_model_that_is_too_large_for_memory_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 2 << 30)
    said = refused(job, "--preset=1b")
    assert "the model has 974 million numbers" in said
    assert said.endswith("Raise resources.limits.memory of container trainer, or take a smaller model")


def test_a_checkpoint_of_another_model_is_refused(job: Path) -> None:
    """Also where its weights have the same shapes."""
    pretrain.main(["--config=inputs/shape.json", *FAST, "--steps=2"])
    others: list[tuple[dict[str, Any], list[str], str]] = [
        ({"hidden_size": 48}, [], r"other hidden_size \(32, now 48\)"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, [], r"other rope_parameters \(.*500\.0"),
        ({"hidden_act": "gelu"}, [], r"other hidden_act \(silu, now gelu\)"),
        ({}, ["--tokenizer=train:257"], r"other tokenizer \(bytes, now sha256:\w{16}\)"),
    ]
    for changes, more, words in others:
        (job / "inputs" / "shape.json").write_text(json.dumps(SHAPE | changes))
        with pytest.raises(SystemExit) as ended:
            pretrain.main(["--config=inputs/shape.json", *FAST, "--steps=4", *more])
        assert ended.value.code == 93
        message = json.loads((job / "termination-log").read_text())["message"]["message"]
        assert re.search(rf"step-2 can not be taken up, it was written with {words}", message)
        (job / "termination-log").write_text("")
    (job / "inputs" / "shape.json").write_text(json.dumps(SHAPE | {"attention_dropout": 0.1}))
    pretrain.main(["--config=inputs/shape.json", *FAST, "--steps=4"])


def test_a_bad_line_is_named(job: Path) -> None:
    path = job / "inputs" / "corpus" / "more.jsonl"
    path.write_text('{"text": "good"}\n\n{"txt": "bad"}\n{"text": 3}\n{"text": "half \\ud800"}\nno json\n')
    said = refused(job, *FAST)
    assert said.startswith('more.jsonl:3: it has no text: a line is one document, {"text": "..."}; more.jsonl:4: ')
    assert "more.jsonl:5: text has half a character, \\ud800: write it whole; and 1 more lines" in said


def test_lines_are_documents_and_equal_ones_are_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_lines(path)
    write_lines(tmp_path / "b.jsonl")
    alone, both = corpus.load(path), corpus.load(tmp_path)
    assert len(alone.train) + len(alone.held_out) == 400
    assert 5 < len(alone.held_out) < 50
    assert both.held_out == alone.held_out * 2
    assert not set(both.held_out) & set(both.train)


def test_a_learnt_tokenizer_is_the_same_each_time_and_stays(tmp_path: Path) -> None:
    texts = [f"{word} {word}s {number}".encode() for number, word in enumerate(["größe", "tank", "herb"] * 40)]
    first, again = (tokens.learnt(300, texts, Group(), tmp_path / name) for name in ("a", "b"))
    assert (tmp_path / "a" / "tokenizer-300.json").read_bytes() == (tmp_path / "b" / "tokenizer-300.json").read_bytes()
    kept = tokens.learnt(300, [b"other text"], Group(), tmp_path / "a")
    rows = [tokens.row(texts, words).tolist() for words in (first, again, kept)]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0].count(first.end) == len(texts) + 1, "one mark between two, and at both ends"
    assert first.published().decode(rows[0], skip_special_tokens=True).encode() == b"".join(texts)


def test_text_that_is_no_utf8_does_not_end_it(tmp_path: Path) -> None:
    words = tokens.learnt(257, [b"\xff\xfeabc"], Group(), tmp_path)
    assert words.published().decode(tokens.row([b"a\xff"], words).tolist(), skip_special_tokens=True) == "a�"
