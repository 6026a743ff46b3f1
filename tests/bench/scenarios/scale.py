"""Ten thousand jobs with a hundred thousand pods in one process: memory, and how long the event loop is held.

No API server of this machine could hold them; `tests.bench.crowd` says what stands in for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.bench.plane import ROOT
from tests.bench.sides import Load

Json = dict[str, Any]


async def run(load: Load) -> Json:
    """Figures of `tests.bench.crowd`, which runs in a process of its own: memory is measured by process."""
    path = os.pathsep.join((str(ROOT / "operator"), str(ROOT)))
    arguments = ["-m", "tests.bench.crowd", "--jobs", str(load.count), "--nodes", str(load.nodes)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process ended with {process.returncode}; its words are above")
    found: Json = json.loads(output)
    return found
