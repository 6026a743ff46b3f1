"""Format `huggingface`: a model as `save_pretrained` of Hugging Face's transformers writes it, in one directory.

That is config.json, weights in safetensors (one file, or shards and the index that says which tensor is where), the
tokenizer in any of its forms, and what else describes the model: generation settings, chat template. Code is no part
of it: a model that needs Python of its own (`auto_map`) is refused, and so are weights that are pickles.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from aifactory_contract.engines import AUTO, EMBEDDINGS, VLLM, engine_for
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import adapters, sentences
from aifactory_contract.formats.rules import Files, Format, Serving, invalid, missing
from aifactory_contract.formats.safetensors import read_safetensors
from aifactory_contract.names import CONFIG
from aifactory_contract.server import Server
from aifactory_contract.signature import EMBED, GENERATE

NAME = "huggingface"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_TOKENIZERS = (
    {TOKENIZER},
    {"tokenizer.model"}, {"spiece.model"}, {"sentencepiece.bpe.model"},
    {"vocab.json", "merges.txt"}, {"vocab.txt"},
    {"tekken.json"},
)  # fmt: skip
"""Files that make a tokenizer, each set by itself."""
_TOKENIZER_FILES = frozenset({"tiktoken.model", "qwen.tiktoken"}).union(*_TOKENIZERS)
"""Those that no engine's image can read by themselves, too."""
_SETTINGS = re.compile(r"[^/]+\.(json|jinja)|additional_chat_templates/[^/]+\.jinja")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_MAX_INDEX_BYTES = 16 * 1024 * 1024
_MAX_TOKENIZER_BYTES = 64 * 1024 * 1024
"""Twice the largest in use (a vocabulary of 262,000 pieces and its merges)."""
_TRAINING = "of the training, to resume or follow it"
_OTHERS = "for another program"
_LEFT_OUT = (
    (re.compile(r"(checkpoint-\d+|global_step\d+|runs|wandb|mlruns|logs)/.*"), _TRAINING),
    (
        re.compile(r"(adapters/[^/]+/)?(optimizer|scheduler|scaler|rng_state\w*|random_states\w*)\.(pt|pth|bin|pkl)"),
        _TRAINING,
    ),
    (
        re.compile(
            r"(adapters/[^/]+/)?(training_args\.bin|trainer_state\.json|latest|zero_to_fp32\.py|events\.out\.tfevents\..*)"
        ),
        _TRAINING,
    ),
    (re.compile(r"(onnx|openvino|coreml|original|metal)/.*"), _OTHERS),
    (re.compile(r".*\.(onnx|onnx_data|h5|msgpack|ot|gguf|tflite)|consolidated.*\.safetensors"), _OTHERS),
    (re.compile(r"[^/]*\.(png|jpe?g|gif|svg|webp|pdf)"), "a picture"),
)
"""What trainers leave beside a model, and what repositories of models have for other programs."""
_PICKLED = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json")
_EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|embed_in)\.weight")
_LAYER = re.compile(r"(?:.*\.)?(?:layers?|h)\.(\d+)\..*")


def is_part(path: str) -> bool:
    """Weights, tokenizer, settings, templates, adapters, and how an embedding model makes one vector of many."""
    fixed = path == WEIGHTS or path in _TOKENIZER_FILES or adapters.is_part(path) or sentences.is_part(path)
    return fixed or bool(_SHARD.fullmatch(path) or _SETTINGS.fullmatch(path))


def leaves_out(path: str, paths: Collection[str]) -> str:
    """See `Format.leaves_out`."""
    if _PICKLED.fullmatch(path) and (WEIGHTS in paths or INDEX in paths):
        return "the same weights as pickles"
    return next((why for pattern, why in _LEFT_OUT if pattern.fullmatch(path)), "")


def check(files: Files) -> dict[str, Any]:
    """See `Format.check`."""
    config = files.json(CONFIG)
    _check_config(config)
    shapes = _read_weights(files)
    _check_shapes(config, shapes)
    if not any(names <= files.sizes.keys() for names in _TOKENIZERS):
        raise missing(TOKENIZER, files, "or a tokenizer in another form; write it with tokenizer.save_pretrained")
    adapters.check(files)
    return config


def inspect(files: Files, config: Mapping[str, Any]) -> None:
    """See `Format.inspect`."""
    for path in (TOKENIZER_CONFIG, GENERATION):
        if path in files.sizes:
            _check_no_code(path, files.json(path))
    if TOKENIZER in files.sizes:
        _check_vocabulary(TOKENIZER, files.json(TOKENIZER, _MAX_TOKENIZER_BYTES).get("model"), config)
    elif "vocab.json" in files.sizes:
        vocabulary = files.json("vocab.json", _MAX_TOKENIZER_BYTES)
        _check_vocabulary("vocab.json", {"vocab": vocabulary}, config)
    if EMBEDDINGS.architectures.intersection(map(str, config["architectures"])):
        _check_recipe(files, config)


def _check_recipe(files: Files, config: Mapping[str, Any]) -> None:
    """Whether one vector of a text can be had of it as its files say. Raises also FactoryError (Unservable)."""

    def read(path: str) -> Any:
        return files.document(path) if path in files.sizes else None

    name = str(config["architectures"][0])
    if not name.endswith("Model") and sentences.MODULES not in files.sizes:
        raise FactoryError(
            Reason.UNSERVABLE,
            f"{CONFIG} says {name}, a model that fills in words, and no {sentences.MODULES} says how it makes vectors: "
            "save it with sentence-transformers, or by AutoModel if the mean of its tokens' vectors is wanted",
        )
    sentences.recipe(read)


def _check_config(config: Mapping[str, Any]) -> None:
    _check_no_code(CONFIG, config)
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise invalid(
            f'{CONFIG} names no architecture ("architectures": ["LlamaForCausalLM"]); write the directory with '
            "model.save_pretrained, or give another format"
        )


def _check_no_code(path: str, document: Mapping[str, Any]) -> None:
    if document.get("auto_map"):
        raise invalid(
            f"{path} has auto_map: the model brings Python code of its own, which is never run here; if transformers "
            "knows the architecture itself, remove auto_map and the .py files, else save the model as one it knows"
        )


def _read_weights(files: Files) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors."""
    shards = {path for path in files.sizes if _SHARD.fullmatch(path)}
    if WEIGHTS in files.sizes:
        if shards:
            raise invalid(f"{min(shards)} is there beside {WEIGHTS}: two sets of weights; remove one of them")
        return _read(files, WEIGHTS)
    if INDEX not in files.sizes:
        if shards:
            raise missing(INDEX, files, "which says what is in the shards")
        raise missing(WEIGHTS, files, "or shards of it; write them with model.save_pretrained")
    return _read_shards(files, shards)


def _read_shards(files: Files, shards: set[str]) -> dict[str, tuple[int, ...]]:
    placed = files.json(INDEX, _MAX_INDEX_BYTES).get("weight_map")
    if not (isinstance(placed, dict) and placed and all(isinstance(path, str) for path in placed.values())):
        raise invalid(f"{INDEX} has no weight_map; write it with model.save_pretrained")
    for path in sorted(set(placed.values()) - shards):
        raise invalid(f"{INDEX} names {path}, which is not there: was the copy cut short?")
    for path in sorted(shards - set(placed.values())):
        raise invalid(f"{path} is not in {INDEX}: remove it, or save the model anew into an empty directory")
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(shards):
        shapes = _read(files, path)
        for name in (name for name, place in placed.items() if place == path and name not in shapes):
            raise invalid(f"{path} has no tensor {name!r}, which {INDEX} says it has: they are of different saves")
        found |= shapes
    return found


def _read(files: Files, path: str) -> dict[str, tuple[int, ...]]:
    with files.open(path) as stream:
        return read_safetensors(stream, path)


def _check_shapes(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether config and weights are of one model: another vocabulary or fewer layers are the mistakes people make."""
    rows = {name: shape[0] for name, shape in shapes.items() if _EMBEDDING.fullmatch(name) and len(shape) == 2}
    vocabulary = _number(config, "vocab_size")
    if vocabulary is not None and len(rows) == 1:
        ((name, size),) = rows.items()
        if size != vocabulary:
            raise invalid(f"{CONFIG} says vocab_size {vocabulary}, but {name} has {size} rows: they are of two models")
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    if layers is not None and layers < 1:
        raise invalid(f"{CONFIG} says {layers} layers: write the directory with model.save_pretrained")
    there = {int(match[1]) for name in shapes if (match := _LAYER.fullmatch(name))}
    if layers is not None and there and max(there) + 1 < layers:
        raise invalid(f"{CONFIG} says {layers} layers, but the weights have {max(there) + 1}: they are of two models")


def _check_vocabulary(path: str, model: Any, config: Mapping[str, Any]) -> None:
    pieces = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(pieces, dict) and pieces and all(type(number) is int for number in pieces.values()):
        last = max(pieces.values())
    elif isinstance(pieces, list) and pieces:
        last = len(pieces) - 1
    else:
        raise invalid(f"{path} holds no vocabulary; write it with tokenizer.save_pretrained")
    size = _number(config, "vocab_size")
    if size is not None and last >= size:
        raise invalid(
            f"{path} has a token of number {last}, but {CONFIG} says vocab_size {size}: the tokenizer is another "
            "model's; save both from the same place"
        )


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    """A size in config.json; a model of text and images keeps those of its text part apart."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in names:
            if type(part.get(name)) is int:
                return int(part[name])
    return None


def _serving(config: Mapping[str, Any], wish: str = AUTO, server: Server | None = None) -> Serving:
    engine = engine_for(config, wish, server)
    if engine is EMBEDDINGS:
        return Serving(engine.name, EMBED, probe={"text_input": b"def"})
    probe = {"text_input": b"def", "sampling_parameters": b'{"max_tokens": 1}', "stream": False}
    if engine is not VLLM:
        return Serving(engine.name, GENERATE, True, probe)
    # Without the parameter it counts nothing. By itself Triton would make an instance on each GPU.
    parameters = {"REPORT_CUSTOM_METRICS": "true"}
    return Serving(engine.name, GENERATE, True, probe, places_itself=True, parameters=parameters)


HUGGINGFACE = Format(NAME, (CONFIG, WEIGHTS, TOKENIZER), is_part, leaves_out, check, inspect, _serving)
