"""Make a model on this machine and put it on a claim, from where an example serves it."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from demo import tools
from demo.pretrained import claim
from demo.pretrained.model import MODELS, ensure


def main() -> int:
    """0 when the claim has the model."""
    parser = argparse.ArgumentParser(prog="python -m demo.pretrained", description=__doc__)
    parser.add_argument("example", choices=MODELS, help="the model of examples/EXAMPLE.yaml")
    parser.add_argument("--kubeconfig", help="use this cluster instead of the local one")
    parser.add_argument("--namespace", default="default", help="where the example is to be applied")
    parser.add_argument("--registry", default="aifactory", help="where your cluster finds the images")
    options = parser.parse_args()
    try:
        run(options.example, options.kubeconfig, options.namespace, options.registry)
    except tools.DemoError as error:
        print(f"\n{options.example}: {error}", file=sys.stderr)
        return 1
    return 0


def run(example: str, own: str | None, namespace: str, registry: str) -> None:
    """The two steps."""
    model = MODELS[example]
    tools.step(f"1/2 model: {model.name}")
    folder = ensure(model)
    print(f"  {folder}")
    tools.step(f"2/2 claim: {model.claim} in namespace {namespace}")
    if own is None:
        kubectl = tools.output("localcluster/cluster.py", "bin", "kubectl")
        kube = tools.Kube(kubectl, tools.output("localcluster/cluster.py", "kubeconfig"), namespace)
    else:
        kube = tools.Kube(tools.on_path("kubectl"), own, namespace)
    image = f"{registry}/agent:{version('aifactory')}"
    copied = claim.put(kube, folder, claim=model.claim, name=model.name, image=image)
    print(f"  pvc://{model.claim}/{model.name} {'is there now' if copied else 'was there already'}")
    prefix = f"{Path(kube.kubectl).name} --kubeconfig {kube.kubeconfig} -n {namespace}"
    print(f"\nServe it:\n  {prefix} apply -f examples/{example}.yaml")


if __name__ == "__main__":
    sys.exit(main())
