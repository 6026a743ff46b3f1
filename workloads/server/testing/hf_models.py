"""Small Hugging Face directories, made up on the spot: random weights, a tokenizer trained on a few lines."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

LINES = [
    "def main():",
    "    return the quick brown fox",
    "größer als ein Wort, 日本語 too",
    "0123456789 + - * / =",
] * 20
CONTEXT = 256


def tokenizer(begin: bool) -> PreTrainedTokenizerFast:
    """Byte-level, like those of most models of today; with `begin` a prompt gets `<s>` in front."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(LINES, trainer)
    if begin:
        raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>" if begin else None, eos_token="</s>")


def word_pieces() -> PreTrainedTokenizerFast:
    """Like BERT's: `[CLS]` in front of a text and `[SEP]` after it. It pads and cuts, which is to change nothing."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=marks, show_progress=False))
    raw.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, raw.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    )
    raw.enable_truncation(8)
    raw.enable_padding(length=8)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def write_encoder(
    folder: Path, architecture: str = "BertModel", seed: int = 0, files: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """An embedding model, and what sentence-transformers writes beside one: JSON by the names of its files."""
    kind, words = getattr(transformers, architecture), word_pieces()
    known = inspect.signature(kind.config_class).parameters
    shape = {name: value for name, value in {**_ENCODER, **changes}.items() if name in known}
    config = kind.config_class(vocab_size=len(words), **shape)
    _write(kind, config, words, folder, seed, False)
    for name, document in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    return folder


_ENCODER = (
    {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3}
    | {"embedding_size": 24, "dim": 48, "hidden_dim": 64, "n_layers": 2, "n_heads": 3}
    | {"max_position_embeddings": CONTEXT, "pad_token_id": 0, "local_attention": 8}
)
"""Small, by whatever names a configuration has for it."""


def write_llama(folder: Path, seed: int = 0, shards: bool = False, **changes: Any) -> Path:
    """Grouped heads, a BOS token."""
    words = tokenizer(begin=True)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(words),
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
        **{**shape, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, **changes},
    )
    return _write(LlamaForCausalLM, config, words, folder, seed, shards)


def write_qwen(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Tied embeddings, biases, no BOS token."""
    words = tokenizer(begin=False)
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = Qwen2Config(
        vocab_size=len(words),
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=True,
        **{**shape, **changes},
    )
    return _write(Qwen2ForCausalLM, config, words, folder, seed, False)


def _write(kind: Any, config: Any, words: Any, folder: Path, seed: int, shards: bool) -> Path:
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    model.save_pretrained(folder, **({"max_shard_size": "100KB"} if shards else {}))
    words.save_pretrained(folder)
    return folder
