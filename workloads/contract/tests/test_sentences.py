"""How an embedding model makes one vector of a text, by its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import write_model

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import HUGGINGFACE, check_directory, parts_of
from aifactory_contract.formats.sentences import Recipe, recipe_of

POOLING = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.base.modules.x."
TASK = {"transformer_task": "feature-extraction", "modality_config": {"text": {"method": "forward"}}}


def modules(*kinds: str, before: str = OLD, **paths: str) -> list[dict[str, Any]]:
    """modules.json, as every release of sentence-transformers writes it but for the module paths in it."""
    places = {kind: paths.get(kind, "" if number == 0 else f"{number}_{kind}") for number, kind in enumerate(kinds)}
    return [
        {"idx": number, "name": str(number), "path": places[kind], "type": before + kind}
        for number, kind in enumerate(kinds)
    ]


def write(folder: Path, **files: Any) -> Path:
    """A model with further files by their names: `/` is `__`, without `.json`."""
    model = {"architectures": ["BertModel"], "max_position_embeddings": 512, "pad_token_id": 0}
    write_model(folder, **{**model, **files.pop("config", {})})
    for stem, document in files.items():
        path = folder / f"{stem.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return folder


def pooling(**settings: Any) -> dict[str, Any]:
    return {"_1_Pooling__config": {**POOLING, **settings}}


def read(folder: Path, **files: Any) -> Recipe:
    return recipe_of(write(folder, **{name.removeprefix("_"): document for name, document in files.items()}))


CLS = pooling(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
THREE = {"modules": modules("Transformer", "Pooling", "Normalize")}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ("mean", False)),
        (pooling(), ("mean", False)),
        (CLS, ("cls", False)),
        ({**THREE, **CLS}, ("cls", True)),
        ({**THREE, **pooling()}, ("mean", True)),
        ({"modules": modules("Transformer", "Pooling"), **CLS}, ("cls", False)),
        ({"modules": modules("Transformer", "Pooling", before=NEW), "sentence_bert_config": TASK}, ("mean", False)),
        ({"_1_Pooling__config": {"pooling_mode": "cls", "include_prompt": True}}, ("cls", False)),
        ({"_1_Pooling__config": {"pooling_mode": ["mean"]}}, ("mean", False)),
        ({"_1_Pooling__config": {"word_embedding_dimension": 8}}, ("mean", False)),
    ],
)
def test_what_becomes_of_the_tokens_vectors(tmp_path: Path, files: dict[str, Any], expected: tuple[str, bool]) -> None:
    found = read(tmp_path, **files)
    assert (found.pooling, found.normalized) == expected


ROBERTA = {"config": {"architectures": ["XLMRobertaModel"], "max_position_embeddings": 514, "pad_token_id": 1}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 512),
        ({"sentence_bert_config": {"max_seq_length": 256}}, 256),
        ({"sentence_bert_config": {"max_seq_length": None}}, 512),
        ({"tokenizer_config": {"model_max_length": 128}}, 128),
        ({"tokenizer_config": {"model_max_length": 10**30}}, 512),
        (ROBERTA, 512),
        ({**ROBERTA, "sentence_bert_config": {"max_seq_length": 514}}, 512),
        ({"config": {"architectures": ["MPNetForMaskedLM"], "max_position_embeddings": 514, "pad_token_id": 1}}, 512),
        ({"config": {"max_position_embeddings": None}}, None),
    ],
)
def test_the_longest_text_is_the_shortest_limit(tmp_path: Path, files: dict[str, Any], expected: int | None) -> None:
    assert read(tmp_path, **files).max_tokens == expected


def test_what_is_put_before_texts(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    files = {"config_sentence_transformers": settings, "sentence_bert_config": {"do_lower_case": True}}
    found = read(tmp_path, **files)
    assert (found.prompt, found.lower_case) == ("query: ", True)
    settings["default_prompt_name"] = None
    assert read(tmp_path, **files).prompt == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            pooling(pooling_mode_max_tokens=True),
            r"1_Pooling/config\.json asks for mean, pooling_mode_max_tokens; served",
        ),
        ({"_1_Pooling__config": {"pooling_mode": "lasttoken"}}, "asks for lasttoken"),
        (
            {"modules": modules("Transformer", "Pooling", "Dense")},
            r"modules\.json has 'Transformer', 'Pooling', 'Dense'",
        ),
        ({"sentence_bert_config": {"transformer_task": "fill-mask"}}, "transformer_task 'fill-mask'"),
        ({"modules": []}, r"modules\.json has no modules"),
        ({"modules": {"a": 1}}, r"modules\.json has no modules"),
        ({"modules": ["x", 3]}, r"modules\.json has '', ''"),
        ({"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "model_type 'SparseEncoder'"),
        (
            {
                **pooling(include_prompt=False),
                "config_sentence_transformers": {"prompts": {"q": "q: "}, "default_prompt_name": "q"},
            },
            "leaves out the tokens of the prompt",
        ),
        ({"config": {"architectures": ["BertForMaskedLM"]}}, r"fills in words, and no modules\.json says"),
    ],
)
def test_what_is_not_known_is_unservable_when_the_version_is_verified(
    tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    write(tmp_path, **{name.removeprefix("_"): document for name, document in files.items()})
    with pytest.raises(FactoryError, match=words) as caught:
        check_directory(tmp_path, "huggingface")
    assert caught.value.reason is Reason.UNSERVABLE


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules": modules("Transformer", "Pooling", Transformer="0_BERT")}, "has the transformer in '0_BERT'"),
        ({"modules": modules("Transformer", "Pooling", Pooling="../x")}, r"has the pooling in '\.\./x'"),
        ({"1_Pooling__config": []}, r"1_Pooling/config\.json must be a JSON object"),
        ({"config_sentence_transformers": {"default_prompt_name": "q"}}, "default_prompt_name 'q', which is none of"),
    ],
)
def test_what_is_damaged_is_an_invalid_artifact(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(FactoryError, match=words) as caught:
        check_directory(tmp_path, "huggingface")
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_the_settings_of_modules_are_part_of_a_model(tmp_path: Path) -> None:
    write(tmp_path, modules=THREE["modules"], **{"1_Pooling__config": POOLING})
    (tmp_path / "2_Normalize").mkdir()
    paths, beside = parts_of(tmp_path, HUGGINGFACE)
    assert {"modules.json", "1_Pooling/config.json"} <= set(paths)
    assert not beside
    assert HUGGINGFACE.is_part("1_Pooling/config.json")
    assert not HUGGINGFACE.is_part("1_Pooling/model.safetensors")
    assert check_directory(tmp_path).format == "huggingface"
