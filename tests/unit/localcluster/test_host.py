"""What the local cluster reads from its host, and what it makes of it."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from pathlib import Path

import pytest

from localcluster import addons, checks, files, layout, network, nodefiles, remains
from localcluster.console import CannotRun
from localcluster.layout import Layout
from localcluster.pki import Authority

MOUNTS = """\
21 1 254:0 / / rw - ext4 /dev/vda rw
30 21 0:30 / /c/cluster/kubelet/pods/a/volumes/token rw - tmpfs tmpfs rw
31 21 0:31 / /c/cluster/containerd/state/a\\040b/rootfs rw - overlay overlay rw
32 31 0:32 / /c/cluster/containerd/state/a\\040b/rootfs/proc rw - proc proc rw
33 21 0:33 / /c/cluster-of-somebody-else rw - tmpfs tmpfs rw
"""

RULES = """\
-P INPUT ACCEPT
-N AIFACTORY-FORWARD
-N KUBE-FIREWALL
-N KUBE-SERVICES
-A INPUT -m comment --comment "x y" -j DOCKER
-A INPUT -j KUBE-FIREWALL
-A KUBE-SERVICES -j KUBE-FIREWALL
"""


def test_mounts_under_a_directory_come_innermost_first() -> None:
    assert remains.mounts_under(Path("/c/cluster"), MOUNTS) == [
        "/c/cluster/containerd/state/a b/rootfs/proc",
        "/c/cluster/containerd/state/a b/rootfs",
        "/c/cluster/kubelet/pods/a/volumes/token",
    ]


def test_only_kubernetes_chains_are_removed_after_the_jumps_to_them() -> None:
    assert network.removals(RULES) == [
        ["-D", "INPUT", "-j", "KUBE-FIREWALL"],
        ["-F", "KUBE-FIREWALL"],
        ["-F", "KUBE-SERVICES"],
        ["-X", "KUBE-FIREWALL"],
        ["-X", "KUBE-SERVICES"],
    ]


@pytest.mark.parametrize(
    ("os_release", "message"),
    [
        ('ID=fedora\nNAME="Fedora Linux"\n', "this is fedora: use Debian or Ubuntu"),
        ("", "this is an unknown system: use Debian or Ubuntu"),
    ],
)
def test_another_distribution_is_refused(tmp_path: Path, os_release: str, message: str) -> None:
    (tmp_path / "os-release").write_text(os_release)
    with pytest.raises(CannotRun, match=message):
        checks.distribution(tmp_path / "os-release")


def test_derivatives_of_debian_are_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localcluster.checks.shutil.which", lambda name: f"/usr/bin/{name}")
    for text in ("ID=debian\n", "ID=ubuntu\nID_LIKE=debian\n", 'ID=pop\nID_LIKE="ubuntu debian"\n'):
        (tmp_path / "os-release").write_text(text)
        checks.distribution(tmp_path / "os-release")


def test_too_little_memory_is_refused_in_the_unit_people_use() -> None:
    with pytest.raises(CannotRun, match=r"3\.8 GiB of memory; .* need 6 GiB"):
        checks.memory("MemTotal:        4000000 kB\nMemFree: 1 kB\n")


def test_a_port_in_use_is_refused_by_name_of_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(checks, "LISTENERS", (("127.0.0.1", port, "kubelet"),))
        monkeypatch.setattr(checks, "PATIENCE", 0.0)
        checks.ports(alive={"kubelet"})
        with pytest.raises(
            CannotRun, match=rf"port {port} on 127.0.0.1, which kubelet needs, is in use by .*stop that"
        ):
            checks.ports(alive=set())


def test_nothing_of_the_cluster_is_reachable_from_another_machine(tmp_path: Path) -> None:
    assert {address for address, _, _ in layout.LISTENERS} == {"127.0.0.1", layout.HOST_ADDRESS}
    proxy = json.loads(nodefiles.kube_proxy(tmp_path / "kubeconfig"))
    assert proxy["nodePortAddresses"] == [f"{layout.HOST_ADDRESS}/32"]
    assert "0.0.0.0" not in nodefiles.containerd(Layout(tmp_path), "pause") + json.dumps(proxy)


def test_pods_are_told_of_no_name_server_of_the_machine() -> None:
    assert not [line for line in nodefiles.resolv_conf().splitlines() if line.startswith("nameserver")]


def test_equal_content_is_not_written_again(tmp_path: Path) -> None:
    path = files.write(tmp_path / "config", "a")
    before = path.stat()
    files.write(path, "a")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    files.write(path, "b")
    assert path.read_text() == "b"
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_image_archive_names_the_layer_it_holds(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    with tarfile.open(fileobj=io.BytesIO(addons.image_archive("localhost/x:1", program))) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        layer = archive.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
    assert manifest["RepoTags"] == ["localhost/x:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as content:
        assert content.getmember("pause").mode == 0o755
        assert content.getmember("tmp").isdir()
        assert content.getmember("tmp").mode == 0o1777, "who runs in it is not root"
    with tarfile.open(fileobj=io.BytesIO(addons.image_archive("localhost/x:1", program, "/usr/local/bin"))) as archive:
        config = json.load(archive.extractfile("config.json"))  # type: ignore[arg-type]
    assert config["config"] == {"Entrypoint": ["/usr/local/bin/pause"], "Env": ["PATH=/usr/local/bin"]}


def test_certificates_are_kept_until_something_else_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.ensure()
    first = authority.issue("server", "kube-apiserver", hosts=("localhost", "127.0.0.1"))
    text, root = first.certificate.read_text(), authority.certificate.read_text()
    authority.ensure()
    authority.issue("server", "kube-apiserver", hosts=("localhost", "127.0.0.1"))
    assert first.certificate.read_text() == text
    assert authority.certificate.read_text() == root
    authority.issue("server", "kube-apiserver", hosts=("localhost", "10.245.0.1"))
    assert first.certificate.read_text() != text
    assert first.key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("file", "weight"), [("cpu.shares", "8192"), ("cpu.weight", "800")])
def test_pods_weigh_as_much_as_several_processes_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, weight: str
) -> None:
    group, other = tmp_path / "cpu" / layout.CGROUP, tmp_path / "memory" / layout.CGROUP
    group.mkdir(parents=True)
    (group / file).write_text("1")
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(remains, "cgroup_hierarchies", lambda: [tmp_path / "cpu", tmp_path / "memory"])
    remains.make_cgroup()
    assert (group / file).read_text() == weight
    assert list(other.iterdir()) == [], "only where the kernel has such a file"
