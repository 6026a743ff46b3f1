"""What the second rank of a GPU meets: join as a training program does, and add up over the ranks on the device."""

from __future__ import annotations

import torch
import torch.distributed as dist

from aifactory_trainer import start

if __name__ == "__main__":
    world = start()
    total = torch.ones(1, device=world.device)
    dist.all_reduce(total)
    print(f"rank {world.rank} on {world.device}: {total.item():.0f}")
