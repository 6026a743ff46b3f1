"""Brings images from the store to a containerd, moving only what it lacks.

A large layer is not sent: its file is linked into containerd's content store, on the same file system, and then
registered by an ingest of which every byte is there already. So 5 GB of PyTorch are on the disk once (and once
unpacked). This relies on containerd looking for a blob by its name before it takes bytes. Where that does not hold, or
the link is not possible, the same command sends the bytes: slower, and nothing else changes.

The rest (index, manifests, configurations, small layers) goes as one image archive, whose import also unpacks, and lets
the garbage collector know what belongs to what.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from localcluster.console import CannotRun, say
from localcluster.imagebuild.layers import Layer
from localcluster.imagebuild.store import LAYOUT, Descriptor, Store, index_json

NAMESPACE = "k8s.io"  # the kubelet's
SNAPSHOTTER = "overlayfs"
# Layers above this size are linked and registered one by one, smaller ones travel in the archive.
_LARGE = 8 << 20
# REF TYPE DIGEST STATUS (parts) SIZE UNPACKED
_CHECK = re.compile(r"^(\S+)\s+\S+\s+(sha256:[0-9a-f]{64})\s+(\w+).*\s(true|false)\s*$")
_GC_ROOT = "containerd.io/gc.root"


@dataclass(frozen=True, slots=True)
class Present:
    """An image that containerd has; `usable` when all its content is there and unpacked."""

    digest: str
    usable: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """Names of images that were brought: for the first time, or in place of another of that name."""

    new: tuple[str, ...]
    replaced: tuple[str, ...]


class Containerd:
    """One containerd, talked to through its own command-line client."""

    def __init__(self, ctr: Path, socket: Path) -> None:
        self._command = [str(ctr), "--address", str(socket), "--namespace", NAMESPACE]

    def _run(self, *arguments: str, data: bytes | None = None, file: IO[bytes] | None = None) -> str:
        """Run a ctr command, with ``data`` or ``file`` as its input; returns what it prints."""
        command = [*self._command, *arguments]
        if data is not None:
            result = subprocess.run(command, input=data, capture_output=True)
        else:
            result = subprocess.run(command, stdin=file or subprocess.DEVNULL, capture_output=True)
        if result.returncode:
            # The reason comes last; above it are log lines.
            message = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise CannotRun(f"containerd refused 'ctr {' '.join(arguments[:2])}': {message}")
        return result.stdout.decode()

    def images(self) -> dict[str, Present]:
        """Images by name, those that are known only by their digest too."""
        found = {}
        for line in self._run("images", "check").splitlines():
            match = _CHECK.match(line)
            if match:
                found[match[1]] = Present(match[2], match[3] == "complete" and match[4] == "true")
        return found

    def load(self, store: Store, wanted: Mapping[str, Descriptor]) -> Loaded:
        """Make containerd's images those of ``wanted``, whatever it had under these names."""
        before = self.images()
        missing = {
            name: manifest for name, manifest in wanted.items() if before.get(name) != Present(manifest.digest, True)
        }
        if not missing:
            return Loaded((), ())
        layers = {layer for manifest in missing.values() for layer in store.layers_of(manifest) if layer.size > _LARGE}
        try:
            self._register(store, layers)
            self._run("images", "import", "--snapshotter", SNAPSHOTTER, "-", data=_archive(store, missing))
        finally:
            # From here on it is the images that hold them. All are let go, also those that a killed run left held.
            for digest in self._blobs() & {layer.digest for layer in layers}:
                self._run("content", "label", digest, f"{_GC_ROOT}=")
        self._check(missing)
        self._forget(before, missing)
        return Loaded(
            new=tuple(sorted(name for name in missing if name not in before)),
            replaced=tuple(sorted(name for name in missing if name in before)),
        )

    def _register(self, store: Store, layers: Iterable[Layer]) -> None:
        """Make layers known, and hold them: nothing refers to them yet, so the garbage collector would take them."""
        present = self._blobs()
        directory = self._content_directory()
        for layer in sorted(layers, key=lambda layer: layer.digest):
            if layer.digest not in present:
                _require_space(directory, layer)
                say(f"giving containerd a layer of {layer.size / 1e9:.2f} GB")
                blob = store.blob(layer.digest)
                _link(blob, directory / blob.name)
                expected = ["--expected-digest", layer.digest, "--expected-size", str(layer.size)]
                with blob.open("rb") as content:
                    self._run("content", "ingest", *expected, f"layer-{layer.digest}", file=content)
            self._run("content", "label", layer.digest, f"{_GC_ROOT}=loading")

    def _blobs(self) -> set[str]:
        return set(self._run("content", "ls", "--quiet").split())

    def _content_directory(self) -> Path:
        """Where containerd keeps blobs: it says so itself."""
        listed = self._run("plugins", "ls", "--detailed", "type==io.containerd.content.v1")
        match = re.search(r"root\s+(/.*\S)", listed)
        if not match:
            raise CannotRun("containerd does not say where its content is: 'ctr plugins ls --detailed' shows no root")
        directory = Path(match[1]) / "blobs" / "sha256"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _check(self, loaded: Mapping[str, Descriptor]) -> None:
        after = self.images()
        for name, manifest in loaded.items():
            if after.get(name) != Present(manifest.digest, True):
                raise CannotRun(
                    f"containerd took {name} but does not have it ready: found {after.get(name)}; run again"
                )

    def _forget(self, before: Mapping[str, Present], loaded: Mapping[str, Descriptor]) -> None:
        """Drop the previous images of these names, which containerd still knows by digest: they hold their layers."""
        replaced = {before[name].digest for name in loaded if name in before}
        current = {manifest.digest for manifest in loaded.values()}
        old = [
            name
            for name, image in before.items()
            if name.startswith("sha256:") and image.digest in replaced and image.digest not in current
        ]
        if old:
            self._run("images", "rm", *old)


def _require_space(directory: Path, layer: Layer) -> None:
    """The layer is unpacked, so its files need room, even when its blob is only linked."""
    free = shutil.disk_usage(directory).free
    if free < layer.size * 1.1:
        raise CannotRun(
            f"a layer of {layer.size / 1e9:.1f} GB is to be unpacked and {free / 1e9:.1f} GB are free in {directory}: "
            "make room, or set AIFACTORY_CACHE to a directory on a larger disk"
        )


def _link(blob: Path, target: Path) -> None:
    """Give a blob a second name. Where that is impossible, see the module's docstring."""
    try:
        os.link(blob, target)
    except FileExistsError:
        pass  # a run was killed before it registered the blob; containerd itself only moves complete ones here
    except OSError as error:
        say(f"the layer is copied, since it could not be linked: {error.strerror}")


def _archive(store: Store, images: Mapping[str, Descriptor]) -> bytes:
    """An image archive of ``images`` less the large layers."""
    digests = []
    for manifest in images.values():
        config = json.loads(store.read(manifest.digest))["config"]["digest"]
        small = [layer.digest for layer in store.layers_of(manifest) if layer.size <= _LARGE]
        digests += [manifest.digest, config, *small]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _put(archive, "oci-layout", json.dumps(LAYOUT).encode())
        for digest in dict.fromkeys(digests):
            _put(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", store.read(digest))
        _put(archive, "index.json", index_json(images))
    return buffer.getvalue()


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
