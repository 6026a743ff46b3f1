"""`make bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from tests.bench.scenarios import jobs
from tests.bench.sides import Load


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gang", action="store_true")
    o = parser.parse_args()
    found: Any = await jobs.run(Load(o.count, o.nodes, gang=o.gang))
    for s in ("limit", "ours"):
        found[s].pop("timeline")
    print(json.dumps(found, indent=1))


asyncio.run(_main())
