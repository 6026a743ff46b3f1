"""A chat model of a few thousand numbers, made on the spot: a Llama over bytes with a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE) -> Any:
    """A token for each byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[2], additional_special_tokens=SPECIAL[:2])
    made.chat_template = template
    return made


def config(**changes: Any) -> LlamaConfig:
    """Its shape; dropout, so that a run which resumes has to have its random generators back."""
    shape = {
        "vocab_size": 256 + len(SPECIAL),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "attention_dropout": 0.1,
        "initializer_range": 0.3,  # else an adapter, which can not change the embedding, could change no answer
        "eos_token_id": 258,
        "pad_token_id": 258,
        "bos_token_id": 256,
    }
    return LlamaConfig(**{**shape, **changes})


def write(directory: Path, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """The model's directory, as `save_pretrained` writes it."""
    torch.manual_seed(3)
    LlamaForCausalLM(config(**changes)).to(dtype).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    assert AutoTokenizer.from_pretrained(directory).chat_template == TEMPLATE
    return directory


def conversations(count: int) -> list[dict[str, Any]]:
    """Questions with answers that can be learnt."""
    words = ("apple", "plum", "pear", "fig")
    return [
        {
            "messages": [
                {"role": "user", "content": f"Fruit {number}?"},
                {"role": "assistant", "content": f"The {words[number % 4]}."},
            ]
        }
        for number in range(count)
    ]


def preferences(count: int) -> list[dict[str, Any]]:
    """Questions with an answer that is wanted and one that is not, which can be learnt."""
    return [
        {"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": f"Stone {number % 3}."}
        for number, row in enumerate(conversations(count))
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
