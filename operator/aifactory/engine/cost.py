"""Money and GPU seconds: arithmetic alone, without a clock.

Everything is exact until it is written. Money is written to cents or to three significant digits, whichever is finer,
rounded half to even as banks do; ratios have three significant digits. What can not be worked out is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from aifactory.api.cost import GPU_HOUR_PRICE, Cost

PRICE_HELP: Final = "what a GPU costs an hour where an object does not say so; left out: not known"
HOUR: Final = 3600
MILLION: Final = 1_000_000
_CENT: Final = Decimal("0.01")
_ACCELERATOR = re.compile(
    r"^[^/]*gpu[^/]*/[^/]+$|^[^/]+/[^/]*gpu[^/]*$|^nvidia\.com/mig-|^habana\.ai/gaudi|^aws\.amazon\.com/neuron"
)
"""Extended resources that are devices to compute with, by whoever's plugin: a slice of a GPU is one too."""
_SHARE = re.compile(r"mem|percent|gpu-?cores?$|millicores$")
"""In their names: amounts of one device (HAMi's nvidia.com/gpumem, Intel's gpu.intel.com/millicores), not devices."""


def devices(container: Mapping[str, Any]) -> int:
    """GPUs that a container asks for.

    >>> devices({"resources": {"limits": {"cpu": 8, "nvidia.com/gpu": "4", "nvidia.com/gpumem": 3000}}})
    4
    """
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(value) for name, value in limits.items() if _is_accelerator(name) and str(value).isdigit())


def device_resource(container: Mapping[str, Any]) -> str:
    """The resource by which a container asks for GPUs; empty where it asks for none.

    >>> device_resource({"resources": {"limits": {"cpu": 8, "nvidia.com/gpu": "4"}}})
    'nvidia.com/gpu'
    """
    limits = (container.get("resources") or {}).get("limits") or {}
    return next((name for name in sorted(limits) if _is_accelerator(name)), "")


def devices_of_pod(spec: Mapping[str, Any]) -> int:
    """GPUs that a pod holds: those of all its containers. Devices of a ResourceClaim are not seen."""
    return sum(devices(container) for container in spec.get("containers", ()))


def _is_accelerator(resource: str) -> bool:
    return _ACCELERATOR.search(resource) is not None and _SHARE.search(resource.rpartition("/")[2]) is None


def checked_price(text: str) -> str:
    """The installation's price; "" stands for none. Raises ValueError."""
    if text and not re.fullmatch(GPU_HOUR_PRICE, text):
        raise ValueError(f"gpuHourPrice: {text!r} is no price: write a number such as 2.49, or leave it empty")
    return text


def price_of(spec: Cost | None, default: str | None) -> Decimal | None:
    """What a GPU costs an hour: what the object says goes before what the installation says."""
    text = (spec.gpu_hour_price if spec is not None else None) or default
    return Decimal(text) if text else None


def seconds_between(since: datetime, now: datetime) -> int:
    """Whole seconds; none for a clock that went back."""
    return max(0, int((now - since).total_seconds()))


def cost(gpu_seconds: int, price: Decimal | None) -> str | None:
    """What GPU seconds cost.

    >>> cost(90, Decimal("2.49")), cost(7200, None)
    ('0.0622', None)
    """
    return None if price is None else money(price * gpu_seconds / HOUR)


def cost_per_million(gpus: int, per_second: str, price: Decimal | None) -> str | None:
    """What a million of something costs, of which so many come a second from so many GPUs; None if none comes.

    >>> cost_per_million(2, "1500", Decimal("2.49")), cost_per_million(2, "0", Decimal("2.49"))
    ('0.922', None)
    """
    rate = Decimal(per_second)
    return None if price is None or not gpus or not rate else money(price * gpus / HOUR / rate * MILLION)


def money(amount: Decimal) -> str:
    """An amount of money as it is written.

    >>> [money(Decimal(text)) for text in ("0", "0.0034583", "2.495", "2.505", "1234.5")]
    ['0.00', '0.00346', '2.50', '2.50', '1234.50']
    """
    step = Decimal(1).scaleb(amount.adjusted() - 2) if amount else _CENT  # of three significant digits
    return format(amount.quantize(min(step, _CENT), rounding=ROUND_HALF_EVEN), "f")


def ratio(part: int, whole: int) -> str | None:
    """A part of a whole, of three significant digits; None of nothing.

    >>> ratio(2, 3), ratio(4, 4), ratio(0, 0)
    ('0.667', '1', None)
    """
    return f"{part / whole:.3g}" if whole else None


def per_gpu(per_second: str, gpus: int) -> str | None:
    """A rate for each of so many GPUs, of three significant digits; None without any.

    >>> per_gpu("1500", 4), per_gpu("12345", 1), per_gpu("7", 0)
    ('375', '12300', None)
    """
    return f"{Decimal(f'{Decimal(per_second) / gpus:.3g}'):f}" if gpus else None
