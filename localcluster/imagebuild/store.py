"""Where built images live: one OCI image layout with all images, and the memory of which input made which layer.

`blobs/` and `index.json` follow the OCI image layout, so that other tools can read images from here. `layers/` maps the
key of an expensive layer's inputs to its digest. A blob appears by a rename, so one that exists is complete. What no
image refers to any more is swept after a successful build: layers here have gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from localcluster.console import CannotRun
from localcluster.imagebuild.layers import Layer
from localcluster.locks import exclusive

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYOUT = {"imageLayoutVersion": "1.0.0"}
# The annotation by which containerd names an imported image.
NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob, as in the OCI image specification."""

    media_type: str
    digest: str
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


class Store:
    """The images below ``root``. Change it only while holding `lock`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._layers = root / "layers"
        self._scratch = root / "tmp"
        for directory in (self._blobs, self._layers, self._scratch):
            directory.mkdir(parents=True, exist_ok=True)
        layout = root / "oci-layout"
        if not layout.exists():
            layout.write_text(json.dumps(LAYOUT))

    def lock(self) -> AbstractContextManager[None]:
        return exclusive(self.root / ".lock", "building images")

    @contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """A directory on the same file system as the blobs, removed at the end."""
        directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self._scratch))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def read(self, digest: str) -> bytes:
        return self.blob(digest).read_bytes()

    def add(self, data: bytes, media_type: str) -> Descriptor:
        digest = hashlib.sha256(data).hexdigest()
        if not (self._blobs / digest).exists():
            self._publish(lambda output: _write_all(output, data))
        return Descriptor(media_type, f"sha256:{digest}", len(data))

    def add_layer(self, write: Callable[[BinaryIO], Layer]) -> Layer:
        """Store what ``write`` writes; it returns the digest and size of it."""
        return self._publish(write)

    def _publish(self, write: Callable[[BinaryIO], Layer]) -> Layer:
        handle, name = tempfile.mkstemp(dir=self._scratch)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb", buffering=1 << 20) as output:
                layer = write(output)
            # One that exists stays: containerd may share it by a hard link, which a new file would not.
            if not self.blob(layer.digest).exists():
                temporary.chmod(0o444)
                temporary.rename(self.blob(layer.digest))
        finally:
            temporary.unlink(missing_ok=True)
        return layer

    def known_layer(self, key: str) -> tuple[Layer, dict[str, Any]] | None:
        """The layer made from the inputs with this key and what was noted about it; None if it has to be made."""
        try:
            record = json.loads((self._layers / f"{key}.json").read_text())
            layer = Layer(**record["layer"])
            intact = self.blob(layer.digest).stat().st_size == layer.size
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return (layer, record["notes"]) if intact else None

    def remember_layer(self, key: str, layer: Layer, notes: Mapping[str, Any]) -> None:
        temporary = self._scratch / f"{key}.json"
        temporary.write_text(json.dumps({"layer": asdict(layer), "notes": notes}))
        temporary.rename(self._layers / f"{key}.json")

    def images(self) -> dict[str, Descriptor]:
        """Manifests by image name."""
        try:
            index = json.loads((self.root / "index.json").read_text())
        except FileNotFoundError:
            return {}
        return {
            entry["annotations"][NAME]: Descriptor(entry["mediaType"], entry["digest"], entry["size"])
            for entry in index["manifests"]
        }

    def publish(self, images: Mapping[str, Descriptor]) -> None:
        """Make ``images`` the current ones of their repositories; earlier tags of these go."""
        replaced = {name.rpartition(":")[0] for name in images}
        kept = {name: each for name, each in self.images().items() if name.rpartition(":")[0] not in replaced}
        temporary = self._scratch / "index.json"
        temporary.write_bytes(index_json(kept | dict(images)))
        temporary.rename(self.root / "index.json")

    def layers_of(self, manifest: Descriptor) -> tuple[Layer, ...]:
        content = json.loads(self.read(manifest.digest))
        return tuple(Layer(each["digest"], each["size"]) for each in content["layers"])

    def sweep(self) -> int:
        """Remove blobs that no image uses and what killed runs left behind; returns the bytes removed."""
        used: set[str] = set()
        for manifest in self.images().values():
            used |= {manifest.digest, json.loads(self.read(manifest.digest))["config"]["digest"]}
            used |= {layer.digest for layer in self.layers_of(manifest)}
        removed = 0
        for path in self._blobs.iterdir():
            if f"sha256:{path.name}" not in used:
                removed += path.stat().st_size
                path.unlink()
        for record in self._layers.glob("*.json"):
            if self.known_layer(record.stem) is None:
                record.unlink()
        for left in self._scratch.iterdir():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        return removed

    def require_space(self, needed: int, what: str) -> None:
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise CannotRun(
                f"{what} needs {needed / 1e9:.1f} GB in {self.root} and {free / 1e9:.1f} GB are free: "
                "make room, or set AIFACTORY_CACHE to a directory on a larger disk"
            )


def index_json(images: Mapping[str, Descriptor]) -> bytes:
    """The index of an image layout; the name is given twice: for containerd and for tools that follow the standard."""
    manifests = [
        descriptor.to_json() | {"annotations": {NAME: name, "org.opencontainers.image.ref.name": name}}
        for name, descriptor in sorted(images.items())
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


def _write_all(output: BinaryIO, data: bytes) -> Layer:
    output.write(data)
    return Layer(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
