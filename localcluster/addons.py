"""What makes a node useful: its own small images, cluster DNS and a default storage class."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import struct
import subprocess
import tarfile
from pathlib import Path
from string import Template

from localcluster import parts
from localcluster.console import CannotRun
from localcluster.layout import DNS_ADDRESS, KUBERNETES_ADDRESS
from localcluster.paths import SOURCES

_DNS_NAME = ("kubernetes", "default", "svc", "cluster", "local")


def image_name(program: str) -> str:
    """The image of a program we built; its tag changes whenever the program does."""
    return f"localhost/aifactory/{program}:{parts.key(parts.part_of(program))}"


def image_archive(name: str, program: Path, directory: str = "") -> bytes:
    """An image that holds one static program and an empty /tmp, in the format of ``docker save``.

    With a ``directory`` the program lies there and is found by its name.
    """
    path = f"{directory}/{program.name}"
    layer = _tar({path.lstrip("/"): (program.read_bytes(), 0o755)}, _TEMPORARY)
    config = {
        "architecture": "amd64" if _is_x86() else "arm64",
        "os": "linux",
        "config": {"Entrypoint": [path], **({"Env": [f"PATH={directory}"]} if directory else {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, "config.json": _json(config), "manifest.json": _json(manifest)}
    return _tar({path: (content, 0o644) for path, content in files.items()})


def _is_x86() -> bool:
    return Path("/lib64/ld-linux-x86-64.so.2").exists()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_TEMPORARY = tarfile.TarInfo("tmp")
_TEMPORARY.type, _TEMPORARY.mode = tarfile.DIRTYPE, 0o1777


def _tar(files: dict[str, tuple[bytes, int]], *directories: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory in directories:
            archive.addfile(directory)
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Images:
    """The images of the cluster's containerd, by way of its command-line client."""

    def __init__(self, containerd_socket: Path) -> None:
        self._ctr = [str(parts.binary("ctr")), "--address", str(containerd_socket), "--namespace", "k8s.io"]

    def names(self) -> list[str]:
        listed = subprocess.run([*self._ctr, "images", "ls", "-q"], capture_output=True, text=True)
        return listed.stdout.split() if listed.returncode == 0 else []

    def ensure(self, *programs: str, directory: str = "") -> None:
        """Import the images of these programs if they are not there; ``directory`` as in `image_archive`."""
        present = set(self.names())
        for program in programs:
            name = image_name(program)
            if name not in present:
                archive = image_archive(name, parts.binary(program), directory)
                result = subprocess.run([*self._ctr, "images", "import", "-"], input=archive, capture_output=True)
                if result.returncode:
                    raise CannotRun(f"containerd did not take the image {name}: {result.stderr.decode().strip()}")


def apply(kubeconfig: Path) -> None:
    """Apply the addons' manifests. Raises CannotRun with kubectl's words."""
    text = (SOURCES / "manifests" / "addons.yaml").read_text()
    revision = hashlib.sha256(text.encode()).hexdigest()[:12]
    values = {"COREDNS_IMAGE": image_name("coredns"), "DNS_ADDRESS": DNS_ADDRESS, "REVISION": revision}
    manifests = Template(text).substitute(values)
    command = [str(parts.binary("kubectl")), "--kubeconfig", str(kubeconfig), "apply", "--server-side"]
    command += ["--force-conflicts", "--field-manager=localcluster", "-f", "-"]
    result = subprocess.run(command, input=manifests, capture_output=True, text=True)
    if result.returncode:
        raise CannotRun(f"the API server refused the addons: {result.stderr.strip()}")


def names_resolve() -> bool:
    """Ask the cluster's DNS for the API server's name, at its Service's address: proves CoreDNS and kube-proxy."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in _DNS_NAME)
    query = struct.pack("!6H", 0x4149, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(query, (DNS_ADDRESS, 53))
            return client.recv(512).endswith(socket.inet_aton(KUBERNETES_ADDRESS))
        except OSError:
            return False
