"""The part about fine-tuning: LoRA steps with peft on the Llama that `generate` serves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpu_check.llama import write_llama
from gpu_check.parts import Outcome, Place, text_folder
from gpu_check.training import gib

_WARM = 3
_APART = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""By how much the logits of a model may differ from those of the same weights, added up in another order."""


def fine_tune(place: Place) -> Outcome:
    """LoRA over all linear layers, in bfloat16 on a GPU: speed, memory; the adapter alone learns, and can be kept."""
    outcome, sizes = Outcome(), place.sizes
    folder = write_llama(place)
    base = _base(place, folder)
    parameters = sum(weight.numel() for weight in base.parameters())
    layers, width = base.config.num_hidden_layers, base.config.hidden_size
    weight = base.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    torch.manual_seed(6)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config)
    learning = [each for each in model.parameters() if each.requires_grad]
    windows = _windows(place, folder)
    seconds, losses = _steps(place, model, learning, windows)
    outcome.check("the loss falls", losses[-1] < losses[0] - 0.1, losses)
    outcome.check("the base stays as it is", torch.equal(weight, before), "up_proj of the first layer")
    speed = sizes.tune_steps * windows.numel() / seconds
    flops = 4 * parameters + 12 * layers * width * sizes.tune_context
    peak = flops.peak(place.device)
    outcome.figures = {
        "parameters": parameters,
        "learning": sum(each.numel() for each in learning),
        "batch": sizes.tune_batch,
        "context": sizes.tune_context,
        "stepsPerSecond": round(sizes.tune_steps / seconds, 2),
        "tokensPerSecond": round(speed),
        "flopsPerToken": flops,
        "peakMemoryGiB": gib(torch.cuda.max_memory_allocated()) if place.on_gpu else None,
        "loss": f"{losses[0]:.3f} to {losses[-1]:.3f}",
    }
    if peak:
        outcome.figures["mfu"] = round(speed * flops / peak, 4)
    _kept(outcome, place, folder, model, windows[:1])
    return outcome


def _steps(place: Place, model: Any, learning: list[Tensor], windows: Tensor) -> tuple[float, list[float]]:
    """As many as the place asks for, on the same text; seconds without the first few, and every loss."""
    optimizer = torch.optim.AdamW(learning, lr=place.sizes.tune_rate, fused=True)
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    losses, began = [], 0.0
    for step in range(_WARM + place.sizes.tune_steps):
        if step == _WARM:
            place.wait()
            began = time.monotonic()
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.on_gpu):
            loss = model(input_ids=windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    place.wait()
    return time.monotonic() - began, [loss.item() for loss in losses]


def _kept(outcome: Outcome, place: Place, folder: Path, model: Any, window: Tensor) -> None:
    """The adapter read again, and merged into the base, says what the trained model says."""
    limit = _APART[model.dtype]
    with torch.no_grad():
        model.eval()
        own = model(input_ids=window).logits.float()
        untrained = _base(place, folder)(input_ids=window).logits.float()
        model.save_pretrained(place.work / "adapter")
        read = PeftModel.from_pretrained(_base(place, folder), place.work / "adapter")
        apart = (read(input_ids=window).logits.float() - own).abs().max().item()
        outcome.check(f"an adapter that is read again is the one that was kept, within {limit}", apart <= limit, apart)
        apart = (read.merge_and_unload()(input_ids=window).logits.float() - own).abs().mean().item()
        outcome.check(f"merged it says the same, within {limit} on average", apart <= limit, apart)
        changed = (untrained - own).abs().mean().item()
        outcome.check("it has changed what the base says", changed > 3 * limit, changed)


def _base(place: Place, folder: Path) -> Any:
    dtype = torch.bfloat16 if place.on_gpu else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(place.device)


def _windows(place: Place, folder: Path) -> Tensor:
    """Pieces of the text that the other parts train on."""
    sizes = place.sizes
    text = (text_folder(place.work) / "07.txt").read_text()[: 8 * sizes.tune_batch * sizes.tune_context]
    tokens = AutoTokenizer.from_pretrained(folder)(text, verbose=False).input_ids
    count = sizes.tune_batch * sizes.tune_context
    return torch.tensor(tokens[:count], device=place.device).view(sizes.tune_batch, sizes.tune_context)
