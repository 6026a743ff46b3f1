"""The cluster as a user sees it: `kubectl` and `helm`, with their exact words. Objects alone are read directly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.reader import Reader
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

Json = dict[str, Any]


def binary(name: str) -> str:
    """Path of a binary that the local cluster is built from."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "localcluster/cluster.py"), "bin", name], check=True, capture_output=True, text=True
    )
    return found.stdout.strip().splitlines()[-1]


@dataclass(frozen=True)
class Outcome:
    """What a command said."""

    code: int
    out: str
    err: str


class Kubectl:
    """`kubectl` bound to one kubeconfig and, where given, one namespace."""

    def __init__(
        self, path: str, kubeconfig: str, namespace: str | None = None, *, reader: Reader | None = None
    ) -> None:
        self._path = path
        self._reader = reader or Reader(kubeconfig)
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def within(self, namespace: str) -> Kubectl:
        """The same, bound to a namespace."""
        return Kubectl(self._path, self.kubeconfig, namespace, reader=self._reader)

    def run(self, *args: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> Outcome:
        """Run a command; raises AssertionError with kubectl's words when it fails and `check` is set."""
        command = [self._path, "--kubeconfig", self.kubeconfig]
        if self.namespace is not None:
            command += ["--namespace", self.namespace]
        done = subprocess.run([*command, *args], input=stdin, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return Outcome(done.returncode, done.stdout, done.stderr)

    def apply(self, *documents: Json | str) -> Outcome:
        """Apply objects given as dictionaries or as YAML."""
        text = "\n---\n".join(doc if isinstance(doc, str) else json.dumps(doc) for doc in documents)
        return self.run("apply", "-f", "-", stdin=text)

    def refuse(self, document: Json | str) -> str:
        """Apply an object that must be refused; returns kubectl's words."""
        text = document if isinstance(document, str) else json.dumps(document)
        outcome = self.run("apply", "-f", "-", stdin=text, check=False)
        assert outcome.code != 0, f"was accepted: {text}"
        return outcome.err

    def get(self, kind: str, name: str) -> Json:
        """One object; an empty dictionary when it is not there."""
        found = self._reader.get(kind, self.namespace or "default", name)
        if found is None:
            raise AssertionError(self.run("get", kind, name).err)
        return found

    def list(self, kind: str, selector: str = "") -> list[Json]:
        """Objects of a kind."""
        found = self._reader.list(kind, self.namespace or "default", selector)
        if found is None:
            raise AssertionError(self.run("get", kind).err)
        return found

    def wait(self, kind: str, name: str, what: str, until: Callable[[Json], object], *, seconds: float = 120) -> Json:
        """Wait until something holds for an object."""
        return wait_for(
            f"{kind}/{name} {what}", lambda: self.get(kind, name), lambda found: found and until(found), seconds=seconds
        )

    def wait_condition(self, kind: str, name: str, type_: str, status: str = "True", *, seconds: float = 120) -> Json:
        """Wait until a condition has a status; the object is printed when it does not come."""
        return self.wait(
            kind,
            name,
            f"{type_}={status}",
            lambda found: condition(found, type_).get("status") == status,
            seconds=seconds,
        )


def condition(found: Json, type_: str) -> Json:
    """A condition of an object, or an empty dictionary."""
    for entry in found.get("status", {}).get("conditions", ()):
        if entry["type"] == type_:
            return dict(entry)
    return {}


def command(args: Sequence[str], **env: str) -> str:
    """Run a command and return what it printed; raises AssertionError with its words when it fails."""
    done = subprocess.run(list(args), capture_output=True, text=True, env={**os.environ, **env}, cwd=ROOT)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout
