"""Several processes act as one: they resume from one step, stop at one step, and find each other."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from aifactory_trainer import distributed
from conftest import TORCHRUN, Pod, Receiver, wait_until

SCRIPT = """
import os, sys, torch
from pathlib import Path
from aifactory_trainer import Run, start
from aifactory_trainer.distributed import Group, alike, neighbours
from aifactory_trainer.environment import Environment
sys.path.insert(0, os.environ["TESTS"])
from test_state import Position

world = start()
group = Group()
assert group.maximum(world.rank, -world.rank) == (1, 0)
assert group.total(1.5, world.rank) == (3.0, 1.0)
assert group.same(b"x") and not group.same(b"x" * world.rank)
assert neighbours() == alike("one") == 2 and alike(str(world.rank)) == 1
assert group.broadcast(b"from rank 0" if world.rank == 0 else None) == b"from rank 0"
assert group.broadcast(b"" if world.rank == 0 else None) == b""
parts = group.gather(b"x" * (10 + world.rank))
assert parts == ([b"x" * 10, b"x" * 11] if world.rank == 0 else [])

# Each rank has a directory of its own: nothing may depend on a shared file system.
own = Path(os.environ["AIFACTORY_CHECKPOINTS"] + f"-{world.rank}")
environment = Environment(own, own, 0, None, None, 3600.0)
data = Position(world.rank * 1000)
shared = Position("shared")
torch.manual_seed(world.rank)
run = Run(shared=shared, per_rank={"data": data}, environment=environment, checkpoint_every=50)
print(f"rank {world.rank} starts at {run.step} with {data.at}", flush=True)
assert shared.at == "shared"
for step in run.steps(int(os.environ["STEPS"])):
    data.at += 1
    if world.rank == 1 and step == 119 and os.environ.get("STOP"):
        os.kill(os.getpid(), 15)
print(f"rank {world.rank} ends at {run.step} with {data.at} and random {torch.rand(()).item():.6f}", flush=True)
"""


def test_two_ranks_agree_without_a_shared_file_system(pod: Pod) -> None:
    script = pod.script(SCRIPT)
    tests = str(Path(__file__).parent)
    output = pod.run(*TORCHRUN, script, expect=1, TESTS=tests, STEPS="1000", STOP="1")
    stopped = re.search(
        r"stopped at step (\d+) of 1000: rank 1 was asked to end .SIGTERM.; the last checkpoint is", output
    )
    assert stopped is not None, output
    last = int(stopped[1])
    assert 120 <= last <= 150, "it is agreed at the latest where a checkpoint is due"
    assert pod.termination_message()["errorCode"] == 143

    saved = {path.name for path in (pod.root / "checkpoints-0").iterdir()}
    assert saved == {"step-50", "step-100", f"step-{last}"}
    assert not (pod.root / "checkpoints-1").exists()

    output = pod.run(*TORCHRUN, script, TESTS=tests, STEPS="170")
    for rank in (0, 1):
        assert f"rank {rank} starts at {last} with {rank * 1000 + last}" in output
        assert f"rank {rank} ends at 170 with {rank * 1000 + 170}" in output
    numbers = {line.rpartition(" ")[2] for line in output.splitlines() if "and random" in line}
    assert len(numbers) == 2, "each rank has its own random generator back"


OTHER_RANKS = """
import logging, os, sys, torch
from aifactory_trainer import Run, start
sys.path.insert(0, os.environ["TESTS"])
from test_state import Position

class Shares(Position):
    def redistribute(self, states, rank, size):
        self.at = f"{rank}/{size} of {[state['at'] for state in states]}"

logging.basicConfig(level=logging.INFO)
world = start()
torch.manual_seed(int(os.environ["SEEDS"]) * world.rank)
data, shares = Position(world.rank * 1000), Shares(world.rank)
run = Run(per_rank={"data": data, "shares": shares})
print(f"rank {world.rank}: {data.at}, {shares.at}, random {torch.rand(()).item():.6f}", flush=True)
for step in run.steps(run.step + 10):
    data.at += 1
    torch.rand(())
os._exit(0)  # the ordinary end of torch's threads aborts now and then, see program.leave
"""


@pytest.mark.parametrize(("ranks", "seeds"), [(1, "1"), (3, "0"), (3, "1")])
def test_another_number_of_ranks_never_takes_a_part_that_is_anothers(pod: Pod, ranks: int, seeds: str) -> None:
    script, env = pod.script(OTHER_RANKS), {"TESTS": str(Path(__file__).parent), "SEEDS": seeds}
    pod.run(*TORCHRUN, script, **env)
    command = [f"--nproc-per-node={ranks}" if word.startswith("--nproc") else word for word in TORCHRUN]
    output = pod.run(*command, script, **env)
    assert f"was written by 2 ranks, now there are {ranks}: 'data' can not be divided among them" in output
    assert "so the epoch begins anew" in output
    for rank in range(ranks):
        assert f"rank {rank}: {rank * 1000}, {rank}/{ranks} of [0, 1], random" in output, "not 10 steps on"
    numbers = {line.rpartition(" ")[2] for line in output.splitlines() if ", random" in line}
    assert len(numbers) == (1 if seeds == "0" else ranks), "the ranks draw alike only where the script has them do so"


LOSSES = """
import os, time
from aifactory_trainer import Run, start
world = start()
run = Run(checkpoint_every=10**6)
calls = 0
maximum = run._group.maximum
def counted(*values):
    global calls
    calls += 1
    return maximum(*values)
run._group.maximum = counted
begin = time.monotonic()
for step in run.steps(1000):
    run.report(loss=world.rank + step)
    time.sleep(0.002)
print(f"{calls} times in {time.monotonic() - begin:.3f} s", flush=True)
os._exit(0)  # the ordinary end of torch's threads aborts now and then, see program.leave
"""


def test_the_loss_is_that_of_all_ranks_and_they_agree_a_few_times_a_second(pod: Pod, receiver: Receiver) -> None:
    output = pod.run(*TORCHRUN, pod.script(LOSSES), AIFACTORY_PROGRESS_URL=receiver.url)
    assert receiver.reports[-1]["metrics"] == {"loss": 999.5}
    assert all(body["metrics"]["loss"] % 1 == 0.5 for body in receiver.reports if body["step"] > 0)
    found = re.findall(r"(\d+) times in ([\d.]+) s", output)
    assert len(found) == 2, output
    assert len({calls for calls, _ in found}) == 1, "all ranks agree at the same steps"
    calls, seconds = int(found[0][0]), float(found[0][1])
    assert calls <= 4 * seconds + 15, "a few more in the beginning, until the pace is known, and at the end"


def test_the_distance_between_agreements_follows_the_pace() -> None:
    rhythm, step, steps = distributed.Rhythm(seconds=0.25, longest=256), 0, []
    for pace in [0.001] * 10 + [0.1] * 2 + [10.0]:
        while not rhythm.due(step):
            step += 1
        steps.append(step)
        rhythm.agreed(step, pace)
    distances = [after - before for before, after in itertools.pairwise(steps)]
    assert distances == [2, 4, 8, 16, 32, 64, 128, 250, 250, 250, 2, 2]
    assert rhythm.due(step + 1), "slow steps are each agreed about"
    assert not rhythm.due(step)


def test_ranks_with_different_models_are_refused(pod: Pod) -> None:
    """As in a pipeline, where a checkpoint of rank 0 would have one stage of it."""
    script = pod.script(
        "import torch\nfrom aifactory_trainer import Run, start\nworld = start()\n"
        "Run(model=torch.nn.Linear(2, 2 + world.rank))\n"
    )
    pod.run(*TORCHRUN, script, expect=1)
    assert "the ranks hold different models" in pod.termination_message()["message"]


def test_a_large_message_is_passed_on_in_pieces(pod: Pod) -> None:
    script = pod.script(
        "from aifactory_trainer import distributed, start\nworld = start()\ndistributed._CHUNK_BYTES = 7\n"
        "data = bytes(range(100))\n"
        "assert distributed.Group().broadcast(data if world.rank == 0 else None) == data\n"
        "import os; os._exit(0)\n"  # the ordinary end of torch's threads aborts now and then, see program.leave
    )
    pod.run(*TORCHRUN, script)


def test_a_rank_that_is_not_finite_ends_all_of_them(pod: Pod) -> None:
    script = pod.script(
        "import torch\nfrom aifactory_trainer import Run, start\nworld = start()\nmodel = torch.nn.Linear(2, 2)\n"
        "for step in Run(model=model, checkpoint_every=10).steps(100):\n"
        "    if step == 15 and world.rank == 1:\n        model.bias.data.fill_(float('nan'))\n"
    )
    output = pod.run(*TORCHRUN, script, expect=1)
    assert "the state after step 20 holds NaN or infinity and is not saved: see rank 1" in output
    assert "is not saved: model.bias" in output
    assert pod.steps_saved() == [10]


def test_a_dead_rank_ends_the_others_soon(pod: Pod) -> None:
    script = pod.script(
        "import os\nfrom aifactory_trainer import Run, start\nworld = start()\n"
        "for step in Run().steps(10**9):\n"
        "    if step == 100 and world.rank == 1:\n        os.kill(os.getpid(), 9)\n"
    )
    process = pod.start(*TORCHRUN, script)
    wait_until(lambda: process.poll() is not None, "the end of torchrun", lambda: pod.log(process))
    assert process.returncode == 1
    assert "exitcode  : -9" in pod.log(process)


def test_sigterm_to_the_launcher_saves_the_step_under_way(pod: Pod) -> None:
    script = pod.script(
        "from aifactory_trainer import Run, start\nstart()\n"
        "for step in Run().steps(10**9):\n    step == 50 and print('under way', flush=True)\n"
    )
    process = pod.start(*TORCHRUN, script)
    wait_until(lambda: "under way" in pod.log(process), "the first steps", lambda: pod.log(process))
    assert pod.steps_saved() == []
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None, "the end of torchrun", lambda: pod.log(process))
    assert process.returncode != 0
    assert len(pod.steps_saved()) == 1
    assert pod.steps_saved()[0] > 50


ONE_GPU = """
import torch, torch.distributed as dist
from types import SimpleNamespace
from unittest import mock
from aifactory_trainer import start

join = dist.init_process_group
gpu = SimpleNamespace(uuid="7")
fakes = {"is_available": True, "device_count": 1, "set_device": None, "get_device_properties": gpu}
with (
    mock.patch.multiple(torch.cuda, **{name: mock.Mock(return_value=value) for name, value in fakes.items()}),
    mock.patch.object(dist, "init_process_group", lambda backend, **options: join("gloo", **options)),
):
    start()
"""


def test_ranks_that_share_a_gpu_are_told_what_to_change(pod: Pod) -> None:
    pod.run(*TORCHRUN, pod.script(ONE_GPU), expect=1)
    said = pod.termination_message()["message"]
    assert said.startswith("RuntimeError: 2 processes compute on one GPU (cuda:0), and NCCL takes one: ask for as many")
    assert said.endswith("or set procPerNode to the number of GPUs that a pod has")


LEAVES = """
import atexit, os
import torch.distributed as dist
# One write: the ranks share the output.
atexit.register(lambda: os.write(1, f"in the group: {dist.is_initialized()}\\n".encode()))
from aifactory_trainer import start
world = start()
if world.rank == 1 and os.environ.get("FAILS"):
    raise ValueError("no more")
"""


def test_the_group_is_left_before_the_process_ends_but_not_after_an_exception(pod: Pod) -> None:
    script = pod.script(LEAVES)
    assert re.findall(r"in the group: (\w+)", pod.run(*TORCHRUN, script)) == ["False", "False"]
    assert "in the group: True" in pod.run(*TORCHRUN, script, expect=1, FAILS="1")


def test_the_interface_to_the_own_machine_is_the_loopback() -> None:
    assert distributed.interface_towards("127.0.0.1") == "lo"
    assert distributed.interface_towards("127.0.1.1") == "lo"
    assert distributed.interface_towards("no-such-host.invalid") is None


def test_the_interface_of_the_own_address_is_found() -> None:
    """As in a pod, where rank 0 reaches itself by the pod's address."""
    addresses = {distributed._ipv4_address(name) for _, name in socket.if_nameindex()} - {None}
    if not addresses:
        pytest.skip("no IPv4 here")
    for address in addresses:
        found = distributed.interface_towards(address)
        assert found is not None
        assert distributed._ipv4_address(found) == address


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_the_interface_of_an_ipv6_address_is_found() -> None:
    loopback = socket.inet_pton(socket.AF_INET6, "::1")
    if loopback not in distributed._ipv6_interfaces():
        pytest.skip("no IPv6 loopback here")
    assert distributed.interface_towards("::1") == "lo"


def test_a_given_interface_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    distributed.choose_gloo_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


@pytest.mark.parametrize(
    ("env", "neighbours", "quota", "threads"),
    [
        ({"WORLD_SIZE": "64"}, 1, None, 16),
        ({"WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "4"}, 1, None, 4),
        ({"OMP_NUM_THREADS": "5"}, 2, None, 5),
        ({}, 1, None, 16),
        ({}, 2, None, 8),
        ({}, 64, None, 1),
        ({}, 64, 4.0, 4),
        ({"LOCAL_WORLD_SIZE": "2"}, 64, 4.0, 2),
        ({}, 1, 0.5, 1),
        ({"OMP_NUM_THREADS": "nonsense"}, 2, None, 8),
    ],
)
def test_a_process_takes_its_share_of_the_cores(
    env: dict[str, str], neighbours: int, quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(16))
    monkeypatch.setattr(distributed, "cpu_quota", lambda: quota)
    assert distributed.threads(env, neighbours) == threads


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"NODE_RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"NODE_RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
    ],
)
def test_the_rank_is_told_by_the_launcher(env: dict[str, str], expected: tuple[int, int]) -> None:
    assert distributed.rank_and_size(env) == expected
