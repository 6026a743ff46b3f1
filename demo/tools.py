"""The tools of the demo: kubectl, helm, port-forward."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HELM_TIMEOUT = "120s"
FORWARD_SECONDS = 20


class DemoError(Exception):
    """The demo can not go on; the text says why and what to do."""


def step(title: str) -> None:
    """Announce a step."""
    print(f"\n=== {title}", flush=True)


def python(*args: str) -> None:
    """Run one of our Python tools; its output is shown."""
    if subprocess.run([sys.executable, *args], cwd=ROOT).returncode != 0:
        raise DemoError(f"{args[0]} could not do its work; see the line above")


def output(*args: str) -> str:
    """Last line of what one of our Python tools prints."""
    done = subprocess.run([sys.executable, *args], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(args)} failed; see the line above")
    return done.stdout.strip().splitlines()[-1]


def on_path(name: str) -> str:
    """A tool of the user's."""
    found = shutil.which(name)
    if found is None:
        raise DemoError(f"{name} is not on PATH: install it, or leave KUBECONFIG out to use the local cluster")
    return found


class Kube:
    """kubectl bound to one cluster and, after `within`, to one namespace."""

    def __init__(self, kubectl: str, kubeconfig: str, namespace: str | None = None) -> None:
        self.kubectl = kubectl
        self.kubeconfig = kubeconfig
        self._namespace = namespace

    def within(self, namespace: str) -> Kube:
        """The same, bound to a namespace."""
        return Kube(self.kubectl, self.kubeconfig, namespace)

    def command(self, *args: str) -> list[str]:
        """The whole command line."""
        scope = ["--namespace", self._namespace] if self._namespace is not None else []
        return [self.kubectl, "--kubeconfig", self.kubeconfig, *scope, *args]

    def run(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl; raises DemoError with its words."""
        done = subprocess.run(self.command(*args), input=stdin, capture_output=True, text=True)
        if done.returncode != 0:
            raise DemoError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object, or an empty dictionary."""
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(text)) if text.strip() else {}

    def apply(self, text: str) -> None:
        """Apply YAML and show what kubectl says."""
        print(textwrap.indent(self.run("apply", "-f", "-", stdin=text), "  "), end="")

    def create_namespace(self, name: str) -> None:
        """Make the namespace unless it is there."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.run("apply", "-f", "-", stdin=json.dumps(namespace))

    @contextmanager
    def forward(self, target: str, *ports: int) -> Iterator[tuple[int, ...]]:
        """Local ports that lead to ports of a Service, chosen by the system."""
        args = ["port-forward", "--address", "127.0.0.1", target, *(f":{port}" for port in ports)]
        process = subprocess.Popen(
            self.command(*args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        try:
            yield _forwarded(process, ports)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _forwarded(process: subprocess.Popen[str], ports: tuple[int, ...]) -> tuple[int, ...]:
    """The local ports that kubectl chose; what it prints is read to the end, so that it never blocks."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    found: dict[int, int] = {}
    said: list[str] = []
    deadline = time.monotonic() + FORWARD_SECONDS
    while len(found) < len(ports):
        try:
            said.append(lines.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise DemoError(f"port-forward to the pool did not come up: {''.join(said).strip()}") from None
        if match := re.search(r"127\.0\.0\.1:(\d+) -> (\d+)", said[-1]):
            found[int(match.group(2))] = int(match.group(1))
    return tuple(found[port] for port in ports)


def factory(own: str | None, registry: str, namespace: str, *, steps: int) -> Kube:
    """The first three steps of a demo: cluster, images, operator.

    Args:
        own: a cluster of the user's by its kubeconfig, or None for the local one.
        registry: where the cluster finds the images.
        namespace: the operator's.
        steps: how many the demo has in all.
    """
    if own is None:
        step(f"1/{steps} cluster: a real one-node Kubernetes on this machine")
        python("localcluster/cluster.py", "up")
        kubeconfig = output("localcluster/cluster.py", "kubeconfig")
        step(f"2/{steps} images: operator, trainer, agent and server, what changed of them")
        python("localcluster/images.py", "load")
        kube = Kube(output("localcluster/cluster.py", "bin", "kubectl"), kubeconfig)
        helm = output("localcluster/cluster.py", "bin", "helm")
    else:
        step(f"1/{steps} cluster: yours")
        kube = Kube(on_path("kubectl"), own)
        helm = on_path("helm")
        kube.run("version")
        step(f"2/{steps} images: expected at {registry}/{{operator,trainer,agent,server}}")
    step(f"3/{steps} operator: helm upgrade --install aifactory charts/aifactory")
    install(helm, kube, namespace, registry, restart=own is None)
    return kube


def install(helm: str, kube: Kube, namespace: str, registry: str, *, restart: bool) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    args = [helm, "upgrade", "--install", "aifactory", str(ROOT / "charts/aifactory")]
    args += ["--namespace", namespace, "--create-namespace", "--kubeconfig", kube.kubeconfig]
    args += ["--set", f"images.registry={registry}", "--wait", "--timeout", HELM_TIMEOUT]
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.startswith("Error")] or [done.stderr.strip()]
        pods = kube.within(namespace).run("get", "pods")
        raise DemoError(f"helm: {' '.join(words)}\n{pods}")
    system = kube.within(namespace)
    if restart:
        # The local cluster reuses one image tag: new code only runs in a new pod.
        system.run("rollout", "restart", "deployment/aifactory-operator")
    system.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s")
