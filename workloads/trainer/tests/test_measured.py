"""What a model is asked, and what its answers are worth: as lm-evaluation-harness has it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

import chatmodel
from aifactory_contract.errors import FactoryError
from aifactory_trainer import measured
from aifactory_trainer.chat import IGNORED
from aifactory_trainer.likelihood import Scores
from aifactory_trainer.measured import Losses, windows
from aifactory_trainer.program import BadInputError

CHOICES = {"prompt": "Two and two are", "choices": ["four", "five"], "answer": 0}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return chatmodel.tokenizer()


def labels(row: dict[str, list[int]]) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]


def scores(*values: float, greedy: tuple[bool, ...] = ()) -> Scores:
    return Scores(torch.tensor(values, dtype=torch.float64), torch.tensor(greedy or (False,) * len(values)))


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9])
def test_windows_ask_about_each_token_once(count: int) -> None:
    tokens = list(range(100, 100 + count))
    rows = windows(tokens, 7, 4)
    assert [token for row in rows for token in labels(row)] == tokens
    for row in rows:
        assert len(row["input_ids"]) - 1 <= 4, "read at once"
        assert row["labels"][0] == IGNORED
    assert rows[0]["input_ids"][0] == 7
    assert all(len(row["input_ids"]) == 5 for row in rows[1:]), "the last one reads what is before it too"


def test_a_text_is_measured_by_token_and_by_byte(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("grün")  # 5 bytes, so tokens of this tokenizer
    chatmodel.write_lines(tmp_path / "b.jsonl", [{"text": "abc"}, {"text": ""}])
    found = measured.texts(tmp_path, tokenizer, 256)
    assert (found.documents, found.bytes, len(found.rows)) == (2, 8, 2)
    figures = found.figures(scores(-5 * math.log(2), -11 * math.log(2)))
    assert figures["bits_per_byte"] == pytest.approx(2.0)
    assert figures["loss"] == pytest.approx(2 * math.log(2))
    assert figures["perplexity"] == pytest.approx(4.0)
    assert figures["tokens"] == 8


def test_conversations_have_no_bytes() -> None:
    row = {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}
    assert Losses([row], 1).figures(scores(-4.0)) == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.e**2),
        "tokens": 2,
        "documents": 1,
    }


def test_choices_are_compared_by_likelihood_and_for_each_character(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"prompt": "p", "choices": ["ab", "abcdefgh"], "answer": 1},
        {"prompt": "p", "choices": ["ab", "abcdefgh"], "answer": 0},
        {"prompt": "p", "choices": ["ab", "abcdefgh", "x"], "answer": 0},
    ]
    task = measured.tasks(chatmodel.write_lines(tmp_path / "t.jsonl", rows), tokenizer, 256)["t"]
    assert len(task.rows) == 7
    # The short ones are likelier, the long ones for each character.
    figures = task.figures(scores(-4, -8, -4, -8, -4, -8, -9))
    assert figures["acc"] == pytest.approx(2 / 3)
    assert figures["acc_norm"] == pytest.approx(1 / 3)
    assert figures["acc_stderr"] == pytest.approx(math.sqrt(2 / 9 / 2))
    assert measured.flat({"t": figures}) == {"t/acc": figures["acc"], "t/acc_norm": figures["acc_norm"]}


def test_an_answer_is_right_when_the_model_would_have_said_it(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "p", "answer": "a"}, {"prompt": "p", "answer": "b"}]
    task = measured.tasks(chatmodel.write_lines(tmp_path / "t.jsonl", rows), tokenizer, 256)["t"]
    assert task.figures(scores(-1, -1, greedy=(True, False)))["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("prompt", "read", "asked"),
    [
        ("Two", "Two", " four"),
        ("Two ", "Two", "  four"),
        (
            [{"role": "user", "content": "Two?"}],
            "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n",
            "four",
        ),
    ],
)
def test_what_is_before_an_answer(tmp_path: Path, tokenizer: Any, prompt: Any, read: str, asked: str) -> None:
    path = chatmodel.write_lines(tmp_path / "t.jsonl", [{"prompt": prompt, "answer": "four"}])
    (row,) = measured.tasks(path, tokenizer, 256)["t"].rows
    assert tokenizer.decode(labels(row)) == asked
    assert tokenizer.decode(row["input_ids"]) == read + asked


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], 't.jsonl:2: it has no "prompt" and "answer": one question a line, {"prompt"'),
        ({"prompt": "p"}, 't.jsonl:2: it has no "prompt" and "answer"'),
        ({**CHOICES, "label": 1}, "t.jsonl:2: it has 'label', which means nothing here"),
        ({**CHOICES, "prompt": " "}, 't.jsonl:2: "prompt" has no content; it is a text that is not empty'),
        ({**CHOICES, "prompt": []}, 't.jsonl:2: "prompt" is an empty list'),
        ({**CHOICES, "prompt": [{"role": "assistant", "content": "x"}]}, "t.jsonl:2: prompt[0] is of the assistant"),
        ({**CHOICES, "choices": ["a"]}, 't.jsonl:2: "choices" is no list of two texts or more'),
        ({**CHOICES, "choices": ["a", 1]}, "t.jsonl:2: choices[1] has no content"),
        ({**CHOICES, "answer": 2}, 't.jsonl:2: "answer" is 2; it is the number of a choice, 0 to 1'),
        ({**CHOICES, "answer": "four"}, "t.jsonl:2: \"answer\" is 'four'; it is the number of a choice"),
        ({**CHOICES, "answer": True}, 't.jsonl:2: "answer" is True'),
        ({"prompt": "p", "answer": 1}, 't.jsonl:2: "answer" has no content'),
        ({"prompt": "p", "answer": "a"}, "t.jsonl: some lines have choices and some have none: make two tasks of it"),
        ({**CHOICES, "prompt": "p" * 300}, "t.jsonl:2: it has 305 tokens, and the model is to read 256: see --max-len"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, tokenizer: Any, row: Any, words: str) -> None:
    path = chatmodel.write_lines(tmp_path / "t.jsonl", [CHOICES, row])
    with pytest.raises((BadInputError, FactoryError)) as refused:
        measured.tasks(path, tokenizer, 256)
    assert str(refused.value).startswith(words)


def test_tasks_are_named_after_their_files(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("a", "b/c"):
        chatmodel.write_lines(tmp_path / f"{name}.jsonl", [CHOICES])
    (tmp_path / "README.md").write_text("no task")
    assert list(measured.tasks(tmp_path, tokenizer, 256)) == ["a", "c"]
    chatmodel.write_lines(tmp_path / "b" / "a.jsonl", [CHOICES])
    with pytest.raises(BadInputError, match=r"a\.jsonl: a task has the name of its file, and there are two"):
        measured.tasks(tmp_path, tokenizer, 256)


def test_what_holds_nothing_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(BadInputError, match=r"has no \.jsonl file: one question a line"):
        measured.tasks(tmp_path, tokenizer, 256)
    with pytest.raises(BadInputError, match="has no text"):
        measured.texts(tmp_path, tokenizer, 256)
    (tmp_path / "x.bin").write_bytes(b"ab\xff")
    with pytest.raises(BadInputError, match=r"x\.bin: byte 2 is not UTF-8: it is no text"):
        measured.texts(tmp_path, tokenizer, 256)
    for number in range(9):
        chatmodel.write_lines(tmp_path / f"{number}.jsonl", [CHOICES])
    with pytest.raises(BadInputError, match="has 9 tasks; a job measures 8"):
        measured.tasks(tmp_path, tokenizer, 256)


def test_conversations_are_told_from_texts(tmp_path: Path) -> None:
    for line, chats in (({"messages": []}, True), ({"text": "a"}, False), (3, False)):
        path = tmp_path / "a.jsonl"
        path.write_text(f"\n{json.dumps(line)}\n")
        assert measured.is_chat(path) is chats
        assert measured.is_chat(tmp_path) is chats
    path.write_text("{")
    assert not measured.is_chat(path)
