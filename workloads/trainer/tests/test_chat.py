"""Conversations are read whole or refused in words, split for ever, and only the assistant's tokens are learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="a Python without the test packages, as gpu-check may use")

import chatmodel
from aifactory_contract.errors import FactoryError
from aifactory_trainer import chat
from aifactory_trainer.chat import ChatError, Conversation
from aifactory_trainer.program import BadInputError


def row(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


GOOD = row(("user", "Hi"), ("assistant", "Hello."))


def conversation(*messages: tuple[str, str]) -> Conversation:
    return Conversation(tuple({"role": role, "content": content} for role, content in messages), "chat.jsonl:1")


def test_files_are_read_folder_by_folder_in_the_order_of_names_and_lines(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(f"{GOOD}\n\n{row(('system', 's'), ('user', 'u'), ('assistant', 'a'))}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text(f"{GOOD}\r\n")
    (tmp_path / "README.md").write_text("no conversation")
    found = chat.read(tmp_path)
    assert [each.where for each in found] == ["b.jsonl:1", "b.jsonl:3", "a/x.jsonl:1"]
    assert [message["role"] for message in found[1].messages] == ["system", "user", "assistant"]
    assert [each.where for each in chat.read(tmp_path / "b.jsonl")] == ["b.jsonl:1", "b.jsonl:3"]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """Each rule has its test in the contract."""
    (tmp_path / "chat.jsonl").write_text(f"{GOOD}\n{row(('user', 'u'), ('bot', 'b'))}\n")
    with pytest.raises(FactoryError, match=r"^chat\.jsonl:2: messages\[1\] has the role 'bot'"):
        chat.read(tmp_path)


def numbered(numbers: range) -> list[Conversation]:
    return [conversation(("user", f"Question {number}"), ("assistant", "Answer")) for number in numbers]


def test_what_is_held_out_follows_from_the_question_alone() -> None:
    first = chat.split(numbered(range(200)), 0.1)
    assert 5 <= len(first.held_out) <= 40
    assert len(first.train) + len(first.held_out) == 200
    more = chat.split(list(reversed(numbered(range(400)))), 0.1)
    held = {each.question for each in first.held_out}
    assert held <= {each.question for each in more.held_out}, "more data, in another order, move nothing"
    assert not held & {each.question for each in more.train}


def test_the_same_question_is_on_one_side_whatever_the_answer() -> None:
    twice = [
        conversation(("system", str(number)), ("user", f"Q{number % 50}"), ("assistant", str(number)))
        for number in range(200)
    ]
    parts = chat.split(twice, 0.2)
    assert not {each.question for each in parts.train} & {each.question for each in parts.held_out}
    assert len(parts.held_out) % 4 == 0


def test_an_empty_part_is_refused() -> None:
    few = numbered(range(3))
    with pytest.raises(ChatError, match=r"of 3 conversations none is held out with --hold-out-share 1e-06.*raise it"):
        chat.split(few, 1e-6)
    with pytest.raises(ChatError, match=r"all 3 conversations are held out: lower --hold-out-share 0\.999999"):
        chat.split(few, 0.999999)


def test_a_given_hold_out_is_not_trained_on() -> None:
    parts = chat.split_from(numbered(range(10)), numbered(range(8, 12)))
    assert (len(parts.train), len(parts.held_out), parts.dropped) == (8, 4, 2)
    with pytest.raises(ChatError, match="every question of the data is in --hold-out too"):
        chat.split_from(numbered(range(3)), numbered(range(5)))


def learnt(tokenizer: Any, tokens: list[int], labels: list[int]) -> list[str]:
    """The pieces of text that are learnt."""
    found, piece = [], []
    for token, label in zip(tokens, labels, strict=True):
        if label != chat.IGNORED:
            assert label == token
            piece.append(token)
        elif piece:
            found.append(tokenizer.decode(piece))
            piece = []
    return [*found, tokenizer.decode(piece)] if piece else found


def test_the_answers_and_their_ends_are_learnt_and_nothing_else() -> None:
    tokenizer = chatmodel.tokenizer()
    talk = conversation(
        ("system", "Be brief."), ("user", "größer?"), ("assistant", "Ja 🙂."), ("user", "Why?"), ("assistant", "So.")
    )
    ((tokens, labels),) = chat.encode(tokenizer, talk)
    assert learnt(tokenizer, tokens, labels) == ["Ja 🙂.<|im_end|>\n", "So.<|im_end|>\n"]
    served = tokenizer.apply_chat_template(list(talk.messages[:4]), add_generation_prompt=True)["input_ids"]
    assert tokens[: len(served)] == served, "what stands in front of the last answer is what the server will make"


FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes the last answer in another way than those before it."""


def test_where_a_template_writes_earlier_answers_in_another_way_each_answer_is_an_example() -> None:
    tokenizer = chatmodel.tokenizer(FORGETFUL)
    talk = conversation(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    rows = chat.encode(tokenizer, talk)
    assert [learnt(tokenizer, *each) for each in rows] == [
        ["<think></think>b<|im_end|>\n"],
        ["<think></think>d<|im_end|>\n"],
    ]
    assert len(chat.encode(tokenizer, conversation(("user", "a"), ("assistant", "b")))) == 1


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system here') }}", "chat.jsonl:1: the chat template refuses it: no system here"),
        ("{% for x in %}", "chat.jsonl:1: the chat template refuses it: "),
        (
            chatmodel.TEMPLATE.replace("assistant\n{% endif", "bot\n{% endif"),
            "chat.jsonl:1: the chat template asks for",
        ),
    ],
)
def test_a_template_that_does_not_fit_is_refused(template: str, words: str) -> None:
    with pytest.raises(BadInputError) as told:
        chat.encode(chatmodel.tokenizer(template), conversation(("user", "u"), ("assistant", "a")))
    assert words in str(told.value)


def test_longer_ones_are_left_out_and_counted() -> None:
    tokenizer = chatmodel.tokenizer()
    talks = [conversation(("user", "u"), ("assistant", "a" * length)) for length in (5, 500, 10)]
    examples = chat.Examples(tokenizer, talks, 60)
    assert (len(examples), examples.left_out) == (2, 1)
    assert examples[0]["input_ids"] == chat.encode(tokenizer, talks[0])[0][0]
    assert examples.tokens == sum(len(examples[index]["input_ids"]) for index in (0, 1))
    assert examples.digest != chat.Examples(tokenizer, reversed(talks), 60).digest
    with pytest.raises(ChatError, match=r"all 3 conversations are longer than 10 tokens, the shortest has \d+: raise"):
        chat.Examples(tokenizer, talks, 10)
