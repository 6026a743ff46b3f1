"""Preferences are read in trl's forms or refused in words, and only their answers are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

import chatmodel
from aifactory_contract.errors import FactoryError
from aifactory_trainer import chat, preferences
from aifactory_trainer.preferences import Pairs
from aifactory_trainer.program import BadInputError

ASK = {"role": "user", "content": "Why?"}
GOOD = {"role": "assistant", "content": "Because."}
BAD = {"role": "assistant", "content": "No."}


def read(tmp_path: Path, *rows: Any) -> list[preferences.Preference]:
    return preferences.read(chatmodel.write_lines(tmp_path / "p.jsonl", list(rows)))


def test_the_three_forms_are_the_same(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path,
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD], "score": 3},
        {"prompt": [ASK], "chosen": "Because.", "rejected": "No."},
    )
    assert first.chosen.messages == second.chosen.messages == third.chosen.messages == (ASK, GOOD)
    assert first.rejected.messages == second.rejected.messages == third.rejected.messages == (ASK, BAD)
    assert first.question == second.question
    assert second.chosen.where == "p.jsonl:2"


def test_a_line_that_is_no_preference_is_named(tmp_path: Path) -> None:
    """Each rule has its test in the contract."""
    with pytest.raises(FactoryError, match=r"^p\.jsonl:2: chosen and rejected are the same"):
        read(tmp_path, *({"prompt": [ASK], "chosen": [GOOD], "rejected": [other]} for other in (BAD, GOOD)))


def test_the_hold_out_is_that_of_conversations(tmp_path: Path) -> None:
    """So what one program has held out the other may train on only if it is told to."""
    pairs = read(tmp_path, *chatmodel.preferences(40))
    talks = chat.read(chatmodel.write_lines(tmp_path / "c.jsonl", chatmodel.conversations(40)))
    held = [pair.chosen.messages[0] for pair in chat.split(pairs, 0.2).held_out]
    assert held == [talk.messages[0] for talk in chat.split(talks, 0.2).held_out]
    assert 0 < len(held) < 40


def test_only_the_last_answer_is_learnt_and_long_pairs_are_left_out(tmp_path: Path) -> None:
    tokenizer = chatmodel.tokenizer()
    long = {"prompt": [ASK], "chosen": "b" * 300, "rejected": "No."}
    earlier = {"prompt": [ASK, GOOD, ASK], "chosen": [GOOD], "rejected": [BAD]}
    pairs = Pairs(tokenizer, read(tmp_path, earlier, long), 256)
    assert (len(pairs), pairs.left_out) == (1, 1)
    said = [tokenizer.decode([label for label in row["labels"] if label != chat.IGNORED]) for row in pairs.rows]
    assert said == ["Because.<|im_end|>\n", "No.<|im_end|>\n"]
    with pytest.raises(BadInputError, match="all 2 preferences are longer than 5 tokens, the shortest has"):
        Pairs(tokenizer, read(tmp_path, earlier, long), 5)


def test_the_digest_tells_pairs_apart(tmp_path: Path) -> None:
    rows = chatmodel.preferences(3)
    digests = {Pairs(chatmodel.tokenizer(), read(tmp_path, *some), 256).digest for some in (rows, rows[::-1], rows[:2])}
    assert len(digests) == 3
