"""The pieces of an answer together are its text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aifactory_server.engines.detokenizer import Detokenizer


def as_bytes(tokens: list[int]) -> str:
    """A tokenizer of bytes; tokens from 256 on are special and leave no text."""
    return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")


WORDS = ["Hel", "lo", "▁wor", "ld", "▁a", "b"]


def as_words(tokens: list[int]) -> str:
    """One that drops the space before the first word, as sentencepiece does."""
    return "".join(WORDS[token % len(WORDS)] for token in tokens).replace("▁", " ").removeprefix(" ")


@given(st.text(max_size=40), st.text(max_size=20))
def test_pieces_of_characters_are_held_back(text: str, prompt: str) -> None:
    detokenizer = Detokenizer(as_bytes, list(prompt.encode()))
    pieces = [detokenizer.push(token) for token in text.encode()]
    assert "".join(pieces) + detokenizer.finish() == text
    assert all("\ufffd" not in piece for piece in pieces if "\ufffd" not in text)


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_spaces_are_kept(tokens: list[int], prompt: list[int]) -> None:
    detokenizer = Detokenizer(as_words, prompt)
    pieces = "".join(detokenizer.push(token) for token in tokens) + detokenizer.finish()
    assert as_words(prompt) + pieces == as_words(prompt + tokens)


def test_a_broken_character_leaves_at_the_end() -> None:
    detokenizer = Detokenizer(as_bytes, [])
    assert detokenizer.push(0xC3) == ""
    assert detokenizer.finish() == "\ufffd"


def test_bytes_that_are_no_text_are_not_held_for_ever() -> None:
    detokenizer = Detokenizer(as_bytes, [])
    assert "".join(detokenizer.push(0xFF) for _ in range(100)).count("\ufffd") > 90


@given(st.binary(max_size=50))
def test_any_bytes_give_what_they_give_together(data: bytes) -> None:
    detokenizer = Detokenizer(as_bytes, [])
    pieces = "".join(detokenizer.push(token) for token in data) + detokenizer.finish()
    assert pieces == data.decode("utf-8", "replace")


def test_special_tokens_leave_nothing_and_are_not_kept_for_ever() -> None:
    calls: list[int] = []

    def decode(tokens: list[int]) -> str:
        calls.append(len(tokens))
        return as_bytes(tokens)

    detokenizer = Detokenizer(decode, [65])
    assert "".join(detokenizer.push(300) for _ in range(500)) == ""
    assert detokenizer.push(66) == "B"
    assert max(calls) < 100
