"""Keeping an answer to a JSON schema, or parts of it to several: which tokens may come next, by llguidance.

What always holds
- A schema that can not be kept is refused before anything is computed: what would be kept in part only is refused too.
- Compiling a schema and finding the tokens of a step end soon, whatever the schema is, and take no more memory than
  LIMITS allow; who goes beyond that has an error of his own.
- An answer that ends by itself is whole JSON by the schema. One that ends by its length is the beginning of one.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from aifactory_server.engines import tags
from aifactory_server.engines.request import BadRequest

_SPACE = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}"}
"""Between two tokens of JSON: small models that are allowed to, say nothing but space and never come to an end."""
_WORDS = 400
LIMITS = LLParserLimits(step_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False)
"""Of one answer; a state takes one or two kB."""


class Structure:
    """One answer's state.

    Args:
        wanted: a JSON schema, or a structural tag (`tags`), as JSON.
        ends: the model's tokens that end a text.
    """

    def __init__(self, tokenizer: LLTokenizer, wanted: str, ends: Collection[int]) -> None:
        try:
            document = json.loads(wanted)
            if tags.is_tag(document):
                text = tags.grammar(document, {"x-guidance": _SPACE}, lambda mark: _is_special(tokenizer, mark))
                grammar = LLMatcher.grammar_from_lark(text)
            else:
                grammar = LLMatcher.grammar_from_json_schema(wanted, overrides=_SPACE)
        except BadRequest:
            raise
        except (ValueError, RecursionError) as error:
            raise BadRequest(_refusal(str(error))) from None
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
        if self._matcher.is_error():
            raise BadRequest(_refusal(self._matcher.get_error()))
        self._size = tokenizer.vocab_size
        self._ends = torch.tensor(sorted(end for end in ends if end < self._size), dtype=torch.long)

    def allowed(self) -> Tensor:
        """For each token whether it may come now, bool. Raises RuntimeError if that would take too long to find out."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        found = torch.from_numpy(np.unpackbits(bits, count=self._size, bitorder="little")).bool()
        found[self._ends] = self._matcher.is_accepting()
        return found

    def take(self, token: int) -> None:
        """It comes. Raises RuntimeError if it must not."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def over(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(f"the answer could not be kept to its schema: {_line(self._matcher.get_error())}")


def _is_special(tokenizer: LLTokenizer, mark: str) -> bool:
    tokens = tokenizer.tokenize_str(mark, parse_special=True)
    return len(tokens) == 1 and tokenizer.is_special_token(tokens[0])


def _refusal(words: str) -> str:
    return f"structured_outputs has a schema that can not be kept: {_line(words)}; write it in another way"


def _line(words: str) -> str:
    return " ".join(words.split())[:_WORDS]
