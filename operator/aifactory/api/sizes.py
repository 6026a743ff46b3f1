"""Sizes in bytes: as Kubernetes writes them (quantities), and as people read them."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?")
_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)}
_UNITS |= {unit: Decimal(1000**power) for power, unit in enumerate("MGTPE", start=2)}
_UNITS |= {f"{unit}i": Decimal(1024**power) for power, unit in enumerate("KMGTPE", start=1)}


def bytes_of(quantity: object) -> int | None:
    """Bytes of a quantity; None for what is none, which the API server tells when it sees it.

    Source: k8s.io/apimachinery, pkg/api/resource, Quantity.

    >>> bytes_of("1.5Gi"), bytes_of("2e9"), bytes_of(4096), bytes_of("much")
    (1610612736, 2000000000, 4096, None)
    """
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        return None
    number, unit, exponent = match.groups()
    return int(Decimal(number) * (_UNITS[unit] if unit else Decimal(10) ** int(exponent or 0)))


def human_size(size: int) -> str:
    """A size in binary units, three digits: `1.3MiB`.

    >>> human_size(1_400_000)
    '1.34MiB'
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:  # from there on three digits are an exponent
            return f"{value:.3g}{unit}"
        value /= 1024
    return f"{value:.3g}TiB"
