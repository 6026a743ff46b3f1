"""What a container says when it ends: the lines that matter are found, whatever stands around them."""

from __future__ import annotations

import json
import time

import pytest

from aifactory.engine.lastwords import RootCause, ending, root_cause

ERROR_FILE = json.dumps(
    {
        "message": {
            "message": "ValueError: lr must be positive",
            "extraInfo": {"py_callstack": 'Traceback:\n  File "train.py", line 7, in main\n    run()\n'},
            "errorCode": 1,
        }
    }
)
TRACEBACK = """\
Traceback (most recent call last):
  File "/app/train.py", line 3, in main
    data = load("corpus")
           ^^^^^^^^^^^^^^
  File "/usr/lib/python3/dist-packages/datasets/load.py", line 90, in load
    raise ValueError("no such corpus")
ValueError: no such corpus
"""
NO_CORPUS = "ValueError: no such corpus (/app/train.py:3 in main)"
TORCHRUN = """\
E0101 12:00:00.000 1 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: 2) local_rank: 0 (pid: 9)
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_12:00:09
  host      : train-0
  rank      : 8 (local_rank: 0)
  exitcode  : -15 (pid: 8)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 8
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_12:00:00
  host      : train-0
  rank      : 9 (local_rank: 1)
  exitcode  : 2 (pid: 9)
  error_file: <N/A>
  traceback : {}
============================================================
"""
SILENT = TORCHRUN.format("To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html")
RECORDED = TORCHRUN.format(TRACEBACK.replace("\n", "\n  "))
"""With `@record` in the program."""
TWO_RANKS = """\
[rank8]: Traceback (most recent call last):
[rank9]: Traceback (most recent call last):
[rank8]:   File "train.py", line 9, in main
[rank9]:   File "train.py", line 5, in main
[rank9]:     scale(batch)
[rank9]: ZeroDivisionError: division by zero
[rank8]:     dist.all_reduce(loss)
[rank8]: RuntimeError: Connection closed by peer [10.0.0.2]:4242
"""
NCCL = """\
train-0:9:31 [0] misc/socket.cc:50 NCCL WARN socketProgress: Connection closed by remote peer train-1<4242>
[rank0]: Traceback (most recent call last):
[rank0]:   File "/app/train.py", line 5, in step
[rank0]:     dist.all_reduce(loss)
[rank0]: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:77, remote process exited
[rank0]: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
[rank0]: Last error:
[rank0]: socketProgress: Connection closed by remote peer train-1<4242>
"""
ABORTED = """\
step 300 of 300
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)
frame #0: c10::Error::Error() + 0x80
frame #1: c10d::ProcessGroupNCCL::run() + 0x1c0
"""
NUMBERS = "\n".join(["1", "2", "the line that matters", *map(str, range(30))])
FULL = (
    "; /dev/shm is full: raise resources.limits.memory, which it shares (or the sizeLimit of your own volume there), "
    "or use less of it: fewer DataLoader workers, smaller batches"
)
CLOSING = (
    "W0101 12:00:00.000 1 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 8 closing signal\n"
)
WORDS = [
    pytest.param("", RootCause(), id="nothing"),
    pytest.param(" \n\n", RootCause(), id="white-space"),
    pytest.param("no such option: --lr\n", RootCause(message="no such option: --lr"), id="one-line"),
    pytest.param("it broke\n=======\n", RootCause(message="it broke"), id="a-ruler-says-nothing"),
    pytest.param(
        "cc: x.c:7: no such file\nmake: stop\n", RootCause(message="cc: x.c:7: no such file | make: stop"), id="lines"
    ),
    pytest.param(TRACEBACK, RootCause("ValueError", NO_CORPUS), id="traceback"),
    pytest.param(
        f"{TRACEBACK}\nDuring handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    x\nStop\n',
        RootCause("Stop", "Stop (a.py:1 in <module>)"),
        id="the-one-that-was-not-caught",
    ),
    pytest.param(TRACEBACK + SILENT, RootCause("ValueError", NO_CORPUS, 2, 9), id="torchrun-after-traceback"),
    pytest.param(RECORDED, RootCause("ValueError", NO_CORPUS, 2, 9), id="torchrun-with-traceback"),
    pytest.param(SILENT, RootCause(exit_code=2, rank=9), id="torchrun-alone"),
    pytest.param(
        SILENT[SILENT.index("exitcode  : 2") - 2 :], RootCause(exit_code=2), id="torchrun-without-its-beginning"
    ),
    pytest.param(
        f"cannot open /data\n{SILENT}", RootCause(message="cannot open /data", exit_code=2, rank=9), id="before"
    ),
    pytest.param(
        TWO_RANKS + SILENT,
        RootCause("ZeroDivisionError", "ZeroDivisionError: division by zero (train.py:5 in main)", 2, 9),
        id="the-rank-that-failed-first",
    ),
    pytest.param(
        TWO_RANKS + SILENT[SILENT.index("Root Cause") :],
        RootCause("ZeroDivisionError", "ZeroDivisionError: division by zero (train.py:5 in main)", 2, 9),
        id="the-only-rank-in-the-summary",
    ),
    pytest.param(
        f"cannot open /data\n{CLOSING}{SILENT}",
        RootCause(message="cannot open /data", exit_code=2, rank=9),
        id="before-what-torchrun-logs",
    ),
    *(
        pytest.param(
            f"cannot open /data\n{SILENT[SILENT.index(start) :]}",
            RootCause(message="cannot open /data", exit_code=2, rank=9),
            id=f"before-{start}",
        )
        for start in ("torch.distributed.elastic.multiprocessing.errors", "=====")
    ),
    pytest.param(
        f"{TRACEBACK}\nConnectionError: the others have gone\n",
        RootCause("ValueError", NO_CORPUS),
        id="one-with-its-traceback-before-others",
    ),
    pytest.param(
        'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    import b\n'
        '  File "<frozen importlib._bootstrap>", line 9, in _load\nImportError: no b\n',
        RootCause("ImportError", "ImportError: no b (a.py:1 in <module>)"),
        id="python-itself-is-no-program",
    ),
    pytest.param(
        'Traceback (most recent call last):\n  File "/lib/site-packages/a.py", line 1, in run\n\nOSError: no disk\n',
        RootCause("OSError", "OSError: no disk (/lib/site-packages/a.py:1 in run)"),
        id="only-a-library",
    ),
    pytest.param(
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\n'
        "  [Previous line repeated 996 more times]\nRecursionError: too deep\n",
        RootCause("RecursionError", "RecursionError: too deep (a.py:1 in f)"),
        id="recursion",
    ),
    pytest.param(
        "ValueError: 1\nKeyError: 2\n3\n4\n5\n",
        RootCause("ValueError", "ValueError: 1 KeyError: 2 3 4"),
        id="some-lines-of-its-text",
    ),
    pytest.param(
        "KeyError: 1\n2\n\nValueError: 3\n", RootCause("ValueError", "ValueError: 3"), id="another-after-its-text"
    ),
    pytest.param(
        "step 1\n[rank0]: NCCL WARN lost [rank1]: no route\nSegmentation fault (core dumped)\nBus error\n",
        RootCause(message="NCCL WARN lost [rank1]: no route | Segmentation fault (core dumped)"),
        id="the-first-two-lines-that-tell",
    ),
    pytest.param(
        NCCL,
        RootCause(
            "DistBackendError",
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:77, remote process exited "
            "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely. "
            "Last error: socketProgress: Connection closed by remote peer train-1<4242> (/app/train.py:5 in step) "
            "| train-0:9:31 [0] misc/socket.cc:50 NCCL WARN socketProgress: Connection closed by remote peer "
            "train-1<4242>",
        ),
        id="nccl",
    ),
    pytest.param(
        ABORTED,
        RootCause(
            message="terminate called after throwing an instance of 'c10::DistBackendError' | what(): [Rank 0] "
            "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"
        ),
        id="aborted",
    ),
    pytest.param(
        "[rank0]: Traceback (most recent call last):\n[rank0]: RuntimeError: NCCL timeout\n",
        RootCause("RuntimeError", "RuntimeError: NCCL timeout"),
        id="rank-prefix",
    ),
    pytest.param("AssertionError\n", RootCause("AssertionError", "AssertionError"), id="exception-without-words"),
    pytest.param(
        "torch.cuda.OutOfMemoryError: CUDA out of memory.\n",
        RootCause("OutOfMemoryError", "torch.cuda.OutOfMemoryError: CUDA out of memory."),
        id="dotted",
    ),
    pytest.param(
        ERROR_FILE, RootCause("ValueError", "ValueError: lr must be positive (train.py:7 in main)", 1), id="error-file"
    ),
    pytest.param(
        '{"message": {"message": "RuntimeError: CUDA error\\nCompile with TORCH_USE_CUDA_DSA"}}',
        RootCause("RuntimeError", "RuntimeError: CUDA error Compile with TORCH_USE_CUDA_DSA"),
        id="all-lines-of-an-error-file",
    ),
    pytest.param(
        '{"message": "OSError: [Errno 5] cannot read: a.bin"}',
        RootCause("OSError", "OSError: [Errno 5] cannot read: a.bin"),
        id="colons-in-its-words",
    ),
    pytest.param('{"message": "cannot read: a.bin"}', RootCause(message="cannot read: a.bin"), id="no-exception"),
    *(
        pytest.param(
            f'{{"message": {{"message": "plain", "errorCode": {code}}}}}',
            RootCause(message="plain"),
            id=f"{code}-is-no-exit-code-of-a-failure",
        )
        for code in ('"2"', "true", "0")
    ),
    pytest.param('{"message": "plain"}', RootCause(message="plain"), id="one-level"),
    pytest.param('{"message": {"message": 7}}', RootCause(message='{"message": {"message": 7}}'), id="not-text"),
    pytest.param('{"other": 1}', RootCause(message='{"other": 1}'), id="other-json"),
    pytest.param("[" * 100_000, RootCause(message=""), id="brackets"),
    pytest.param("[1, 2]", RootCause(message="[1, 2]"), id="a-list"),
    pytest.param(
        '{"message": {"message": "cut of', RootCause(message='{"message": {"message": "cut of'), id="cut-json"
    ),
]


@pytest.mark.parametrize(("text", "wanted"), WORDS)
def test_the_words_that_matter_are_found(text: str, wanted: RootCause) -> None:
    assert root_cause(text) == wanted


def test_the_last_lines_are_told_where_nothing_stands_out() -> None:
    assert root_cause(NUMBERS).message.startswith("1 | 2 | the line that matters | 0 | 1 |")
    assert root_cause(NUMBERS).message.endswith("| 29")
    assert len(root_cause("a line\n" * 1000).message) <= 600
    assert [root_cause("ab\ncd\n", tail).message for tail in (10, 9, 1)] == ["ab | cd", "cd", "cd"]


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", True),
        ("RuntimeError: unable to write to file </torch_9_1>: No space left on device (28)", True),
        (
            "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory.",
            True,
        ),
        (
            "RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit.",
            True,
        ),
        ("NCCL WARN Error: failed to extend /dev/shm/nccl-1 to 9637892 bytes, error: No space left on device", True),
        ("Failed to increase the shared memory pool size for key 'a' to 9 bytes. No space left on device", True),
        ("OSError: [Errno 28] No space left on device: '/workspace/checkpoints/step-1'", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/dev/shm/psm_1'", False),
    ],
)
def test_shared_memory_that_is_full_is_told_by_name(text: str, full: bool) -> None:
    assert root_cause(text).message.endswith(FULL) is full


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (1, "Error", "exit code 1"),
        (139, "Error", "exit code 139 (SIGSEGV)"),
        (-6, "", "exit code -6 (SIGABRT)"),
        (-7, "", "exit code -7 (SIGBUS, mostly a /dev/shm that is full)"),
        (135, "Error", "exit code 135 (SIGBUS, mostly a /dev/shm that is full)"),
        (
            137,
            "Error",
            "exit code 137 (SIGKILL, mostly by the kubelet after a failed probe or hook: kubectl describe pod tells)",
        ),
        (-9, "", "exit code -9 (SIGKILL, mostly by the kernel at the memory limit)"),
        (137, "OOMKilled", "exit code 137 (OOMKilled)"),
        (255, "Error", "exit code 255"),
        (0, "Completed", "exit code 0"),
    ],
)
def test_how_an_end_is_called(code: int, reason: str, words: str) -> None:
    assert ending(code, reason) == words


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "\n",
        " ",
        "[rank0]: ",
        "rank : 1 (local_rank: 1)\n",
        "Error",
        "a.",
        "/dev/shm ",
        '  File "a", line 1, in b\n',
        "[a1]",
        "No space left ",
    ],
)
def test_words_made_to_keep_us_busy_do_not(unit: str) -> None:
    """What a pod says is its owner's to choose, and everybody waits meanwhile."""
    text = (unit * 4096)[:4096]
    before = time.process_time()
    root_cause(text)
    assert time.process_time() - before < 0.5
