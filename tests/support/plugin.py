"""Somebody at a terminal who has kubectl and the plugin, and does what the screen says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.kubectl import ROOT, Kubectl, Outcome, binary
from tests.support.waiting import wait_for

PLUGIN = ROOT / "plugin/kubectl_aifactory.py"


class User:
    """Somebody with kubectl, the plugin and a namespace."""

    def __init__(self, ns: Kubectl, folder: Path) -> None:
        for name in ("kubectl-aifactory", "kubectl_complete-aifactory"):
            (folder / name).symlink_to(PLUGIN)
        path = f"{folder}:{Path(sys.executable).parent}:{Path(binary('kubectl')).parent}:{os.environ['PATH']}"
        self._env = {**os.environ, "PATH": path, "KUBECONFIG": ns.kubeconfig, "COLUMNS": "100"}
        self.folder = folder
        self.namespace = str(ns.namespace)

    def types(self, command: str, *, code: int = 0) -> Outcome:
        """A command in a shell; it ends with that exit code."""
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=self._env, cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Outcome(done.returncode, done.stdout, done.stderr)

    def starts(self, command: str) -> subprocess.Popen[str]:
        """A command that goes on, as a process of its own."""
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"], env=self._env, cwd=self.folder, stdout=subprocess.PIPE, text=True
        )

    def plugin(self, words: str, *, code: int = 0) -> str:
        """A command of the plugin, in the namespace; what it printed."""
        return self.types(f"kubectl aifactory {words} -n {self.namespace}", code=code).out

    def status(self, reason: str) -> str:
        """The screen as soon as that reason is what blocks."""
        return wait_for(f"{reason} to block", lambda: self.plugin("status"), lambda text: f": {reason}" in text)

    def told(self, text: str) -> str:
        """The first command that the screen tells."""
        (command,) = re.findall(r"^  run +(.*)$", text, re.MULTILINE)
        return str(command)

    def obeys(self, text: str) -> None:
        """Types it, as it stands."""
        self.types(self.told(text))
