"""Packs the plugin for krew: an archive, a manifest with its checksum, and the checksums of all that was built.

The archive is the same, byte by byte, whoever makes it and when.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "kubectl-aifactory"
SUMS = "SHA256SUMS"
CAVEATS = "It needs Python 3.9 or newer as python3 on PATH."


def version() -> str:
    """The plugin's version."""
    found = re.search(r'^__version__ = "(.+)"$', (HERE / "kubectl_aifactory.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def archive() -> bytes:
    """What krew unpacks: the plugin under the name that kubectl looks for, and the licence."""
    files = ((NAME, HERE / "kubectl_aifactory.py", 0o755), ("LICENSE", HERE.parent / "LICENSE", 0o644))
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, path, mode in files:
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def manifest(address: str, name: str, digest: str) -> str:
    """What krew reads. JSON is YAML that needs no library to be written."""
    platforms = [
        {
            "selector": {"matchExpressions": [{"key": "os", "operator": "In", "values": ["darwin", "linux"]}]},
            "uri": f"{address}/{name}",
            "sha256": digest,
            "files": [{"from": NAME, "to": "."}, {"from": "LICENSE", "to": "."}],
            "bin": NAME,
        }
    ]
    spec = {
        "version": f"v{version()}",
        "homepage": address,
        "shortDescription": "See what an AI factory does and what blocks it",
        "description": "Walks the line from data to tokens (TrainingJob, ModelVersion, InferencePool), shows the\n"
        "first thing that blocks it and the command that mends it.\n",
        "caveats": CAVEATS,
        "platforms": platforms,
    }
    kind = {"apiVersion": "krew.googlecontainertools.github.com/v1alpha2", "kind": "Plugin"}
    return json.dumps({**kind, "metadata": {"name": "aifactory"}, "spec": spec}, indent=2) + "\n"


def write_checksums(folder: Path, files: list[Path]) -> None:
    """For `sha256sum --check`."""
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    (folder / SUMS).write_text("\n".join(sums) + "\n")


def main() -> int:
    """`package.py FOLDER [ADDRESS]`: ADDRESS is that of the folder in which the archive will be found."""
    folder, address = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "https://example.com"
    folder.mkdir(parents=True, exist_ok=True)
    packed = archive()
    name = f"{NAME}-v{version()}.tar.gz"
    (folder / name).write_bytes(packed)
    text = manifest(address.rstrip("/"), name, hashlib.sha256(packed).hexdigest())
    (folder / "aifactory.yaml").write_text(text)
    built = sorted(path for path in folder.iterdir() if path.suffix in (".gz", ".whl", ".yaml"))
    write_checksums(folder, built)
    print("\n".join(str(path) for path in (*built, folder / SUMS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
