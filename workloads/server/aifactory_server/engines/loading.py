"""Reading a Hugging Face directory with transformers: from files alone, without its code, and with nothing made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from aifactory_server.device import check_room, computed_in

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
transformers.utils.logging.disable_progress_bar()


def load(kind: Any, folder: Path, device: torch.device, free: int, unused: str = "(?!)") -> Any:
    """A model in evaluation mode on a device. Raises ValueError, with words for a person, if it can not be served.

    Args:
        kind: the class of transformers that makes it, such as AutoModelForCausalLM.
        free: bytes of the device's memory that are left.
        unused: pattern of the names of weights that may be missing, because nothing is computed with them.
    """
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    kept = getattr(config, "dtype", None)
    dtype = computed_in(device, kept)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    factor = dtype.itemsize / kept.itemsize if isinstance(dtype, torch.dtype) and isinstance(kept, torch.dtype) else 1.0
    check_room(device, int(stored * factor), free)
    attempts = ("sdpa", "eager")
    for attention in attempts:
        try:
            model, told = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                **LOCAL,
            )
            break
        except ValueError as error:
            # Some models have no other attention than their own plain one.
            if attention == attempts[-1] or "scaled_dot_product_attention" not in str(error):
                raise
    missing = sorted(name for name in map(str, told.get("missing_keys") or ()) if not re.fullmatch(unused, name))
    wrong = sorted(map(str, told.get("mismatched_keys") or ()))
    if missing or wrong:
        raise ValueError(
            f"the weights do not fit config.json: missing {missing[:3]}, of another shape {wrong[:3]}; publish the "
            "directory as save_pretrained writes it"
        )
    return model.to(device).eval()
