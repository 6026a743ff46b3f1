"""The base layer: a minimal Debian with its Python, made by mmdebstrap from the distribution's packages.

It stands in for the public base images that users name with ARG BASE. It has the same release as the Python version
that the lock files are resolved for, and nothing that only a build would need: no pip, no compiler, no manuals.
Root is needed. Must not name a mirror: mmdebstrap knows its distribution's own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localcluster import debian
from localcluster.console import CannotRun, say
from localcluster.imagebuild.layers import EPOCH, Layer
from localcluster.imagebuild.store import Store

SUITE = "bookworm"
PYTHON_VERSION = "3.11"
PYTHON = "/usr/bin/python3"
# libgomp1: PyTorch. libpython3.11: Triton's Python back end, which embeds the interpreter.
PACKAGES = ("python3", "ca-certificates", "libgomp1", "libpython3.11")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_DROPPED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_KEPT = ("/usr/share/doc/*/copyright",)
# File times are clamped for reproducible bytes, so byte code must not be bound to them. Fresh byte code matters: a
# container that cannot write it would compile the standard library at every start.
_LIBRARIES = f"/usr/lib/python{PYTHON_VERSION} /usr/lib/python3 /usr/share/python3"
_COMPILE = f'chroot "$1" {PYTHON} -m compileall -q -f --invalidation-mode unchecked-hash {_LIBRARIES}'

# mmdebstrap copies these two from the build machine; in a container the runtime mounts its own over them.
_FORGET = ': > "$1/etc/resolv.conf"; : > "$1/etc/hostname"'


@dataclass(frozen=True, slots=True)
class Base:
    """The base layer; `directories` are the paths that exist in it, relative to /."""

    layer: Layer
    directories: frozenset[str]


def ensure(store: Store) -> Base:
    """The base layer, made now if this machine has none for this list of packages."""
    recipe = repr((SUITE, PACKAGES, _DROPPED, _KEPT, _COMPILE, _FORGET, EPOCH, os.uname().machine))
    key = f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    known = store.known_layer(key)
    if known:
        return Base(known[0], frozenset(known[1]["directories"]))
    say(f"making the base layer: Debian {SUITE} with {', '.join(PACKAGES)}")
    store.require_space(2_000_000_000, "the base layer")
    with store.scratch("base") as scratch:
        archive = scratch / "base.tar"
        _mmdebstrap(archive, scratch)
        layer = store.add_layer(lambda output: _take(archive, output))
        directories = sorted(_directories(store.blob(layer.digest)))
    store.remember_layer(key, layer, {"directories": directories})
    return Base(layer, frozenset(directories))


def _mmdebstrap(archive: Path, scratch: Path) -> None:
    command = [_program(), "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _DROPPED]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in _KEPT]
    command += [f"--customize-hook={hook}" for hook in (_COMPILE, _FORGET)]
    command += [SUITE, str(archive)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": str(scratch), "PYTHONHASHSEED": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        raise CannotRun(f"mmdebstrap could not make the base layer; it said:\n{tail}")


def _program() -> str:
    found = shutil.which("mmdebstrap")
    if found is None:
        debian.ensure_packages(["mmdebstrap"])
        found = shutil.which("mmdebstrap")
    if found is None:
        raise CannotRun("mmdebstrap is missing: apt-get install mmdebstrap")
    return found


def _take(archive: Path, output: BinaryIO) -> Layer:
    with archive.open("rb") as content:
        shutil.copyfileobj(content, output, 4 << 20)
    with archive.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Layer(f"sha256:{digest}", archive.stat().st_size)


def _directories(archive: Path) -> set[str]:
    with tarfile.open(archive) as content:
        return {os.path.normpath(member.name) for member in content if member.isdir()} - {"."}
