"""Format `torch-export`: a program of PyTorch's own operators, saved by torch.export.save, with its signature."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aifactory_contract.engines import AUTO
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats.pt2 import check_pt2
from aifactory_contract.formats.rules import Files, Format, Serving, missing
from aifactory_contract.names import CONFIG
from aifactory_contract.server import Server
from aifactory_contract.signature import Signature

NAME = "torch-export"
PROGRAM = "model.pt2"


def _check(files: Files) -> dict[str, Any]:
    if PROGRAM not in files.sizes:
        raise missing(PROGRAM, files, "which torch.export.save writes")
    config = files.json(CONFIG)
    Signature.of_config(config)
    with files.open(PROGRAM) as stream:
        check_pt2(stream)
    return config


def _leaves_out(path: str, paths: Collection[str]) -> str:
    """Nothing but what no format has."""
    return ""


def _inspect(files: Files, config: Mapping[str, Any]) -> None:
    """All there is to see is seen by `check`."""


def _serving(config: Mapping[str, Any], wish: str = AUTO, server: Server | None = None) -> Serving:
    if wish != AUTO:
        message = f"engine {wish} serves language models, and this is of format {NAME}: leave runtime.engine out"
        raise FactoryError(Reason.UNSERVABLE, message)
    if lack := (server or Server()).lack(NAME):
        raise FactoryError(Reason.UNSERVABLE, lack)
    return Serving(NAME, Signature.of_config(config))


TORCH_EXPORT = Format(
    NAME, (CONFIG, PROGRAM), frozenset({CONFIG, PROGRAM}).__contains__, _leaves_out, _check, _inspect, _serving
)
