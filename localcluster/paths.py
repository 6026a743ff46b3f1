"""Where the local cluster keeps things: everything under one cache directory, nothing in the source tree.

Binaries are keyed by what they were built from, so clones share them. The state of the one cluster of this machine is
in ``cluster/``; whichever clone runs ``up`` next takes it over.
"""

from __future__ import annotations

import os
from pathlib import Path

SOURCES = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """$AIFACTORY_CACHE, else $XDG_CACHE_HOME/aifactory, else ~/.cache/aifactory."""
    own = os.environ.get("AIFACTORY_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "aifactory").resolve()


def binaries_dir() -> Path:
    return cache_dir() / "bin"


def tools_dir() -> Path:
    """Go and uv, when this machine had none of its own."""
    return cache_dir() / "tools"


def state_dir() -> Path:
    return cache_dir() / "cluster"


def containerd_socket() -> Path:
    """Where the cluster's containerd listens, for tools that bring it images."""
    return state_dir() / "containerd" / "containerd.sock"


def kubeconfig() -> Path:
    """The administrator's kubeconfig of the local cluster; exists once it was started."""
    return state_dir() / "kubeconfig"
