"""The main job in five steps: a cluster, the images, the operator, one YAML, tokens.

It fails loudly with the object's own message if a step does not become ready, and it leaves the cluster up. With
--kubeconfig it uses a cluster of yours and builds nothing: push the images first (docs/images.md) and name their
registry with --registry.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from demo import ask, tools, watch

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "aifactory-demo"
SYSTEM_NAMESPACE = "aifactory-system"
OPENAI_PORT = 9000
"""Of every pool of a language model; `status.url` names it."""


def main() -> int:
    """Run the demo; 0 when text was generated."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--kubeconfig", help="use this cluster instead of the local one")
    parser.add_argument("--registry", default="aifactory", help="where your cluster finds the images")
    parser.add_argument("--keep", action="store_true", help="keep the objects of an earlier demo and go on from there")
    options = parser.parse_args()
    try:
        run(options.kubeconfig, options.registry, keep=options.keep)
    except tools.DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; what was applied goes on", file=sys.stderr)
        return 130
    return 0


def run(own: str | None, registry: str, *, keep: bool) -> None:
    """The five steps."""
    kube = tools.factory(own, registry, SYSTEM_NAMESPACE, steps=5)

    kube = kube.within(NAMESPACE)
    if not keep:
        kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    kube.create_namespace(NAMESPACE)
    tools.step("4/5 one YAML: kubectl apply -f examples/factory.yaml")
    started = time.monotonic()
    kube.apply((ROOT / "examples/factory.yaml").read_text().replace("aifactory/trainer", f"{registry}/trainer"))
    watch.until_served(kube, job="tiny-gpt", pool="chat", started=started)

    tools.step("5/5 tokens: asking the pool's Service, with the openai package")
    with kube.forward("service/chat", OPENAI_PORT) as (port,):
        answer = ask.stream(f"http://127.0.0.1:{port}/v1", "tiny-gpt", prompt="def ", max_tokens=120)
    print(f"\n  first token {answer.first_token_at - started:.1f} s after apply")
    print(f"  {answer.model}: {answer.tokens} tokens, {answer.tokens_per_second:.0f} tokens/s")

    lineage = watch.lineage(kube, "chat", "heldOutBitsPerByte", "untrainedBitsPerByte")
    print(
        f"  held-out loss: {lineage['heldOutBitsPerByte']} bits per byte; "
        f"an untrained model: {lineage['untrainedBitsPerByte']}\n"
    )
    print(kube.run("get", "aifactory"))
    _next_steps(kube)


def _next_steps(kube: tools.Kube) -> None:
    prefix = f"  {Path(kube.kubectl).name} --kubeconfig {kube.kubeconfig} -n {NAMESPACE}"
    print("Three things to try next:")
    print(f"{prefix} get aifactory -o wide")
    print(f"{prefix} delete pod -l aifactory.dev/pool-name=chat --wait=false   # and keep asking: others answer")
    print(f"{prefix} describe tjob tiny-gpt")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        print(f"demo: {' '.join(map(str, failed.cmd))} failed; see above", file=sys.stderr)
        sys.exit(1)
