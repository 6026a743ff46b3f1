"""Buckets at Google and Azure: two real servers that speak as theirs do, fake-gcs-server and Azurite."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import urllib3
from harness import WORKLOADS, free_ports, running
from samples import write_model
from sourcetools import read, refusal

from aifactory_agent.artifacts import buckets, reading
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.store import Source
from aifactory_agent.artifacts.stores import Mounts, open_source, open_store
from aifactory_agent.artifacts.transfer import verify
from aifactory_agent.cli import main
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import of_directory
from aifactory_contract.uri import ArtifactUri

ACCOUNT = "factory"
KEY = base64.b64encode(b"a key of the tests, long enough for an HMAC").decode()


@dataclass
class Bucket:
    """A bucket `models` on a real server, and the keys to it."""

    scheme: str
    keys: dict[str, str]
    secrets: Path

    def opened(self, path: str = "", **changes: str) -> Source:
        """A source below it, by a secret with these keys; empty ones are left out."""
        folder = self.secrets / "mine"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for key, value in {**self.keys, **changes}.items():
            if value:
                (folder / key).write_text(f"{value}\n")
        return open_source(ArtifactUri.parse(f"{self.scheme}://models/{path}"), Mounts(secrets=self.secrets), "mine")

    def put(self, path: str, content: bytes) -> None:
        """Of Google's two interfaces that server takes files by the one that obstore does not write with."""
        if self.scheme == "az":
            self._azure().put(path, content)
            return
        url = f"{self.keys['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/models/o?uploadType=media"
        headers = {"Content-Type": "application/octet-stream"}
        answer = urllib3.request("POST", f"{url}&name={quote(path, safe='')}", body=content, headers=headers)
        assert answer.status == 200, answer.data

    def delete(self, path: str) -> None:
        if self.scheme == "az":
            self._azure().delete(path)
            return
        url = f"{self.keys['STORAGE_EMULATOR_HOST']}/storage/v1/b/models/o/{quote(path, safe='')}"
        assert urllib3.request("DELETE", url).status in (200, 204)

    def _azure(self) -> Any:
        self.opened("x")
        uri = ArtifactUri.parse("az://models")
        return buckets.open_bucket(uri, buckets.access_to(uri, Secret("mine", self.secrets / "mine")))


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Keys of a bucket at fake-gcs-server: a service account's file as Google gives it, with a key of its own."""
    folder = tmp_path_factory.mktemp("gcs")
    cluster = WORKLOADS.parent / "localcluster/cluster.py"
    made = subprocess.run(
        [sys.executable, cluster, "bin", "fake-gcs-server"], stdout=subprocess.PIPE, text=True, check=True
    )
    (port,) = free_ports(1)
    (folder / "data/models").mkdir(parents=True)
    command = [made.stdout.split()[-1], "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-data", str(folder / "data"), "-public-host", f"127.0.0.1:{port}"]
    generate = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    pem = subprocess.run(generate, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    account = {"type": "service_account", "client_email": "me@factory", "private_key_id": "1", "private_key": pem}
    with running(command, port):
        yield {
            "GOOGLE_APPLICATION_CREDENTIALS": json.dumps(account),
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        }


def azurite(npm: str) -> Path:
    """Where it is: installed once, outside the tree, as its lock file says."""
    sources = [WORKLOADS / "agent/testing/azurite" / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    tools = Path(os.environ.get("AIFACTORY_CACHE") or Path(cache, "aifactory"), "tools")
    folder = tools / f"azurite-{digest[:16]}"
    if not folder.is_dir():
        tools.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=tools))
        for source in sources:
            shutil.copy(source, made)
        command = [npm, "ci", "--silent", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=made, check=True, stdout=subprocess.DEVNULL, timeout=900)
        with suppress(OSError):  # somebody else was quicker
            made.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Keys of a container at Azurite."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Azurite needs Node.js and npm")
    program, data = azurite(npm) / "node_modules/.bin/azurite-blob", tmp_path_factory.mktemp("azure")
    (port,) = free_ports(1)
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(data), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port, AZURITE_ACCOUNTS=f"{ACCOUNT}:{KEY}"):
        yield {
            "AZURE_STORAGE_ACCOUNT": ACCOUNT,
            "AZURE_STORAGE_KEY": KEY,
            "AZURE_STORAGE_SERVICE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        }


@pytest.fixture(params=["gs", "az"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    keys = request.getfixturevalue({"gs": "google", "az": "azure"}[request.param])
    made = Bucket(request.param, keys, tmp_path / "secrets")
    if request.param == "az":
        create_container(keys)
    return made


def create_container(keys: dict[str, str]) -> None:
    """Which obstore can not: a request signed as Azure asks for (its REST reference, "Authorize with Shared Key")."""
    endpoint = keys["AZURE_STORAGE_SERVICE_ENDPOINT"]
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = f"PUT{chr(10) * 12}{signed}/{ACCOUNT}/{ACCOUNT}/models\nrestype:container"
    mac = hmac.digest(base64.b64decode(keys["AZURE_STORAGE_KEY"]), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
    answer = urllib3.request("PUT", f"{endpoint}/models?restype=container", headers=headers)
    assert answer.status in (201, 409), answer.data


def test_files_are_read_in_ranges(bucket: Bucket, small_pieces: None) -> None:
    files = {"config.json": b"{}", "empty": b"", "sub/weights.bin": os.urandom(12_345)}
    for path, content in files.items():
        bucket.put(f"a/{path}", content)
    bucket.put("ab", b"another prefix")
    assert read(bucket.opened("a"))[1] == files


def test_two_versions_are_never_mixed(bucket: Bucket, small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object is replaced while it is read, by one of the same size."""
    monkeypatch.setattr(reading, "THREADS", 1)
    bucket.put("b/f", b"a" * 9_000)
    source = bucket.opened("b")
    (file,) = source.files()
    assert bytes(source.read(file, 0, 1000, threading.Event())) == b"a" * 1000
    bucket.put("b/f", b"b" * 9_000)
    with pytest.raises(FactoryError, match="was replaced while it was read"):
        source.read(file, 1000, 2000, threading.Event())
    assert read(bucket.opened("b"))[1] == {"f": b"b" * 9_000}


def test_a_model_verifies_and_is_fetched_by_the_command(bucket: Bucket, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for path in model.iterdir():
        bucket.put(f"gpt/{path.name}", path.read_bytes())
    digest = of_directory(model).digest
    source = bucket.opened("gpt")
    assert verify(source, digest, "huggingface").uri == f"{bucket.scheme}://models/gpt"
    (tmp_path / "claims/inputs").mkdir(parents=True)
    spec = {"uri": str(source.uri), "destination": "pvc://inputs/cache", "secret": "mine", "digest": digest}
    places = ["--claims", str(tmp_path / "claims"), "--secrets", str(bucket.secrets), "--result", str(tmp_path / "log")]
    assert main(["fetch", "--spec", json.dumps(spec), *places, "--port", "0"]) == 0
    assert (
        of_directory(tmp_path / "claims/inputs" / json.loads((tmp_path / "log").read_text())["path"]).digest == digest
    )


def test_what_is_not_there_is_told_by_name(bucket: Bucket) -> None:
    refusal(lambda: bucket.opened("nowhere").files(), Reason.SOURCE_NOT_FOUND, f"{bucket.scheme}://models/nowhere")
    bucket.put("c/f", b"x")
    source = bucket.opened("c")
    (file,) = source.files()
    bucket.delete("c/f")
    with pytest.raises(FactoryError) as caught:
        source.read(file, 0, 1, threading.Event())
    # Azurite looks at the version first.
    assert caught.value.reason is (Reason.SOURCE_NOT_FOUND if bucket.scheme == "gs" else Reason.STORE_UNAVAILABLE)


def test_nothing_is_published_there(bucket: Bucket) -> None:
    for uri in ("gs://models/x", "az://models/x"):
        refusal(lambda uri=uri: open_store(ArtifactUri.parse(uri), Mounts(), None), Reason.INVALID_ARTIFACT, "pvc://")


def test_another_key_than_the_accounts_is_refused(azure: dict[str, str], tmp_path: Path) -> None:
    bucket = Bucket("az", azure, tmp_path / "secrets")
    other = base64.b64encode(b"another key").decode()
    source = bucket.opened("x", AZURE_STORAGE_KEY=other)
    refusal(source.files, Reason.ACCESS_DENIED, "az://models/x", "check the secret's keys")


def test_a_server_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "ATTEMPTS", 1)
    gone = f"http://127.0.0.1:{free_ports(1)[0]}"
    keys = {"az": {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SERVICE_ENDPOINT": gone}}
    keys["gs"] = {"STORAGE_EMULATOR_HOST": gone}
    for scheme, values in keys.items():
        source = Bucket(scheme, values, tmp_path / "secrets").opened("x")
        refusal(source.files, Reason.STORE_UNAVAILABLE, f"{gone} does not answer as it should")


ACCOUNT_FILE = json.dumps({"type": "service_account", "client_email": "a@b", "private_key": "p"})
ELSEWHERE = "http://169.254.169.254"


@pytest.mark.parametrize(
    ("scheme", "keys", "reason", "words"),
    [
        ("gs", {"other": "x"}, Reason.ACCESS_DENIED, "needs the keys GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, Reason.ACCESS_DENIED, "--from-file=GOOGLE_APPLICATION"),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "[]"}, Reason.ACCESS_DENIED, "key file of a service account"),
        (
            "gs",
            {"GOOGLE_APPLICATION_CREDENTIALS": ACCOUNT_FILE.replace("service_account", "authorized_user")},
            Reason.ACCESS_DENIED,
            "key file of a service account",
        ),
        (
            "gs",
            {"GOOGLE_APPLICATION_CREDENTIALS": ACCOUNT_FILE[:-1] + f', "gcs_base_url": "{ELSEWHERE}"}}'},
            Reason.ACCESS_DENIED,
            "key file of a service account",
        ),
        ("gs", {"STORAGE_EMULATOR_HOST": ELSEWHERE}, Reason.INVALID_ARTIFACT, "leads to 169.254.169.254"),
        ("az", {"AZURE_STORAGE_KEY": KEY}, Reason.ACCESS_DENIED, "needs the keys AZURE_STORAGE_ACCOUNT"),
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_CLIENT_ID": "b"},
            Reason.ACCESS_DENIED,
            "AZURE_CLIENT_ID and AZURE_CLIENT_SECRET and AZURE_TENANT_ID",
        ),
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_SERVICE_ENDPOINT": "factory.example"},
            Reason.INVALID_ARTIFACT,
            "AZURE_STORAGE_SERVICE_ENDPOINT in its secret is 'factory.example'",
        ),
    ],
)
def test_a_bad_secret_is_told(tmp_path: Path, scheme: str, keys: dict[str, str], reason: Reason, words: str) -> None:
    refusal(lambda: Bucket(scheme, keys, tmp_path / "secrets").opened("x"), reason, words)


def test_a_container_without_an_account_is_told() -> None:
    uri = ArtifactUri.parse("az://models/x")
    refusal(lambda: open_source(uri, Mounts(), None), Reason.ACCESS_DENIED, "the key AZURE_STORAGE_ACCOUNT")


def test_keys_are_in_no_message_about_them(tmp_path: Path) -> None:
    secret = tmp_path / "mine"
    secret.mkdir()
    for key, value in {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY}.items():
        (secret / key).write_text(value)
    access = buckets.access_to(ArtifactUri.parse("az://models/x"), Secret("mine", secret))
    assert access.settings["account_key"] == KEY
    assert KEY not in repr(access)
