"""An embedding model: texts to tokens, tokens to one vector for each text.

How the vectors of the tokens become one, and how long a text may be, the model's own files say
(`aifactory_contract.formats.sentences`). A text that is too long is an error and never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from aifactory_contract.formats.sentences import CLS, recipe_of
from aifactory_server.engines.loading import LOCAL, load

_STEP_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Of one computation, with the padding: it bounds its memory, and more at once are hardly sooner."""
_HEADS = r"(.*\.)?pooler\..*"
"""What some models bring for other tasks: no vector depends on it."""


class BadText(ValueError):
    """A text can not be encoded; the message says why."""


class Encoder:
    """A model, loaded. Raises ValueError or FactoryError, with words for a person, if it can not be served.

    Args:
        folder: as `save_pretrained` writes it.
        free: bytes of the device's memory that are left.
    """

    def __init__(self, folder: Path, device: torch.device, free: int) -> None:
        self._recipe = recipe_of(folder)
        self._device = device
        self._model = load(AutoModel, folder, device, free, unused=_HEADS)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        padding = (self._tokenizer.pad_token_id, self._model.config.pad_token_id)
        self._padding = next((token for token in padding if token is not None), 0)
        self._vocabulary = int(self._model.get_input_embeddings().num_embeddings)

    @property
    def parameters(self) -> list[Tensor]:
        """All weights."""
        return list(self._model.parameters())

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, with what the model puts around it."""
        recipe = self._recipe
        whole = [recipe.prompt + text for text in texts]
        found = self._tokenizer([text.lower() for text in whole] if recipe.lower_case else whole, verbose=False)
        return [list(row) for row in found["input_ids"]]

    def check(self, tokens: Sequence[int]) -> None:
        """Raises BadText if this is nothing that the model reads."""
        most = self._recipe.max_tokens
        if not tokens:
            raise BadText("has no tokens")
        if most is not None and len(tokens) > most:
            raise BadText(f"has {len(tokens)} tokens, and this model reads {most} at most: shorten it")
        if min(tokens) < 0 or max(tokens) >= self._vocabulary:
            raise BadText(f"has a token that is none of this model's, which are numbers below {self._vocabulary}")

    @torch.inference_mode()
    def vectors(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """A vector for each row of tokens, in float32 on the CPU. Raises ArithmeticError if one is no vector."""
        found: list[tuple[int, Tensor]] = []
        for places in _together([len(row) for row in rows], _STEP_TOKENS[self._device.type]):
            computed = self._vectors([rows[place] for place in places])
            found += zip(places, computed, strict=True)
        vectors = torch.stack([vector for _, vector in sorted(found, key=lambda one: one[0])])
        if not bool(vectors.isfinite().all()):
            raise ArithmeticError(
                "the model gives no numbers for it: its weights are damaged, or too large for its type"
            )
        return vectors

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Iterable[Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self._padding] * (longest - len(row))] for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long().to(self._device)
        hidden = self._model(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state.float()
        if self._recipe.pooling == CLS:
            pooled = hidden[:, 0]
        else:
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if self._recipe.normalized:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return pooled.cpu()


def _together(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The places of rows that are computed together: of like length, so that little is padded."""
    places: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if places and lengths[place] * (len(places) + 1) > most:
            yield places
            places = []
        places.append(place)
    if places:
        yield places
