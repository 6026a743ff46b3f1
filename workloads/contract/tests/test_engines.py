"""Which engine serves a model, and what is said when none does."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory_contract.engines import BYTES, TRANSFORMERS, engine_for
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import HUGGINGFACE

SMALL = {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 257}


def test_the_small_engine_serves_models_of_bytes() -> None:
    assert engine_for(SMALL) is BYTES
    assert HUGGINGFACE.serving(SMALL).backend == "bytes"


@pytest.mark.parametrize("config", [{**SMALL, "vocab_size": 151936}, {"architectures": ["LlamaForCausalLM"]}])
def test_transformers_serves_the_architectures_whose_answers_were_compared(config: dict[str, Any]) -> None:
    assert engine_for(config) is TRANSFORMERS
    assert HUGGINGFACE.serving(config).backend == "transformers"


@pytest.mark.parametrize(
    "config",
    [
        {**SMALL, "architectures": ["BertModel", 3]},
        {**SMALL, "architectures": "Qwen3ForCausalLM"},
        {},
    ],
)
def test_what_no_engine_serves_is_told_with_what_they_serve(config: dict[str, Any]) -> None:
    with pytest.raises(FactoryError, match="it serves: Qwen3ForCausalLM with a token for each byte") as caught:
        engine_for(config)
    assert caught.value.reason is Reason.UNSERVABLE
