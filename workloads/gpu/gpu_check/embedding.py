"""The part about embeddings: back end `embeddings` with a BERT of random weights."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from gpu_check.generating import prompt
from gpu_check.llama import tokenizer
from gpu_check.parts import Outcome, Place
from gpu_check.serving import allocated
from gpu_check.stand_in import Request, back_end

_APART = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""How far a vector, of length 1, may lie from that of float32 on the CPU. Those of two texts are 0.03 apart or more."""
_COMPARED = 16
_BATCHES = (1, 64)
_SECONDS = 1.0
_FILES: dict[str, Any] = {
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    "modules.json": [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2", "Normalize")))
    ],
}


def embed(place: Place) -> Outcome:
    """Vectors are those of the same model in float32 on the CPU; texts a second, from texts to vectors."""
    outcome = Outcome()
    for dtype in _APART if place.on_gpu else (torch.float32,):
        folder, kind, before = write_bert(place, dtype), str(dtype).removeprefix("torch."), allocated(place)
        expected = by_transformers(folder, [prompt(number) for number in range(_COMPARED)])
        served = back_end("embeddings", folder, place.device)
        for batch in _BATCHES:
            figures = speed(place, served, batch) | {"type": kind, "textsInRequest": batch}
            outcome.figures.setdefault("embeddings", []).append(figures)
        found = [ask(served, [number])[0] for number in range(_COMPARED // 2)]
        found += ask(served, list(range(_COMPARED // 2, _COMPARED)))
        distances = torch.cdist(torch.stack(found), expected, compute_mode="donot_use_mm_for_euclid_dist")
        apart = distances.diagonal().max().item()
        other = (distances + torch.eye(_COMPARED)).min().item()
        what = f"{kind}: vectors are those of float32 on the CPU, within {_APART[dtype]}, and far from other texts'"
        seen = {"apart": apart, "nearest other": other}
        outcome.check(what, apart <= _APART[dtype] and 3 * apart < other, seen)
        outcome.figures.setdefault("apart", {})[kind] = round(apart, 6)
        del served
        gc.collect()
        left = allocated(place) - before
        outcome.check(f"{kind}: unloading gives the memory back (64 MiB for libraries)", left <= 64 << 20, f"{left} B")
    return outcome


def write_bert(place: Place, dtype: torch.dtype) -> Path:
    """The directory, as sentence-transformers writes it."""
    folder = place.work / f"bert-{str(dtype).removeprefix('torch.')}"
    words = tokenizer(place.sizes.llama_vocabulary)
    words.pad_token = words.eos_token
    shape: dict[str, Any] = dict(place.sizes.bert)
    config = BertConfig(
        vocab_size=len(words), pad_token_id=words.pad_token_id, initializer_range=shape["hidden_size"] ** -0.5, **shape
    )
    torch.manual_seed(7)
    BertModel(config).to(dtype).save_pretrained(folder)
    words.save_pretrained(folder)
    for name, document in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    return folder


@torch.no_grad()
def by_transformers(folder: Path, texts: list[bytes]) -> Tensor:
    """A vector of each text alone, of length 1."""
    model, words = AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
    hidden = [model(**words(text.decode(), return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(hidden), dim=1)


def ask(served: Any, numbers: list[int]) -> Tensor:
    """The vectors of these texts, in one request."""
    (answer,) = served.execute([Request(text_input=[[prompt(number)] for number in numbers])])
    if answer.error is not None:
        raise answer.error
    return torch.from_numpy(answer.tensors["embedding"])


def speed(place: Place, served: Any, batch: int) -> dict[str, Any]:
    """Requests of so many texts, one after the other, each of other texts."""
    for turn in range(3):
        ask(served, list(range(turn * batch, (turn + 1) * batch)))
    place.wait()
    turn, began = 3, time.monotonic()
    while (seconds := time.monotonic() - began) < _SECONDS:
        ask(served, list(range(turn * batch, (turn + 1) * batch)))
        turn += 1
    return {
        "textsPerSecond": round((turn - 3) * batch / seconds, 1),
        "requestMilliseconds": round(1e3 * seconds / (turn - 3), 2),
    }
