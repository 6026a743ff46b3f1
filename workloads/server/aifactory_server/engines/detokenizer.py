"""From tokens to text, token by token, never half a character.

Decoding a token alone is wrong: a tokenizer may drop the space before the first word, and a character may need several
tokens. So a few tokens before are decoded along, and what they alone give is taken off again, as vLLM does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
_BEFORE = 6
"""Tokens of the prompt that are decoded along."""
_MOST = 64
"""Tokens that are decoded at once."""
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Text of one answer.

    Args:
        prompt: the tokens before it.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        self._tokens = list(prompt[-_BEFORE:])
        self._read = len(self._tokens)
        """Of `_tokens`, those before this piece."""
        self._left = decode(self._tokens)
        """The text of `_tokens` that is said already."""

    def push(self, token: int) -> str:
        """Text that can leave now."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(_BROKEN) and len(self._tokens) < _MOST:
            # The tokens to come may make a character of the last one; what is before it stays what it is.
            new, self._left = text[len(self._left) : -1], max(self._left, text[:-1], key=len)
            return new
        return self._leave(text)

    def finish(self) -> str:
        """What was held back, a broken character too."""
        return self._leave(self._decode(self._tokens))

    def _leave(self, text: str) -> str:
        new = text[len(self._left) :]
        if not new and len(self._tokens) < _MOST:
            return ""  # special tokens, which are left out of the text: what is before them still counts
        # The tokens of this piece become the ones that are decoded along with the next.
        self._tokens = self._tokens[self._read :]
        self._read = len(self._tokens)
        self._left = self._decode(self._tokens)
        return new
