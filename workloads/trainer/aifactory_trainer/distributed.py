"""Several processes as one: join the others, and pass bytes and decisions between them.

Role: everything that talks to torch.distributed for control. (Gradients are DDP's business.)

What always holds:
- A process alone is a world of one, and every function works there too.
- Control messages go over gloo and never touch a GPU's stream.
- Bytes are passed as bytes: nothing is pickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aifactory_contract.cgroup import cpu_quota
from aifactory_trainer import errors

_CHUNK_BYTES = 256 << 20
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True, slots=True)
class World:
    """This process among the others.

    Attributes:
        rank: 0 to size - 1.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device


def start(timeout_seconds: float = 600.0) -> World:
    """Set threads and device, and join the other processes if a launcher started several.

    Works under torchrun and, with one process in each pod, under `launcher: none`. CUDA is used when there is one.

    Args:
        timeout_seconds: how long a collective waits for a process that is silent. A dead one is noticed at once.
    """
    errors.install()
    rank, size = rank_and_size(os.environ)
    torch.set_num_threads(threads(os.environ, size))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        choose_gloo_interface()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
    return World(rank, size, device)


def rank_and_size(env: Mapping[str, str]) -> tuple[int, int]:
    """Rank and number of processes, by RANK or, where the launcher sets only that, by NODE_RANK."""
    size = int(env.get("WORLD_SIZE", "1"))
    return int(env.get("RANK", env.get("NODE_RANK", "0"))) if size > 1 else 0, size


def threads(env: Mapping[str, str], world_size: int) -> int:
    """Threads for this process: OMP_NUM_THREADS, else its share of the cores.

    A CPU limit belongs to this pod alone; without one the other ranks may be on the same machine, and two processes
    that both use all cores take many times as long as with a core each.
    """
    explicit = env.get("OMP_NUM_THREADS", "")
    if explicit.isdigit() and int(explicit) > 0:
        return int(explicit)
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None and quota < cores:
        return max(1, int(quota) // int(env.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, cores // world_size)


def choose_gloo_interface() -> None:
    """Tell gloo which interface leads to the others, unless GLOO_SOCKET_IFNAME says so already.

    Left alone, gloo takes the address of the own host name, which on many machines is a loopback address.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    name = interface_towards(os.environ.get("MASTER_ADDR", "localhost"))
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """Name of the interface whose address this machine uses to reach a host; None when that can not be told."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # picks a route; a datagram socket sends nothing by connecting
            own = probe.getsockname()[0]
        if family == socket.AF_INET6:
            return _ipv6_interfaces().get(socket.inet_pton(socket.AF_INET6, own.partition("%")[0]))
        return next((name for _, name in socket.if_nameindex() if own in (_ipv4_address(name), _loopback(name))), None)
    except OSError:
        return None


def _ipv4_address(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:  # the interface has no IPv4 address
            return None
    return socket.inet_ntoa(answer[20:24])


def _loopback(interface: str) -> str | None:
    """Debian gives the own host name 127.0.1.1, an address that `lo` answers to but does not list."""
    return "127.0.1.1" if interface == "lo" else None


def _ipv6_interfaces() -> dict[bytes, str]:
    lines = (line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines())
    return {bytes.fromhex(fields[0]): fields[5] for fields in lines}


class Group:
    """The processes for control messages: the default group where it carries CPU tensors, else one of our own."""

    def __init__(self) -> None:
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        expected = rank_and_size(os.environ)[1]
        if self.size == 1 and expected > 1:
            raise RuntimeError(
                f"WORLD_SIZE is {expected} but this process has not joined the others: "
                "call aifactory_trainer.start() (or torch.distributed.init_process_group) before Run"
            )
        self._group: Any = None  # None: the default group
        if self.size > 1 and "gloo" not in dist.get_backend_config():
            choose_gloo_interface()
            self._group = dist.new_group(backend="gloo")

    def maximum(self, *values: int) -> tuple[int, ...]:
        """For each value the largest that any process gave."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tuple(int(value) for value in tensor.tolist())

    def same(self, data: bytes) -> bool:
        """Whether every process gave the same bytes."""
        digest = int.from_bytes(hashlib.sha256(data).digest()[:7])
        highest, lowest = self.maximum(digest, -digest)
        return highest == -lowest

    def barrier(self) -> None:
        """Wait until all are here."""
        self.maximum(0)

    def broadcast(self, data: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank; the others give None."""
        if self.size == 1:
            return data or b""
        (length,) = self.maximum(len(data) if data is not None else 0)
        tensor = _to_tensor(data) if data is not None else torch.empty(length, dtype=torch.uint8)
        for start in range(0, length, _CHUNK_BYTES):
            dist.broadcast(tensor[start : start + _CHUNK_BYTES], src=0, group=self._group)
        return data if data is not None else tensor.numpy().tobytes()

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, in order of rank, on rank 0; an empty list on the others."""
        if self.size == 1:
            return [data]
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        dist.all_reduce(lengths, group=self._group)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(data)] = _to_tensor(data)
        if self.rank != 0:
            dist.gather(padded, dst=0, group=self._group)
            return []
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.gather(padded, parts, dst=0, group=self._group)
        return [part[:length].numpy().tobytes() for part, length in zip(parts, lengths.tolist(), strict=True)]


def _to_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
