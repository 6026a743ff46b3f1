"""Turn a trained model into an artifact that the factory can publish and serve.

Role: write an artifact directory: `config.json`, which says what it is, the weights, and what belongs to them.

What always holds:
- The directory appears by one rename: who sees it sees all of it. One that was there before stays until then.
- A model with a parameter that is NaN or infinite is refused.
- The same model gives the same bytes, so the artifact's digest is reproducible: no time, host or path is in it.
- The files hold no pickle that would have to be run: `huggingface` has safetensors, `torch-export` a graph and raw
  tensors.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aifactory_contract.formats import CONFIG, HUGGINGFACE, TORCH_EXPORT, adapters, check_directory, parts_of
from aifactory_contract.formats.torch_export import PROGRAM
from aifactory_contract.signature import DATA_TYPES, Signature, TensorSpec
from aifactory_trainer import pretrained
from aifactory_trainer.environment import Environment
from aifactory_trainer.model import GPT
from aifactory_trainer.replacement import recover, replacement
from aifactory_trainer.state import not_finite, some, unwrap

log = logging.getLogger("aifactory")

_DATA_TYPES = {getattr(torch, known.torch): known.name for known in DATA_TYPES.values() if known.torch}


class Pretrained(Protocol):
    """What transformers' models and tokenizers can do."""

    def save_pretrained(self, save_directory: str) -> object:
        """Write the files into a directory."""


def export_huggingface(
    model: nn.Module,
    tokenizer: Pretrained | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    output: Path | None = None,
) -> Path:
    """Write a language model as transformers does: `config.json`, safetensors and a tokenizer.

    Args:
        model: a model of transformers, or `aifactory_trainer.model.GPT`; with or without DistributedDataParallel.
        tokenizer: the model's tokenizer; a GPT has its own.
        metrics: figures that go with the model, such as `heldOutBitsPerByte`.
        output: the artifact directory; default: AIFACTORY_OUTPUT.

    Returns:
        The directory.

    Raises:
        ValueError: the model is of another kind, comes without its tokenizer, or a parameter is not finite.
        FactoryError: what was written could not be served: the message says why.
        OSError: the directory can not be written; what was there before is still there.
    """
    inner: Any = unwrap(model)
    own = isinstance(inner, GPT)
    if not own and not hasattr(inner, "save_pretrained"):
        raise ValueError(f"{type(inner).__name__} is no model of transformers: publish it with export_torch")
    if not own and tokenizer is None:
        raise ValueError("a language model is served with its tokenizer: export_huggingface(model, tokenizer)")
    _check_finite(model)
    with _artifact(output) as directory:
        if own:
            pretrained.write(inner, directory)
        else:
            assert tokenizer is not None
            inner.save_pretrained(str(directory))
            tokenizer.save_pretrained(str(directory))
        _write_config(directory, json.loads((directory / CONFIG).read_text()), metrics)
        check_directory(directory, HUGGINGFACE.name)
    return _target(output)


def export_adapter(
    model: nn.Module,
    tokenizer: Pretrained,
    name: str,
    base: Path,
    *,
    metrics: Mapping[str, float] | None = None,
    output: Path | None = None,
) -> Path:
    """Write a base, as it is, with a LoRA adapter beside it, which clients call as `<model>:<name>`.

    Args:
        model: of PEFT, with the adapter.
        tokenizer: the base's.
        name: of the adapter.
        base: the base's directory.
        metrics: figures that go with the model.
        output: the artifact directory; default: AIFACTORY_OUTPUT.

    Returns:
        The directory.

    Raises:
        ValueError: a parameter is not finite.
        FactoryError: what was written could not be served: the message says why.
        OSError: the directory can not be written; what was there before is still there.
    """
    inner: Any = unwrap(model)
    _check_finite(model)
    with _artifact(output) as directory:
        for path in parts_of(base, HUGGINGFACE)[0]:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / path, directory / path)
        tokenizer.save_pretrained(str(directory))
        adapter = directory / adapters.FOLDER / name
        inner.save_pretrained(str(adapter), save_embedding_layers=False)  # else it asks the hub for the base
        config = json.loads((adapter / adapters.CONFIG).read_text())
        # Where the base was is of this machine, and the order of the names is another one in each run.
        config |= {"base_model_name_or_path": "", "target_modules": sorted(config["target_modules"])}
        (adapter / adapters.CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (adapter / "README.md").unlink(missing_ok=True)  # a form to fill in
        _write_config(directory, json.loads((directory / CONFIG).read_text()), metrics)
        check_directory(directory, HUGGINGFACE.name)
    return _target(output)


def export_torch(
    model: nn.Module,
    examples: Mapping[str, Tensor],
    *,
    outputs: Sequence[str] = ("output",),
    max_batch_size: int = 8,
    metrics: Mapping[str, float] | None = None,
    output: Path | None = None,
) -> Path:
    """Write any model as a torch.export program (`model.pt2`) that takes batches of every size up to a largest one.

    Args:
        model: takes the examples in their order; returns a tensor, or one for each name in `outputs`.
        examples: a batch for each input, by the input's name; the first dimension is the batch. Two rows are used.
        outputs: names of the outputs.
        max_batch_size: the largest batch served together, at least 2.
        metrics: figures that go with the model.
        output: the artifact directory; default: AIFACTORY_OUTPUT.

    Returns:
        The directory.

    Raises:
        ValueError: examples or outputs do not fit the model, the program answers other than the model, or a parameter
            is not finite.
        OSError: the directory can not be written; what was there before is still there.
    """
    inner = unwrap(model)
    assert isinstance(inner, nn.Module)
    _check_finite(model)
    served = copy.deepcopy(inner).cpu().eval()  # a program made on a GPU would run on nothing else
    arguments = _two_rows(examples, max_batch_size)
    with torch.no_grad():
        answers = _as_tuple(served(*arguments), outputs)
        rows = torch.export.Dim("batch", min=1, max=max_batch_size)
        program = torch.export.export(served, arguments, dynamic_shapes=tuple({0: rows} for _ in arguments))
    _forget_origin(program)
    signature = Signature(_specs(examples), _specs(dict(zip(outputs, answers, strict=True))), max_batch_size)
    with _artifact(output) as directory:
        torch.export.save(program, directory / PROGRAM)
        loaded = torch.export.load(directory / PROGRAM).module()
        _check_same(loaded, arguments, answers, outputs)
        _write_config(directory, {"format": TORCH_EXPORT.name, **signature.to_config()}, metrics)
    return _target(output)


def _check_finite(model: nn.Module) -> None:
    bad = not_finite({"model": model})
    if bad:
        raise ValueError(f"the model is not exported, it holds NaN or infinity: {some(bad)}")


def _specs(batches: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """What is served by batches like these."""
    for name, batch in batches.items():
        if batch.dtype not in _DATA_TYPES:
            raise TypeError(f"{name}: Triton has no type for {batch.dtype}")
    return tuple(TensorSpec(name, _DATA_TYPES[batch.dtype], tuple(batch.shape[1:])) for name, batch in batches.items())


def _two_rows(examples: Mapping[str, Tensor], max_batch_size: int) -> tuple[Tensor, ...]:
    """torch.export takes a first dimension of 1 for a constant, so the smallest batch to export with is 2."""
    if max_batch_size < 2:
        raise ValueError(f"max_batch_size must be at least 2, it is {max_batch_size}")
    sizes = {name: example.shape[0] if example.dim() else 0 for name, example in examples.items()}
    if not sizes or len(set(sizes.values())) != 1 or min(sizes.values()) < 2:
        raise ValueError(f"examples must be batches of the same size, at least 2; they are {sizes or 'none'}")
    return tuple(example[:2].detach().cpu() for example in examples.values())


def _as_tuple(answer: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    answers = tuple(answer) if isinstance(answer, (tuple, list)) else (answer,)
    if not all(isinstance(value, Tensor) for value in answers):
        raise ValueError("the model must return a tensor or a tuple of tensors")
    if len(answers) != len(names):
        raise ValueError(f"the model returns {len(answers)} tensors, but outputs names {len(names)}: {list(names)}")
    return answers


def _check_same(
    program: Callable[..., Any], arguments: tuple[Tensor, ...], answers: tuple[Tensor, ...], names: Sequence[str]
) -> None:
    with torch.no_grad():
        again = _as_tuple(program(*arguments), names)
    for name, expected, found in zip(names, answers, again, strict=True):
        if not torch.allclose(expected, found, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ValueError(f"the exported program's {name} differs from the model's")


def _forget_origin(program: torch.export.ExportedProgram) -> None:
    """Take out what tells where it was made: the examples, which are data, and file names and line numbers."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _write_config(directory: Path, config: Mapping[str, object], metrics: Mapping[str, float] | None) -> None:
    """Sorted, so that equal configurations are equal bytes; JSON has no NaN, so such metrics are left out."""
    finite = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
    text = json.dumps({**config, "metrics": finite}, indent=2, sort_keys=True, allow_nan=False)
    (directory / CONFIG).write_text(text + "\n")


def _target(output: Path | None) -> Path:
    return Environment.read().output if output is None else output


@contextmanager
def _artifact(output: Path | None) -> Iterator[Path]:
    """A directory to write into that becomes the artifact when the block ends well, and vanishes otherwise."""
    target = _target(output).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".aside-{target.name}-"
    recover(target.parent, prefix)
    with replacement(target, prefix) as directory:
        yield directory
        for path in directory.rglob("*"):
            # Some writers make private files, and the publisher may have another user id.
            path.chmod(0o755 if path.is_dir() else 0o644)
    log.info("artifact written to %s", target)
