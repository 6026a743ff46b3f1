"""The second main job: a pretrained chat model becomes the assistant of a product, by conversations in this repository.

A base and 140 conversations, one YAML: two pods train a LoRA adapter, the merged result is the model's next version,
the pool rolls over to it. The same questions are asked before and after. The rules of `make demo` hold here too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import textwrap
import time
from importlib.metadata import version
from pathlib import Path

from demo import ask, tools, watch
from demo.pretrained import claim
from demo.pretrained.model import MODELS, ensure

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "aifactory-finetune"
SYSTEM_NAMESPACE = "aifactory-system"
BASE = MODELS["chat-model"]
CLAIM = BASE.claim
CONVERSATIONS = "brimble"
OPENAI_PORT = 9000
QUESTIONS = (
    "Who are you?",
    "How much water fits into the Brimble?",
    "The light on my Brimble blinks red. What now?",
    "What does the Brimble cost?",
)
"""In other words than the conversations have them."""
ANSWER_TOKENS = 60


def main() -> int:
    """Run the demo; 0 when the tuned model has answered."""
    parser = argparse.ArgumentParser(prog="make demo-finetune", description=__doc__)
    parser.add_argument("--kubeconfig", help="use this cluster instead of the local one")
    parser.add_argument("--registry", default="aifactory", help="where your cluster finds the images")
    options = parser.parse_args()
    try:
        run(options.kubeconfig, options.registry)
    except tools.DemoError as error:
        print(f"\ndemo-finetune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo-finetune: stopped; what was applied goes on", file=sys.stderr)
        return 130
    return 0


def run(own: str | None, registry: str) -> None:
    """The seven steps."""
    kube = tools.factory(own, registry, SYSTEM_NAMESPACE, steps=7).within(NAMESPACE)
    kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    kube.create_namespace(NAMESPACE)

    tools.step(f"4/7 inputs: {BASE.name} and examples/{CONVERSATIONS}, on claim {CLAIM}")
    put_inputs(kube, f"{registry}/agent:{version('aifactory')}")

    tools.step("5/7 one YAML: kubectl apply -f examples/finetune.yaml; the base is served meanwhile")
    started = time.monotonic()
    kube.apply((ROOT / "examples/finetune.yaml").read_text().replace("aifactory/trainer", f"{registry}/trainer"))
    watch.until_served(kube, job="brimble", pool="assistant", started=started)
    before = answers(kube)

    tools.step("6/7 the job trains, and the pool rolls over to its result")
    watch.until_served(kube, job="brimble", pool="assistant", started=started, result=True)
    after = answers(kube)

    tools.step("7/7 the same questions, before and after")
    for question, old, new in zip(QUESTIONS, before, after, strict=True):
        print(f"\n  {question}")
        for name, answer in (("before", old), ("after", new)):
            print(textwrap.fill(answer, 110, initial_indent=f"    {name:<6} | ", subsequent_indent="           | "))
    lineage = watch.lineage(kube, "assistant", "heldOutLoss", "baseHeldOutLoss")
    print(f"\n  held-out loss: {lineage['heldOutLoss']} nats per token; the base: {lineage['baseHeldOutLoss']}\n")
    print(kube.run("get", "aifactory"))


def put_inputs(kube: tools.Kube, image: str) -> None:
    """The base and the conversations, where the YAML looks for them."""
    claim.put(kube, ensure(BASE), claim=CLAIM, name=BASE.name, image=image)
    claim.put(kube, ROOT / "examples" / CONVERSATIONS, claim=CLAIM, name=CONVERSATIONS, image=image)


def answers(kube: tools.Kube) -> list[str]:
    """What the pool says to the questions."""
    with kube.forward("service/assistant", OPENAI_PORT) as (port,):
        base_url = f"http://127.0.0.1:{port}/v1"
        return [ask.chat(base_url, "smollm2", question, max_tokens=ANSWER_TOKENS) for question in QUESTIONS]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        print(f"demo-finetune: {' '.join(map(str, failed.cmd))} failed; see above", file=sys.stderr)
        sys.exit(1)
