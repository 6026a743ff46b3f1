"""Executes a Containerfile's instructions: layers, then the image's configuration and manifest.

Every image is rebuilt each time; what costs anything is found in the store by its inputs, and the rest (hashing the
sources, writing a small tar) takes milliseconds. So there is no cache that could be stale.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from localcluster.imagebuild import containerfile as cf
from localcluster.imagebuild import packages
from localcluster.imagebuild.base import ENVIRONMENT, Base
from localcluster.imagebuild.context import Context
from localcluster.imagebuild.layers import Entry, Layer, file_entry, write_layer
from localcluster.imagebuild.store import CONFIG, LAYER, MANIFEST, Descriptor, Store

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CREATED = "2020-01-01T00:00:00Z"


def architecture() -> str:
    """This machine's architecture as images name it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


@dataclass
class _Image:
    """An image in the making."""

    layers: list[Layer]
    # Directories known to exist, relative to /: a layer names only those that it adds.
    directories: set[str]
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    copied: dict[str, Path] = field(default_factory=dict)
    locks: list[Path] = field(default_factory=list)

    @property
    def workdir(self) -> str:
        return str(self.config.get("WorkingDir", "/"))


class Builder:
    """Builds images from one repository on one base."""

    def __init__(self, store: Store, context: Context, base: Base) -> None:
        self._store = store
        self._context = context
        self._base = base

    def build(self, file: str) -> Descriptor:
        """Build the Containerfile at ``file`` (relative to the repository); returns its manifest."""
        instructions = cf.parse(self._context.root / file, file, environment=ENVIRONMENT)
        image = _Image([self._base.layer], set(self._base.directories), environment=dict(ENVIRONMENT))
        for instruction in instructions:
            self._execute(image, instruction)
        return self._finish(image)

    def _execute(self, image: _Image, instruction: cf.Instruction) -> None:
        match instruction:
            case cf.Arg() | cf.From():
                pass  # the parser has replaced the variables; here every image is built on our base
            case cf.Env(values=values):
                image.environment.update(values)
            case cf.Label(values=values):
                image.config.setdefault("Labels", {}).update(values)
            case cf.User(user=user):
                image.config["User"] = user
            case cf.Expose(ports=ports):
                image.config.setdefault("ExposedPorts", {}).update({port: {} for port in ports})
            case cf.Entrypoint(command=command):
                image.config["Entrypoint"] = list(command)
                image.config.pop("Cmd", None)
            case cf.Cmd(command=command):
                image.config["Cmd"] = list(command)
            case cf.Workdir(path=path):
                image.config["WorkingDir"] = path
                self._add(image, _missing_directories(image, path.strip("/")))
            case cf.Copy():
                self._copy(image, instruction)
            case cf.PipInstall():
                self._install(image, instruction)

    def _copy(self, image: _Image, copy: cf.Copy) -> None:
        entries: list[Entry] = []
        for selected in self._context.select(copy, image.workdir):
            if selected.is_directory:
                entries += _missing_directories(image, selected.target, copy.owner)
                continue
            if selected.target in image.directories:
                raise copy.where.refuse(f"/{selected.target} is a directory in the image: end the target with /")
            entries += _missing_directories(image, str(PurePosixPath(selected.target).parent))
            entries.append(file_entry(selected.target, selected.source, copy.owner))
            image.copied[f"/{selected.target}"] = selected.source
        self._add(image, entries)

    def _install(self, image: _Image, install: cf.PipInstall) -> None:
        lock = image.copied.get(install.lock)
        if lock is None:
            raise install.where.refuse(f"{install.lock} is not in the image: COPY it before this line")
        layer = packages.ensure(self._store, self._base, lock, image.locks)
        image.locks.append(lock)
        image.layers.append(layer)

    def _add(self, image: _Image, entries: list[Entry]) -> None:
        if entries:
            image.layers.append(self._store.add_layer(lambda output: write_layer(entries, output)))

    def _finish(self, image: _Image) -> Descriptor:
        config = image.config | {"Env": [f"{name}={value}" for name, value in image.environment.items()]}
        platform = {"architecture": architecture(), "os": "linux"}
        rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]}
        content = platform | {"created": _CREATED, "config": config, "rootfs": rootfs}
        stored = self._store.add(_canonical(content), CONFIG)
        layers = [Descriptor(LAYER, layer.digest, layer.size).to_json() for layer in image.layers]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": stored.to_json(), "layers": layers}
        return self._store.add(_canonical(manifest), MANIFEST)


def _missing_directories(image: _Image, path: str, owner: tuple[int, int] = (0, 0)) -> list[Entry]:
    """Entries for ``path`` and its parents that no layer has yet; ``owner`` is for ``path`` itself."""
    entries = []
    for directory in [*reversed(PurePosixPath(path).parents), PurePosixPath(path)]:
        name = str(directory)
        if name not in (".", "/") and name not in image.directories:
            image.directories.add(name)
            entries.append(Entry(name, owner=owner if name == path else (0, 0)))
    return entries


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
