"""The README's examples, run as they stand against a served model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import TritonProcess

README = Path(__file__).resolve().parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(example: str, triton: TritonProcess) -> str:
    """What it prints."""
    code = example.replace("tiny-gpt", "gpt").replace("localhost:8000", f"127.0.0.1:{triton.http_port}")
    code = code.replace("localhost:8001", triton.grpc)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("example", [code for code in EXAMPLES if "tiny-gpt" in code], ids=["http", "grpc"])
def test_runs(triton: TritonProcess, example: str) -> None:
    assert run(example, triton)
