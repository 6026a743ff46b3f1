"""Tokens that are bytes, as a tokenizer file of the field says it.

Byte-level BPE (GPT-2, `bytes_to_unicode`) writes every byte as a printable character: those that are printable in
Latin-1 stand for themselves, the others for the characters from 256 on, in order. A BPE vocabulary of just these, each
with its byte as number, and no merges, makes a token of every byte.
"""

from __future__ import annotations

from typing import Any

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _characters() -> tuple[str, ...]:
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in _PRINTABLE else chr(next(others)) for byte in range(256))


CHARACTERS = _characters()
"""The character of each byte."""


def is_byte_level(tokenizer: Any) -> bool:
    """Whether a tokenizer.json makes a token of every byte, with the byte as its number."""
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("merges") != []:
        return False
    before = tokenizer.get("pre_tokenizer")
    plain = isinstance(before, dict) and before.get("type") == "ByteLevel" and before.get("add_prefix_space") is False
    vocabulary = model.get("vocab")
    bytes_only = vocabulary == {character: byte for byte, character in enumerate(CHARACTERS)}
    return plain and bytes_only and tokenizer.get("normalizer") is None
