"""Layers of Python packages: what `pip install --require-hashes -r <lock>` would install, by uv and as a layer.

uv puts the wheels' files into the image's dist-packages by hard links from its cache, so the layer's own file is the
only copy made. The base's Python compiles the byte code, as pip would. Nothing is built from source: a lock entry
without a wheel for the image's platform is an error. A package that an earlier layer has is not installed again.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from localcluster import toolchain
from localcluster.console import CannotRun, say
from localcluster.imagebuild import base
from localcluster.imagebuild.base import Base
from localcluster.imagebuild.layers import Layer, tree_entries, write_layer
from localcluster.imagebuild.store import Store

# Debian's Python looks here, and pip on Debian installs here; scripts go to /usr/local/bin.
SITE = f"usr/local/lib/python{base.PYTHON_VERSION}/dist-packages"
# Directories that uv puts beside the packages and that belong to the prefix, as in pip's "posix_prefix" scheme.
_OF_PREFIX = ("bin", "share", "include", "etc")
# The C library of the base; wheels that need a newer one are not for it.
_PLATFORM = "{machine}-manylinux_2_36"
_SHEBANG = re.compile(rb"\A#!.*python.*\n|\A#!/bin/sh\n'''exec' .*\n' '''\n")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_RECIPE = 2  # raise it when the code here makes other layers of the same input


def ensure(store: Store, on: Base, lock: Path, earlier: Sequence[Path]) -> Layer:
    """The layer with the packages of ``lock`` that the layers of the ``earlier`` locks do not have."""
    wanted = uninstalled(lock, earlier)
    # Of the base only its Python matters, so a change of the base does not make 5 GB anew.
    recipe = repr((_RECIPE, base.SUITE, base.PYTHON_VERSION, _PLATFORM, os.uname().machine, wanted))
    key = f"pip-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    known = store.known_layer(key)
    if known:
        return known[0]
    say(f"installing the packages of {lock.name} ({lock.parent.name}) for the image")
    with store.scratch("pip") as scratch:
        root = scratch / "root"
        _unpack(store.blob(on.layer.digest), root)
        size = _install(wanted, scratch, root / SITE)
        # The layer now and, later, the same files unpacked by containerd.
        store.require_space(int(size * 2.2), f"the layer of {lock.name}")
        prefix = scratch / "prefix"
        separate_prefix(root / SITE, prefix)
        _compile(root)
        say(f"writing the layer of {lock.name}: {size / 1e9:.1f} GB")
        entries = [*tree_entries(root / SITE, SITE), *tree_entries(prefix, "usr/local")]
        layer = store.add_layer(lambda output: write_layer(entries, output))
    store.remember_layer(key, layer, {"lock": lock.name})
    return layer


def pins(lock: Path) -> dict[tuple[str, str], str]:
    """The entries of a lock by (normalised name, version), each with its hashes and marker."""
    entries: dict[tuple[str, str], str] = {}
    for entry in lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        match = _PIN.match(entry)
        if not match:
            raise CannotRun(f"{lock}: '{entry[:60]}' is not of the form name==version")
        entries[re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]] = " ".join(entry.split())
    return entries


def uninstalled(lock: Path, earlier: Sequence[Path]) -> str:
    """The lock less what is there already. Two versions of one package would hide each other: refused."""
    installed: dict[str, set[str]] = {}
    for other in earlier:
        for name, version in pins(other):
            installed.setdefault(name, set()).add(version)
    kept = []
    for (name, version), entry in pins(lock).items():
        if name not in installed:
            kept.append(entry)
        elif version not in installed[name]:
            there = " and ".join(sorted(installed[name]))
            raise CannotRun(
                f"{lock} has {name} {version}, an earlier lock of the same image has {there}: "
                "resolve both with the same version (uv pip compile --constraints <earlier lock>)"
            )
    return "\n".join(sorted(kept)) + "\n"


def _unpack(archive: Path, root: Path) -> None:
    root.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(root)], check=True)


def _install(wanted: str, scratch: Path, target: Path) -> int:
    """Install into the unpacked base; returns the bytes installed."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(wanted)
    command = [str(toolchain.ensure_uv()), "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--link-mode", "hardlink", "--target", str(target)]
    command += [
        "--python-version",
        base.PYTHON_VERSION,
        "--python-platform",
        _PLATFORM.format(machine=os.uname().machine),
    ]
    result = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        raise CannotRun(f"uv could not install the packages for the image; it said:\n{tail}")
    (target / ".lock").unlink(missing_ok=True)
    return sum(path.lstat().st_size for path in target.rglob("*"))


def _compile(root: Path) -> None:
    """Byte code for every module: containers run as a user who could not write it, and would compile at each start.

    It is not bound to file times. A few packages hold files that are not meant for this Python; as in pip these are no
    error, so exit code 1 is none.
    """
    command = ["chroot", str(root), base.PYTHON, "-m", "compileall", "-q", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash", f"/{SITE}"]
    environment = base.ENVIRONMENT | {"PYTHONHASHSEED": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode not in (0, 1):
        raise CannotRun(f"the base's Python could not compile the packages; it said:\n{result.stderr.strip()[-2000:]}")


def separate_prefix(site: Path, prefix: Path) -> None:
    """Move scripts and shared files from where uv puts them to where they belong, below /usr/local."""
    prefix.mkdir()
    moved = [name for name in _OF_PREFIX if (site / name).is_dir() and not (site / name / "__init__.py").exists()]
    for name in moved:
        (site / name).rename(prefix / name)
    scripts = prefix / "bin"
    for script in sorted(scripts.iterdir()) if scripts.is_dir() else ():
        if script.is_file():
            _set_interpreter(script)
    for record in site.glob("*.dist-info/RECORD"):
        _correct_record(record, moved)


def _set_interpreter(script: Path) -> None:
    """Make a script run by the base's Python. Written anew: the file may be a hard link into uv's cache."""
    changed, scripts = _SHEBANG.subn(f"#!{base.PYTHON}\n".encode(), script.read_bytes(), count=1)
    if scripts:
        script.unlink()
        script.write_bytes(changed)
        script.chmod(0o755)


def _correct_record(record: Path, moved: Sequence[str]) -> None:
    """Let a distribution's list of files name the moved ones where they are now, without a hash of the old content."""
    with record.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    changed = [[f"../../../{row[0]}", "", ""] if row and row[0].partition("/")[0] in moved else row for row in rows]
    if changed == rows:
        return
    record.unlink()
    with record.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, lineterminator="\n").writerows(changed)
