"""A Hugging Face model made up on the spot: random weights of a given shape, and a tokenizer that fits them."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gpu_check.parts import Place

_END = "</s>"


def write_llama(place: Place) -> Path:
    """The directory, as `save_pretrained` writes it, in bfloat16."""
    folder = place.work / "llama"
    if folder.exists():
        return folder
    words = tokenizer(place.sizes.llama_vocabulary)
    shape: dict[str, Any] = dict(place.sizes.llama)
    config = LlamaConfig(
        vocab_size=len(words),
        # So that what the layers give is about as large as what they get, whatever the width: attention matters.
        initializer_range=shape["hidden_size"] ** -0.5,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
        **shape,
    )
    torch.manual_seed(4)
    with torch.device(place.device):
        model = LlamaForCausalLM(config)
    model.to(device=place.device, dtype=torch.bfloat16)
    with torch.no_grad():
        # No token ends a text, and each is a text of its own: its first one can be timed.
        silent = [token for text, token in words.get_vocab().items() if text == _END or not _prints(text)]
        model.lm_head.weight[torch.tensor(silent, device=place.device)] = 0.0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte-level as those of most models of today: all bytes, then pairs and triples of printable characters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [letter for letter in letters if _prints(letter)]
    pairs = list(product(printable, printable))
    triples = ((first + second, third) for (first, second), third in product(pairs, printable))
    merges = [*pairs, *islice(triples, max(0, size - 1 - len(letters) - len(pairs)))][: size - 1 - len(letters)]
    vocabulary = {text: token for token, text in enumerate([_END, *letters, *map("".join, merges)])}
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=_END, pad_token=_END)


def _prints(text: str) -> bool:
    """Whether all bytes of a token are printable ASCII; the byte-level alphabet writes a space as `Ġ`."""
    return all("!" <= letter <= "~" or letter == "Ġ" for letter in text)
