"""What Triton's vLLM back end reads beside config.pbtxt: the arguments of vLLM's engine, and where adapters are.

The arguments come from the pod (its GPUs) and from settings, which are environment variables of the container. Only
those listed here are taken: among vLLM's arguments are some that run code of the model's or of anybody's
(`trust_remote_code`, `worker_cls`), and one that vLLM does not know would fail the load in words that help nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.adapters import CONFIG as CONFIG_OF_ADAPTER
from aifactory_contract.formats.adapters import RANKS
from aifactory_contract.names import CONFIG
from aifactory_contract.server import Server

MODEL, ADAPTERS = "model.json", "multi_lora.json"
_MAX_ADAPTERS_AT_ONCE = 8
"""Different ones in one step, for each of which vLLM keeps room on the GPU."""
_OWN = "AIFACTORY_VLLM_"
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError
    return number


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError
    return text


_NUMBER, _SHARE = (_count, "a whole number above 0"), (_share, "a number above 0 and up to 1")
_FLAG, _WORD_ = (_flag, "true or false"), (_word, "one word")
_SETTINGS: Mapping[str, tuple[str, tuple[Callable[[str], Any], str]]] = {
    # Those that the engine `transformers` has too.
    "AIFACTORY_ENGINE_SLOTS": ("max_num_seqs", _NUMBER),
    "AIFACTORY_ENGINE_CONTEXT": ("max_model_len", _NUMBER),
    "AIFACTORY_ENGINE_CACHE_BYTES": ("kv_cache_memory_bytes", _NUMBER),
    f"{_OWN}DTYPE": ("dtype", _WORD_),
    f"{_OWN}ENABLE_PREFIX_CACHING": ("enable_prefix_caching", _FLAG),
    f"{_OWN}ENFORCE_EAGER": ("enforce_eager", _FLAG),
    f"{_OWN}GPU_MEMORY_UTILIZATION": ("gpu_memory_utilization", _SHARE),
    f"{_OWN}KV_CACHE_DTYPE": ("kv_cache_dtype", _WORD_),
    f"{_OWN}MAX_NUM_BATCHED_TOKENS": ("max_num_batched_tokens", _NUMBER),
    f"{_OWN}QUANTIZATION": ("quantization", _WORD_),
    f"{_OWN}TENSOR_PARALLEL_SIZE": ("tensor_parallel_size", _NUMBER),
}
"""The argument of vLLM's AsyncEngineArgs that each variable is, and what its value may be."""


def files(folder: Path, config: Mapping[str, Any], server: Server) -> dict[str, str]:
    """Names and texts of the files for a version in this folder.

    Args:
        config: its config.json.
        server: the pod's.

    Raises FactoryError (Unservable) if a setting is none, or the model can not be laid out over the pod's GPUs.
    """
    arguments = {"model": str(folder), "tensor_parallel_size": max(1, server.gpus), **_settings(server.settings)}
    _check_parallel(arguments["tensor_parallel_size"], config, server)
    ranks = adapter_ranks(folder)
    made = {}
    if ranks:
        most = next(rank for rank in RANKS if rank >= max(ranks.values()))
        arguments |= {"enable_lora": True, "max_lora_rank": most, "max_loras": min(len(ranks), _MAX_ADAPTERS_AT_ONCE)}
        made[ADAPTERS] = _json({name: str(folder / "adapters" / name) for name in ranks})
    return {MODEL: _json(arguments), **made}


def adapter_ranks(folder: Path) -> dict[str, int]:
    """The rank of each adapter of a checked version, by its name."""
    found = sorted(folder.glob(f"adapters/*/{CONFIG_OF_ADAPTER}"))
    return {path.parent.name: int(json.loads(path.read_bytes())["r"]) for path in found}


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _settings(given: Mapping[str, str]) -> dict[str, Any]:
    arguments = {}
    for name, text in sorted(given.items()):
        if name not in _SETTINGS:
            if name.startswith(_OWN):
                known = ", ".join(one for one in _SETTINGS if one.startswith(_OWN))
                raise _wrong(f"{name} is no setting; there are: {known}")
            continue  # of another engine
        argument, (read, what) = _SETTINGS[name]
        try:
            arguments[argument] = read(text)
        except (ValueError, KeyError) as error:
            raise _wrong(f"{name}: {text!r} is not {what}") from error
    return arguments


def _check_parallel(gpus: int, config: Mapping[str, Any], server: Server) -> None:
    if gpus > max(1, server.gpus):
        raise _wrong(f"{_OWN}TENSOR_PARALLEL_SIZE is {gpus}, and the server of this pod sees {server.gpus} GPUs")
    heads = config.get("num_attention_heads", config.get("n_head"))
    if type(heads) is int and heads % gpus:
        some = ", ".join(str(number) for number in range(1, min(heads, 64) + 1) if heads % number == 0)
        message = (
            f"{CONFIG} says {heads} attention heads, which can not be shared by {gpus} GPUs; give the pod as many as "
            f"one of these: {some}"
        )
        raise FactoryError(Reason.UNSERVABLE, message)


def _wrong(what: str) -> FactoryError:
    return FactoryError(Reason.UNSERVABLE, f"environment of container triton: {what}")
