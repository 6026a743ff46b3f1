"""Triton with the demo's model as a checkout of another revision serves it, until standard input ends.

python testing/former.py CHECKOUT PORT_FILE    (see short_answers.py)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

CHECKOUT, PORT_FILE = map(Path, sys.argv[1:])
PARTS = ("contract", "agent", "server", "trainer", "server/testing")
sys.path[:0] = [str(CHECKOUT / "workloads" / part) for part in PARTS]

import torch  # noqa: E402
from harness import AgentProcess, TritonProcess  # noqa: E402

from aifactory_agent.artifacts.stores import Mounts  # noqa: E402
from aifactory_agent.artifacts.transfer import publish  # noqa: E402
from aifactory_contract.uri import ArtifactUri  # noqa: E402
from aifactory_trainer import export  # noqa: E402
from aifactory_trainer.model import GPT, GPTConfig  # noqa: E402


def write_model(folder: Path) -> Path:
    """Of the demo's size, with random weights, and one that never ends a text."""
    torch.manual_seed(0)
    config = GPTConfig()
    model = GPT(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3 if name.startswith("embedding") else config.embedding**-0.5)
        model.embedding.weight[256] = 0.0
    if hasattr(export, "export_causal_lm"):  # up to 27 November 2026
        return Path(export.export_causal_lm(model.eval(), config.to_json(), output=folder))
    return Path(export.export_huggingface(model.eval(), output=folder))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "claims/models").mkdir(parents=True)
        artifact = publish(
            write_model(root / "output"), ArtifactUri.parse("pvc://models"), "tiny", Mounts(root / "claims")
        )
        model = {"name": "tiny", "version": 1, "uri": artifact.uri, "digest": artifact.digest}
        triton = TritonProcess(root)
        agent = AgentProcess(triton, root / "claims")
        try:
            triton.start()
            agent.want({**model, "format": artifact.format, "secret": None})
            agent.start()
            agent.wait_ready()
            agent.stop()
            assert triton.process is not None
            pids = [triton.process.pid, *triton.workers()]
            told = {"http": triton.http_port, "grpc": triton.grpc_port, "processes": pids}
            PORT_FILE.write_text(json.dumps({**told, "repository": str(triton.repository)}))
            sys.stdin.read()
        finally:
            agent.kill()
            triton.kill()


if __name__ == "__main__":
    main()
