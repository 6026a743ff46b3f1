"""Whatever a model's own files make a library do, it is tried in a process of its own first, with limits: it ends, and
not with all of the pod's memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

CPU_SECONDS = 10
MEMORY_BYTES = 1 << 30
_WAIT_SECONDS = 60


def tried_aside(task: str, content: bytes, **job: Any) -> str:
    """Try something in another process (`trial`). Gives what is wrong; "" if nothing is."""
    head = json.dumps({"task": task, "cpu": CPU_SECONDS, "memory": MEMORY_BYTES, **job}).encode()
    command = [sys.executable, "-m", "aifactory_agent.artifacts.trial"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, input=head + b"\n" + content, env=env, capture_output=True, timeout=_WAIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it had not ended after {_WAIT_SECONDS} s"
    if done.returncode == -signal.SIGXCPU:
        return f"it took more than {CPU_SECONDS} s"
    told, last_words = (text.decode(errors="replace").strip() for text in (done.stdout, done.stderr))
    if "memory allocation of" in last_words:  # how Rust ends
        return f"it took more than {MEMORY_BYTES >> 20} MiB"
    return told if done.returncode == 0 else f"it ended with {done.returncode}: {last_words[-200:]}"
