"""Several processes as one: join the others, and pass bytes and decisions between them.

Role: everything that talks to torch.distributed for control. (Gradients are DDP's business.)

What always holds:
- A process alone is a world of one, and every function works there too.
- Control messages go over gloo and never touch a GPU's stream.
- Bytes are passed as bytes: nothing is pickled.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import secrets
import socket
import struct
import sys
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
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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

    Raises:
        RuntimeError: another process computes on the same GPU, which NCCL refuses.
    """
    errors.install()
    rank, size = rank_and_size(os.environ)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        choose_gloo_interface()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
        if backend == "gloo":
            atexit.register(_leave)
        check_devices(device)
    torch.set_num_threads(threads(os.environ, neighbours()))
    return World(rank, size, device)


def _leave() -> None:
    """End the group while the interpreter runs: left to the end of the process, it ended 6 runs of 28 by SIGABRT.

    Not after an exception, when others may still compute: the group would wait for them. NCCL's might wait for them
    after a `sys.exit` of one rank too, so it is left alone.
    """
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def rank_and_size(env: Mapping[str, str]) -> tuple[int, int]:
    """Rank and number of processes, by RANK or, where the launcher sets only that, by NODE_RANK."""
    size = int(env.get("WORLD_SIZE", "1"))
    return int(env.get("RANK", env.get("NODE_RANK", "0"))) if size > 1 else 0, size


def threads(env: Mapping[str, str], neighbours: int) -> int:
    """Threads for this process: OMP_NUM_THREADS, else its share of the cores.

    A CPU limit belongs to this pod alone; without one the cores are shared by the ranks on this machine, and two
    processes that both use all cores take many times as long as with half of them each.
    """
    explicit = env.get("OMP_NUM_THREADS", "")
    if explicit.isdigit() and int(explicit) > 0:
        return int(explicit)
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None and quota < cores:
        return max(1, int(quota) // _local_size(env))
    return max(1, cores // max(neighbours, _local_size(env)))


def _local_size(env: Mapping[str, str]) -> int:
    return max(1, int(env.get("LOCAL_WORLD_SIZE", "1")))


def neighbours() -> int:
    """How many of the ranks run on this machine, in whichever pod: those whose kernel was booted with this one's."""
    try:
        return alike(_BOOT_ID.read_text())
    except OSError:
        return alike(secrets.token_hex())  # a machine of its own, then


def check_devices(device: torch.device) -> None:
    """Say before NCCL does that a GPU is for one process, and what to change.

    Asked of all ranks and not told from this machine's numbers: a launcher may show each process one GPU of several.
    """
    if device.type == "cuda" and (sharing := alike(str(torch.cuda.get_device_properties(device).uuid))) > 1:
        raise RuntimeError(
            f"{sharing} processes compute on one GPU ({device}), and NCCL takes one: ask for as many GPUs in the "
            "template as the job's procPerNode, or set procPerNode to the number of GPUs that a pod has"
        )


def alike(text: str) -> int:
    """How many of the ranks, this one included, gave the same text."""
    if not dist.is_initialized() or "gloo" not in dist.get_backend_config():
        return 1
    own = torch.tensor(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
    all_of_them = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, own)
    return sum(bool(other == own) for other in all_of_them)


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

    def total(self, *values: float) -> tuple[float, ...]:
        """For each value the sum over all processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        return tuple(tensor.tolist())

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
        whole = torch.empty(length if data is None else 0, dtype=torch.uint8)
        for start in range(0, length, _CHUNK_BYTES):
            part = slice(start, start + _CHUNK_BYTES)  # not all at once: a copy of a checkpoint is a large thing
            dist.broadcast(whole[part] if data is None else _to_tensor(data[part]), src=0, group=self._group)
        return whole.numpy().tobytes() if data is None else data

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


class Rhythm:
    """At which steps the ranks agree: the same ones on each, and about a quarter of a second apart.

    To agree takes milliseconds, so not after each step; and by time, because SIGTERM is heeded then. The next step is
    told from figures that all ranks have agreed about, so none is ever alone in waiting for the others. The distance at
    most doubles: one fast step says little about the next.
    """

    def __init__(self, seconds: float = 0.25, longest: int = 256) -> None:
        """Args: seconds: from one agreement to the next. longest: steps, whatever they take."""
        self._seconds = seconds
        self._longest = longest
        self._distance = 1
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether the ranks agree after this step."""
        return step >= self._next

    def agreed(self, step: int, step_seconds: float) -> None:
        """They have, after this step, and the slowest rank took so long for each step since the last time."""
        wish = int(self._seconds / max(step_seconds, 1e-6))
        self._distance = max(1, min(wish, 2 * self._distance, self._longest))
        self._next = step + self._distance
