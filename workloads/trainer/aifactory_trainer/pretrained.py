"""The language model as a directory that Hugging Face's transformers, and whatever reads such directories, loads.

Role: names and shapes. `model.py` computes with what belongs together in one matrix and with norms that have no
weights; here stand the same numbers as Qwen3ForCausalLM has them, its settings, and a tokenizer file that makes a token
of every byte. `AutoModelForCausalLM.from_pretrained` gives the same logits, which a test shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aifactory_contract.bytelevel import CHARACTERS
from aifactory_contract.formats.huggingface import GENERATION, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from aifactory_contract.names import CONFIG
from aifactory_trainer.model import END_OF_TEXT, GPT, NORM_EPSILON, ROPE_BASE, VOCABULARY, GPTConfig

ARCHITECTURE = "Qwen3ForCausalLM"
END_OF_TEXT_WORD = "<|endoftext|>"


def write(model: GPT, directory: Path) -> None:
    """Write the model's directory; the same model gives the same bytes."""
    save_file(to_files(model.state_dict(), model.config), str(directory / WEIGHTS), metadata={"format": "pt"})
    ends = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
    words = {"bos_token": END_OF_TEXT_WORD, "eos_token": END_OF_TEXT_WORD}
    documents = {
        CONFIG: {**settings(model.config), **ends},
        GENERATION: ends,
        TOKENIZER: tokenizer(),
        TOKENIZER_CONFIG: {
            **words,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.context,
        },
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def read(directory: Path) -> GPT:
    """The model of such a directory, on the CPU. Raises ValueError if its config.json is of another architecture."""
    config = config_of(json.loads((directory / CONFIG).read_text()))
    model = GPT(config)
    model.load_state_dict(from_files(load_file(directory / WEIGHTS), config))
    return model.eval()


def settings(config: GPTConfig) -> dict[str, object]:
    """The fields of config.json."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3",
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.embedding // config.heads,
        "hidden_size": config.embedding,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_BASE,
        "attention_bias": False,
        "tie_word_embeddings": True,
    }


def config_of(document: Mapping[str, Any]) -> GPTConfig:
    """The configuration that `settings` was given. Raises ValueError if something in it would be another network."""
    if document.get("architectures") != [ARCHITECTURE]:
        raise ValueError(f"{CONFIG}: architectures is {document.get('architectures')!r}, expected {[ARCHITECTURE]!r}")
    names = ("max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size")
    for name in names:
        if type(document.get(name)) is not int:
            raise ValueError(f"{CONFIG}: {name} must be an integer, it is {document.get(name)!r}")
    config = GPTConfig(*(document[name] for name in names))
    for name, value in settings(config).items():
        if document.get(name) != value:
            raise ValueError(f"{CONFIG}: {name} is {document.get(name)!r}, this model's is {value!r}")
    return config


def to_files(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The tensors of the files, on the CPU, each in memory of its own, which safetensors asks for."""
    found = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": torch.ones(config.embedding)}
    for layer in range(config.layers):
        here, block = f"model.layers.{layer}", f"blocks.{layer}"
        for name, part in zip("qkv", state[f"{block}.attention.qkv.weight"].chunk(3), strict=True):
            found[f"{here}.self_attn.{name}_proj.weight"] = part
        for name, part in zip(("gate", "up"), state[f"{block}.gate_up.weight"].chunk(2), strict=True):
            found[f"{here}.mlp.{name}_proj.weight"] = part
        found[f"{here}.self_attn.o_proj.weight"] = state[f"{block}.attention.out.weight"]
        found[f"{here}.mlp.down_proj.weight"] = state[f"{block}.down.weight"]
        for name in ("q_norm", "k_norm"):
            found[f"{here}.self_attn.{name}.weight"] = torch.ones(config.embedding // config.heads)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{here}.{name}.weight"] = torch.ones(config.embedding)
    return {name: found[name].detach().cpu().clone().contiguous() for name in sorted(found)}


def from_files(found: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The state of the model. Raises ValueError if a norm has weights, which this model's have not."""
    for name, tensor in found.items():
        if name.endswith("norm.weight") and not bool((tensor == 1).all()):
            raise ValueError(f"{name} is not all ones: this model was trained on by another program")
    state = {"embedding.weight": found["model.embed_tokens.weight"]}
    for layer in range(config.layers):
        here, block = f"model.layers.{layer}", f"blocks.{layer}"
        state |= {
            f"{block}.attention.qkv.weight": torch.cat(
                [found[f"{here}.self_attn.{name}_proj.weight"] for name in "qkv"]
            ),
            f"{block}.attention.out.weight": found[f"{here}.self_attn.o_proj.weight"],
            f"{block}.gate_up.weight": torch.cat([found[f"{here}.mlp.{name}_proj.weight"] for name in ("gate", "up")]),
            f"{block}.down.weight": found[f"{here}.mlp.down_proj.weight"],
        }
    return state


def tokenizer() -> dict[str, object]:
    """The contents of tokenizer.json: a token for each byte, END_OF_TEXT before each text."""
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    start = {"SpecialToken": {"id": END_OF_TEXT_WORD, "type_id": 0}}
    bytes_as_characters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": END_OF_TEXT,
                "content": END_OF_TEXT_WORD,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": bytes_as_characters,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, sequence],
            "pair": [start, sequence, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                END_OF_TEXT_WORD: {"id": END_OF_TEXT_WORD, "ids": [END_OF_TEXT], "tokens": [END_OF_TEXT_WORD]}
            },
        },
        "decoder": bytes_as_characters,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: byte for byte, character in enumerate(CHARACTERS)},
            "merges": [],
        },
    }
