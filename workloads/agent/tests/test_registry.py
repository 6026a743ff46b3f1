"""Artifacts in a real OCI registry (CNCF distribution), and what a registry asks for that this one does not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from harness import WORKLOADS, free_ports, wait_for
from sourcetools import Opened, read, refusal
from webserver import Certificates, Reply, WebServer

from aifactory_agent.artifacts.transfer import verify
from aifactory_contract.errors import Reason
from aifactory_contract.manifest import of_directory

USER, PASSWORD = "factory", "factory-secret"
HTPASSWD = "factory:$2b$04$l6mKoc28gOASzBOFdAhkSuxQ.XfR.PCDYcV5Ff3RPtTWBIH2Fl22q\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"


class Registry:
    """A registry, and what oras would do to put files there."""

    def __init__(self, address: str, authority: Path) -> None:
        self.address = address
        self.pool = urllib3.PoolManager(ca_certs=str(authority))
        self.login = urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}")

    def push(self, repository: str, tag: str, files: dict[str, bytes], **changes: Any) -> str:
        """Gives the digest of the manifest."""
        layers = [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.raw",
                "digest": self.blob(repository, data),
                "size": len(data),
                "annotations": {TITLE: path},
                **changes,
            }
            for path, data in files.items()
        ]
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": self.blob(repository, b"{}"), "size": 2}
        return self.manifest(repository, tag, {"config": config, "layers": layers})

    def manifest(self, repository: str, tag: str, document: dict[str, Any], media: str = MANIFEST) -> str:
        body = json.dumps({"schemaVersion": 2, "mediaType": media, **document}).encode()
        url = f"https://{self.address}/v2/{repository}/manifests/{tag}"
        answer = self.pool.request("PUT", url, body=body, headers={**self.login, "Content-Type": media})
        assert answer.status == 201, answer.data
        return str(answer.headers["Docker-Content-Digest"])

    def blob(self, repository: str, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        started = self.pool.request(
            "POST", f"https://{self.address}/v2/{repository}/blobs/uploads/", headers=self.login
        )
        place = started.headers["Location"]
        headers = {**self.login, "Content-Type": "application/octet-stream"}
        done = self.pool.request("PUT", f"{place}&digest={digest}", body=data, headers=headers)
        assert done.status == 201, done.data
        return digest


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, tls: Certificates) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    cluster = WORKLOADS.parent / "localcluster" / "cluster.py"
    built = subprocess.run([sys.executable, cluster, "bin", "registry"], stdout=subprocess.PIPE, text=True, check=True)
    (port,) = free_ports(1)
    (folder / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "tls": {"certificate": str(tls.made), "key": str(tls.key)}},
        "auth": {"htpasswd": {"realm": "factory", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
    env = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    server = subprocess.Popen([built.stdout.split()[-1], "serve", str(folder / "config.json")], env=env)
    try:

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True

        wait_for("the registry answers", listens, 20)
        yield Registry(f"127.0.0.1:{port}", tls.authority)
    finally:
        server.terminate()
        server.wait()


def login(registry: Registry) -> dict[str, str]:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return {"dockerconfigjson": json.dumps({"auths": {registry.address: {"auth": auth}}})}


def test_files_are_read_by_tag_and_by_digest(registry: Registry, opened: Opened, small_pieces: None) -> None:
    files = {"config.json": b"{}", "empty": b"", "sub/weights.bin": os.urandom(12_345)}
    digest = registry.push("team/gpt", "v1", files)
    for uri in (f"oci://{registry.address}/team/gpt:v1", f"oci://{registry.address}/team/gpt@{digest}"):
        assert read(opened(uri, **login(registry)))[1] == files
    assert read(opened(uri, username=USER, password=PASSWORD))[1] == files


def test_files_are_read_as_oras_pushes_them_and_not_its_archives(registry: Registry, opened: Opened) -> None:
    """It calls every file a tar; that one is a directory it says by an annotation."""
    tar = "application/vnd.oci.image.layer.v1.tar"
    registry.push("oras", "v1", {"weights.bin": b"x" * 100}, mediaType=tar)
    assert read(opened(f"oci://{registry.address}/oras:v1", **login(registry)))[1] == {"weights.bin": b"x" * 100}
    marks = {TITLE: "folder", "io.deis.oras.content.unpack": "true"}
    registry.push("oras", "v2", {"folder": b"x"}, mediaType=tar, annotations=marks)
    refusal(lambda: read(opened(f"oci://{registry.address}/oras:v2", **login(registry))), Reason.INVALID_ARTIFACT)


def test_a_tag_that_moves_gives_one_version_or_the_other(registry: Registry, opened: Opened) -> None:
    registry.push("moving", "latest", {"f": b"old"})
    source = opened(f"oci://{registry.address}/moving:latest", **login(registry))
    assert source.files()[0].sha256 == hashlib.sha256(b"old").hexdigest()
    registry.push("moving", "latest", {"f": b"new"})
    assert read(source)[1] == {"f": b"old"}
    assert read(opened(f"oci://{registry.address}/moving:latest", **login(registry)))[1] == {"f": b"new"}


def test_a_model_verifies(registry: Registry, opened: Opened, model: Path) -> None:
    registry.push("model", "v1", {path.name: path.read_bytes() for path in model.iterdir()})
    artifact = verify(opened(f"oci://{registry.address}/model:v1", **login(registry)), None, "huggingface")
    assert artifact.digest == of_directory(model).digest


def test_what_a_registry_refuses_is_told_with_the_way_out(registry: Registry, opened: Opened) -> None:
    registry.push("there", "v1", {"f": b"x"})
    uri = f"oci://{registry.address}/there:v1"
    refusal(lambda: read(opened(uri)), Reason.ACCESS_DENIED, uri, "kubernetes.io/dockerconfigjson")
    refusal(lambda: read(opened(uri, username=USER, password="wrong")), Reason.ACCESS_DENIED, "user and password")
    for missing in ("there:v2", "nowhere:v1", f"there@sha256:{'0' * 64}"):
        refusal(
            lambda missing=missing: read(opened(f"oci://{registry.address}/{missing}", **login(registry))),
            Reason.SOURCE_NOT_FOUND,
            missing,
            "correct the URI",
        )
    other = json.dumps({"auths": {"elsewhere.example": {"auth": "eA=="}}})
    refusal(lambda: opened(uri, dockerconfigjson=other), Reason.ACCESS_DENIED, "no login for", "elsewhere.example")
    refusal(lambda: opened(uri, dockerconfigjson="{}"), Reason.ACCESS_DENIED, "kubectl create secret docker-registry")


def test_archives_and_indexes_are_refused(registry: Registry, opened: Opened) -> None:
    def uri(tag: str) -> str:
        return f"oci://{registry.address}/odd:{tag}"

    tar = "application/vnd.oci.image.layer.v1.tar+gzip"
    digest = registry.push("odd", "tar", {"d": b"x"}, mediaType=tar)
    refusal(lambda: read(opened(uri("tar"), **login(registry))), Reason.INVALID_ARTIFACT, "archive", "oras push")
    registry.push("odd", "nameless", {"d": b"x"}, annotations={})
    refusal(lambda: read(opened(uri("nameless"), **login(registry))), Reason.INVALID_ARTIFACT, "no file name")
    registry.push("odd", "up", {"../d": b"x"})
    refusal(lambda: read(opened(uri("up"), **login(registry))), Reason.INVALID_ARTIFACT, "unsafe path")
    registry.push("odd", "twice", {"d": b"x", "e": b"y"}, annotations={TITLE: "d"})
    refusal(lambda: read(opened(uri("twice"), **login(registry))), Reason.INVALID_ARTIFACT, "two layers are called d")
    index = "application/vnd.oci.image.index.v1+json"
    entry = {"mediaType": MANIFEST, "digest": digest, "size": 1}
    registry.manifest("odd", "index", {"manifests": [entry]}, index)
    refusal(lambda: read(opened(uri("index"), **login(registry))), Reason.INVALID_ARTIFACT, "by its digest")


# --- what this registry does not do ---


class TokenRegistry:
    """A registry with one file that asks for a token of its own token server, which is good for a few requests."""

    def __init__(self, server: WebServer, data: bytes) -> None:
        self.server = server
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()
        self.realm = f"https://{server.address}/token"
        self.tokens = 0
        self.left = 0
        layer = {"mediaType": "x", "digest": f"sha256:{self.digest}", "size": len(data), "annotations": {TITLE: "f"}}
        self.manifest = json.dumps({"layers": [layer]}).encode()
        server.special = self.answer
        server.files[f"/v2/repo/blobs/sha256:{self.digest}"] = data

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Reply | None:
        if path.startswith("/token?"):
            if "authorization" not in headers:
                return Reply(401)
            self.tokens += 1
            self.left = 3
            return Reply(200, {}, json.dumps({"token": f"t{self.tokens}"}).encode())
        if headers.get("authorization") != f"Bearer t{self.tokens}" or self.left == 0:
            challenge = f'Bearer realm="{self.realm}",service="reg",scope="repository:repo:pull"'
            return Reply(401, {"WWW-Authenticate": challenge})
        self.left -= 1
        if path == "/v2/repo/manifests/v1":
            return Reply(200, {}, self.manifest)
        return None


def test_a_token_is_fetched_and_fetched_again_when_it_has_run_out(
    server: WebServer, opened: Opened, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aifactory_agent.artifacts.reading.THREADS", 1)
    registry = TokenRegistry(server, os.urandom(6_500))
    uri = f"oci://{server.address}/repo:v1"
    assert read(opened(uri, username="u", password="p"))[1] == {"f": registry.data}
    assert registry.tokens == 3
    asked = [path for _, path, _ in server.asked if path.startswith("/token?")]
    assert asked[0] == "/token?scope=repository%3Arepo%3Apull&service=reg"
    refusal(lambda: read(opened(uri)), Reason.ACCESS_DENIED, "give a secret")
    registry.realm = f"http://{server.address}/token"
    refusal(lambda: read(opened(uri, username="u", password="p")), Reason.INVALID_ARTIFACT, "not https://")


def test_a_damaged_manifest_or_file_is_found(server: WebServer, opened: Opened) -> None:
    registry = TokenRegistry(server, b"whole")
    damaged = f"oci://{server.address}/repo@sha256:{hashlib.sha256(registry.manifest).hexdigest()}"
    answer: Callable[..., Reply | None] = registry.answer
    server.special = lambda method, path, headers: (
        Reply(200, {}, registry.manifest + b" ") if "/manifests/" in path else answer(method, path, headers)
    )
    refusal(lambda: read(opened(damaged)), Reason.DIGEST_MISMATCH, "the registry gave a manifest with digest")
    server.special = answer
    server.files[f"/v2/repo/blobs/sha256:{registry.digest}"] = b"wh0le"
    uri = f"oci://{server.address}/repo:v1"
    refusal(lambda: read(opened(uri, username="u", password="p")), Reason.DIGEST_MISMATCH, "f has the SHA-256")
    for document in (
        "[]",
        "{",
        '{"layers": [7]}',
        '{"layers": [{"mediaType": "x", "digest": "sha256:1", "size": -1}]}',
    ):
        registry.manifest = document.encode()
        refusal(lambda: read(opened(uri, username="u", password="p")), Reason.INVALID_ARTIFACT, "manifest")
