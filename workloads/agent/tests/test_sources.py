"""Sources on the web: read in ranges, gone on with after a failure, never mixed, and what a user gets wrong."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from samples import write_model
from sourcetools import Opened, read, refusal
from webserver import Certificates, Reply, WebServer, serving

from aifactory_agent.artifacts import https, reading, web
from aifactory_agent.artifacts.reading import hash_files
from aifactory_agent.artifacts.store import StoredFile
from aifactory_agent.artifacts.stores import Mounts, open_store
from aifactory_agent.artifacts.transfer import verify
from aifactory_contract.errors import Reason
from aifactory_contract.manifest import of_directory
from aifactory_contract.uri import ArtifactUri

COMMIT = "5" * 40


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in files.items()).encode()


# --- https:// ---


def test_one_file_is_read_in_ranges(server: WebServer, opened: Opened, small_pieces: None) -> None:
    content = os.urandom(12_345)
    server.files["/data/corpus 1.txt"] = content
    manifest, found = read(opened(f"https://{server.address}/data/corpus%201.txt"))
    assert found == {"corpus 1.txt": content}
    assert manifest.files[0].sha256 == hashlib.sha256(content).hexdigest()
    first, *others = server.asked
    assert "if-match" not in first[2], "it tells the version"
    assert len({headers["range"] for _, _, headers in others}) == len(others) == 13
    assert all(headers["if-match"] for _, _, headers in others)


def test_a_directory_is_what_its_list_of_sums_says(server: WebServer, opened: Opened, small_pieces: None) -> None:
    files = {"config.json": b"{}", "sub/empty": b"", "sub/weights.bin": os.urandom(4321)}
    server.files = {f"/m/{path}": data for path, data in files.items()} | {"/m/SHA256SUMS": sums(files)}
    assert read(opened(f"https://{server.address}/m/"))[1] == files
    server.files["/m/sub/weights.bin"] = os.urandom(4321)
    refusal(
        lambda: read(opened(f"https://{server.address}/m/")),
        Reason.DIGEST_MISMATCH,
        "sub/weights.bin has the SHA-256",
        "upload it again",
    )
    server.files["/m/SHA256SUMS"] = b"hello"
    refusal(lambda: read(opened(f"https://{server.address}/m/")), Reason.INVALID_ARTIFACT, "line 1", "sha256sum")
    server.files["/m/SHA256SUMS"] = b"0" * 64 + b"  ../../etc/passwd"
    refusal(lambda: read(opened(f"https://{server.address}/m/")), Reason.INVALID_ARTIFACT, "unsafe path")
    del server.files["/m/SHA256SUMS"]
    refusal(lambda: read(opened(f"https://{server.address}/m/")), Reason.SOURCE_NOT_FOUND, "write one there")


@pytest.mark.parametrize(("kept", "requests"), [(10_000, 1 + 4), (150, 1 + 4 + 2)])
def test_small_files_of_a_directory_cost_one_request_each_as_far_as_there_is_room(
    server: WebServer, opened: Opened, monkeypatch: pytest.MonkeyPatch, kept: int, requests: int
) -> None:
    monkeypatch.setattr(https, "_KEPT_BYTES", kept)
    monkeypatch.setattr(https, "_SMALL_BYTES", 100)
    monkeypatch.setattr(https, "THREADS", 1)
    files = {"a": b"a" * 80, "b": b"b" * 80, "c": b"c" * 100, "empty": b""}
    server.files = {f"/m/{path}": data for path, data in files.items()} | {"/m/SHA256SUMS": sums(files)}
    source = opened(f"https://{server.address}/m/")
    assert read(source)[1] == files
    assert len(server.asked) == requests
    again = source.read(StoredFile("a", 80, server.etag("/m/a")), 10, 20, threading.Event())
    assert (again, len(server.asked)) == (b"a" * 10, requests + 1), "what was kept was given once"


def test_a_connection_that_breaks_off_is_gone_on_with(server: WebServer, opened: Opened, small_pieces: None) -> None:
    """Each answer ends after 300 bytes: a request begins where the one before it ended, and no byte comes twice."""
    content = os.urandom(5_000)
    server.files["/f"] = content
    server.drop_after = 300
    assert read(opened(f"https://{server.address}/f"))[1] == {"f": content}
    starts = {headers["range"].partition("-")[0] for _, _, headers in server.asked}
    assert "bytes=300" in starts
    assert "bytes=4900" in starts


def test_a_server_that_is_busy_is_asked_again(server: WebServer, opened: Opened) -> None:
    server.files["/f"] = b"x" * 100
    busy = iter([503, 429, 200, 500, 200])
    server.special = lambda *_: Reply(status) if (status := next(busy, 200)) != 200 else None
    assert read(opened(f"https://{server.address}/f"))[1] == {"f": b"x" * 100}


def test_a_server_that_stays_away_is_given_up(
    server: WebServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.special = lambda *_: Reply(503)
    message = refusal(lambda: read(opened(f"https://{server.address}/f")), Reason.STORE_UNAVAILABLE, "HTTP 503")
    assert f"https://{server.address}/f" in message
    assert len(server.asked) == web.ATTEMPTS


def test_two_versions_are_never_mixed(server: WebServer, opened: Opened, small_pieces: None) -> None:
    """The file is replaced while it is read, by one of the same size."""
    server.files["/f"] = b"a" * 9_000

    def replace(_: str, path: str, headers: dict[str, str]) -> None:
        if headers.get("range", "").startswith("bytes=4000"):
            server.files["/f"] = b"b" * 9_000

    server.special = replace
    refusal(lambda: read(opened(f"https://{server.address}/f")), Reason.STORE_UNAVAILABLE, "replaced while it was read")
    server.special = lambda *_: None
    assert read(opened(f"https://{server.address}/f"))[1] == {"f": b"b" * 9_000}


def test_a_server_without_ranges_gives_small_files_only(server: WebServer, opened: Opened, small_pieces: None) -> None:
    server.ranges = False
    server.files = {"/small": b"x" * 900, "/large": b"x" * 1100}
    assert read(opened(f"https://{server.address}/small"))[1] == {"small": b"x" * 900}
    refusal(lambda: read(opened(f"https://{server.address}/large")), Reason.INVALID_ARTIFACT, "HTTP Range", "nginx")


def test_without_versions_a_large_file_needs_a_sum(server: WebServer, opened: Opened, small_pieces: None) -> None:
    server.versions = False
    server.files = {"/m/large": b"x" * 1100, "/m/SHA256SUMS": sums({"large": b"x" * 1100})}
    refusal(lambda: read(opened(f"https://{server.address}/m/large")), Reason.INVALID_ARTIFACT, "SHA256SUMS")
    assert read(opened(f"https://{server.address}/m/"))[1] == {"large": b"x" * 1100}


def test_a_missing_file_and_a_refusal_are_told_apart(server: WebServer, opened: Opened) -> None:
    refusal(lambda: read(opened(f"https://{server.address}/f")), Reason.SOURCE_NOT_FOUND, "HTTP 404")
    server.special = lambda *_: Reply(403)
    refusal(lambda: read(opened(f"https://{server.address}/f")), Reason.ACCESS_DENIED, "give a secret with token")
    refusal(lambda: read(opened(f"https://{server.address}/f", token="t")), Reason.ACCESS_DENIED, "check the secret")


def test_credentials_are_sent_to_their_host_only(
    server: WebServer, opened: Opened, tls: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(WebServer({"/elsewhere": b"abc"}), tls) as other:
        server.special = lambda *_: Reply(302, {"Location": f"https://{other.address}/elsewhere"})
        assert read(opened(f"https://{server.address}/f", token="secret"))[1] == {"f": b"abc"}
        assert all(headers["authorization"] == "Bearer secret" for _, _, headers in server.asked)
        assert other.asked
        assert all("authorization" not in headers for _, _, headers in other.asked)


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/f", "file:///etc/passwd", "ftp://127.0.0.1/f"])
def test_redirects_to_other_schemes_are_not_followed(server: WebServer, opened: Opened, target: str) -> None:
    server.special = lambda *_: Reply(302, {"Location": target})
    scheme = target.partition(":")[0]
    refusal(
        lambda: read(opened(f"https://{server.address}/f")), Reason.INVALID_ARTIFACT, f"from https:// to {scheme}://"
    )


def test_a_circle_of_redirects_ends(server: WebServer, opened: Opened) -> None:
    server.special = lambda *_: Reply(302, {"Location": "/f"})
    refusal(lambda: read(opened(f"https://{server.address}/f")), Reason.INVALID_ARTIFACT, "redirects")


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("127.0.0.1", True),
        ("169.254.169.254", True),
        ("::1", True),
        ("::ffff:169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("0.0.0.0", True),
        ("10.0.0.7", False),
        ("192.168.1.1", False),
        ("93.184.216.34", False),
        ("fd12::1", False),
    ],
)
@pytest.mark.without_loopback
def test_addresses_that_no_artifact_comes_from(address: str, forbidden: bool) -> None:
    assert web.is_forbidden(address) is forbidden


@pytest.mark.without_loopback
def test_a_name_that_leads_to_this_pod_is_not_asked(tls: Certificates, opened: Opened) -> None:
    """The address is looked at when the connection stands, and before a byte is sent."""
    with serving(WebServer({"/f": b"x"}), tls) as running:
        port = running.address.partition(":")[2]
        for host in ("localhost", "127.0.0.1"):
            refusal(
                lambda host=host: read(opened(f"https://{host}:{port}/f")),
                Reason.INVALID_ARTIFACT,
                "an address of this machine or of its cloud",
            )
        refusal(lambda: read(opened("hf://org/repo", HF_ENDPOINT=f"http://127.0.0.1:{port}")), Reason.INVALID_ARTIFACT)
        refusal(lambda: read(opened(f"oci://localhost:{port}/repo:v1")), Reason.INVALID_ARTIFACT, "this machine")
        assert not running.asked
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://169.254.169.254"}
    refusal(lambda: opened("s3://models/x", **keys), Reason.INVALID_ARTIFACT, "leads to 169.254.169.254")


def test_nothing_is_published_to_what_is_only_read() -> None:
    for uri in ("hf://org/repo", "https://host.example/x/", "oci://registry.example/gpt:v1"):
        refusal(lambda uri=uri: open_store(ArtifactUri.parse(uri), Mounts(), None), Reason.INVALID_ARTIFACT, "pvc://")


def test_never_more_than_the_window_is_held(server: WebServer, opened: Opened, small_pieces: None) -> None:
    """Who uses the bytes is slow; of 50 pieces only those that fit into the window are asked for meanwhile."""
    server.files["/f"] = bytes(50_000)
    source, most = opened(f"https://{server.address}/f"), 0
    lock, used, given = threading.Lock(), 0, 0
    original = source.read

    def counted(*arguments: Any) -> Any:
        nonlocal given, most
        data = original(*arguments)
        with lock:
            given += len(data)
            most = max(most, given - used)
        return data

    source.read = counted  # type: ignore[method-assign]

    def slowly(file: StoredFile, size: int) -> None:
        nonlocal used
        threading.Event().wait(0.002)
        with lock:
            used = size

    hash_files(source, source.files(), threading.Event(), told=slowly)
    assert given == 50_000
    assert 1000 < most <= reading.WINDOW + 1000


# --- hf:// ---


class Hub:
    """A hub with one repository, as huggingface.co answers (its API's pages, and huggingface_hub's own tests)."""

    def __init__(self, server: WebServer, files: dict[str, bytes], large: int = 1000) -> None:
        self.server = server
        self.files = files
        self.large = large
        self.token = ""
        self.error: Reply | None = None
        self.cdn: WebServer | None = None
        server.special = self.answer

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Reply | None:
        if path.startswith("/cdn/"):
            return None
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return self.error or Reply(401, {"X-Error-Code": "RepoNotFound"})
        if path == "/api/models/org/repo/revision/main":
            return Reply(200, {}, json.dumps({"sha": COMMIT}).encode())
        if path.startswith(f"/api/models/org/repo/tree/{COMMIT}"):
            return self.page(path)
        if path.startswith("/api/models/org/repo/revision/"):
            return Reply(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if path.startswith("/api/"):
            return Reply(401, {"X-Error-Code": "RepoNotFound"})
        name = path.removeprefix(f"/org/repo/resolve/{COMMIT}/")
        if name not in self.files:
            return Reply(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": f"{name} does not exist"})
        target = self.cdn or self.server
        if len(self.files[name]) < self.large and target is self.server:
            self.server.files[path] = self.files[name]
            return None
        target.files[f"/cdn/{name}"] = self.files[name]
        return Reply(302, {"Location": f"https://{target.address}/cdn/{name}?signature=1"})

    def page(self, path: str) -> Reply:
        """Two entries, and where the next ones are."""
        folder, _, query = path.removeprefix(f"/api/models/org/repo/tree/{COMMIT}").partition("?")
        entries = [entry for entry in self.tree() if f"/{entry['path']}".startswith(f"{folder}/")]
        if folder and not entries:
            return Reply(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": f"{folder[1:]} does not exist"})
        start = int(query.partition("cursor=")[2] or 0)
        headers = {}
        if len(entries) > start + 2:
            url = f"https://{self.server.address}{path.partition('?')[0]}?recursive=true&cursor={start + 2}"
            headers = {"Link": f'<{url}>; rel="next"'}
        return Reply(200, headers, json.dumps(entries[start : start + 2]).encode())

    def tree(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"type": "directory", "path": "sub", "oid": "0" * 40, "size": 0}]
        for path, data in self.files.items():
            entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if len(data) >= self.large:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            found.append(entry)
        return found


@pytest.fixture
def hub(server: WebServer, small_pieces: None) -> Hub:
    return Hub(server, {"config.json": b'{"a": 1}', ".gitattributes": b"*", "sub/model.safetensors": os.urandom(5000)})


def test_a_repository_is_read_by_its_commit(hub: Hub, opened: Opened) -> None:
    source = opened("hf://org/repo@main", HF_ENDPOINT=f"https://{hub.server.address}")
    found = read(source)[1]
    assert found == {path: data for path, data in hub.files.items() if not path.startswith(".")}
    resolved = [path for _, path, _ in hub.server.asked if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)
    assert sum("model.safetensors" in path for path in resolved) < 12, "the signed URL is asked for once or so"
    assert read(opened("hf://org/repo/sub", HF_ENDPOINT=f"https://{hub.server.address}"))[1] == {
        "model.safetensors": hub.files["sub/model.safetensors"]
    }


def test_a_signed_url_that_has_run_out_is_asked_for_again(
    hub: Hub, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "THREADS", 1)
    answer, seen = hub.answer, []

    def expiring(method: str, path: str, headers: dict[str, str]) -> Reply | None:
        if path.startswith("/cdn/"):
            seen.append(path)
            if len(seen) == 3:
                return Reply(403)
        return answer(method, path, headers)

    hub.server.special = expiring
    found = read(opened("hf://org/repo", HF_ENDPOINT=f"https://{hub.server.address}"))[1]
    assert found["sub/model.safetensors"] == hub.files["sub/model.safetensors"]


def test_the_token_goes_to_the_hub_and_not_to_where_it_keeps_large_files(
    hub: Hub, opened: Opened, tls: Certificates
) -> None:
    hub.token = "hf_secret"
    with serving(WebServer(), tls) as cdn:
        hub.cdn = cdn
        endpoint = f"https://{hub.server.address}"
        assert (
            read(opened("hf://org/repo", HF_ENDPOINT=endpoint, HF_TOKEN="hf_secret"))[1]["config.json"] == b'{"a": 1}'
        )
        assert cdn.asked
        assert all("authorization" not in headers for _, _, headers in cdn.asked)


def test_what_a_hub_refuses_is_told_with_the_way_out(hub: Hub, opened: Opened) -> None:
    endpoint = f"https://{hub.server.address}"
    refusal(
        lambda: read(opened("hf://org/other", HF_ENDPOINT=endpoint)),
        Reason.SOURCE_NOT_FOUND,
        "hf://org/other",
        "check the name, or, if it is private, give HF_TOKEN in secret mine",
    )
    refusal(
        lambda: read(opened("hf://org/repo@v9", HF_ENDPOINT=endpoint)),
        Reason.SOURCE_NOT_FOUND,
        "no revision v9",
        "a branch, a tag or a commit",
    )
    refusal(
        lambda: read(opened("hf://org/repo/none", HF_ENDPOINT=endpoint)), Reason.SOURCE_NOT_FOUND, "none does not exist"
    )
    hub.token = "right"
    hub.error = Reply(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/repo is restricted"})
    refusal(
        lambda: read(opened("hf://org/repo", HF_ENDPOINT=endpoint)),
        Reason.ACCESS_DENIED,
        "gated",
        f"accept its terms at {endpoint}/org/repo and give HF_TOKEN in secret mine",
    )
    refusal(
        lambda: read(opened("hf://org/repo", HF_ENDPOINT=endpoint, HF_TOKEN="other")),
        Reason.ACCESS_DENIED,
        "an account that was let in",
    )
    hub.error = Reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    message = refusal(
        lambda: read(opened("hf://org/repo", HF_ENDPOINT=endpoint, HF_TOKEN="wrong-token")),
        Reason.ACCESS_DENIED,
        "Invalid credentials",
        "check HF_TOKEN in secret mine",
    )
    assert "wrong-token" not in message


def test_a_truncated_shard_is_found(hub: Hub, opened: Opened) -> None:
    """The hub lists it whole, its mirror has a part of it, or other bytes."""
    endpoint, shard = f"https://{hub.server.address}", "sub/model.safetensors"
    listed = hub.tree()
    whole = hub.files[shard]
    hub.tree = lambda: listed  # type: ignore[method-assign]
    hub.files[shard] = whole[:3500]
    refusal(
        lambda: read(opened("hf://org/repo", HF_ENDPOINT=endpoint)),
        Reason.DIGEST_MISMATCH,
        f"{shard} has 3500 bytes there, but the source lists it with 5000",
    )
    hub.files[shard] = whole[:-1] + bytes([whole[-1] ^ 1])
    refusal(
        lambda: read(opened("hf://org/repo", HF_ENDPOINT=endpoint)), Reason.DIGEST_MISMATCH, f"{shard} has the SHA-256"
    )


def test_what_is_no_hub_is_told(server: WebServer, opened: Opened) -> None:
    for tree in (
        b"<html>",
        b"{}",
        b"[7]",
        b'[{"type": "file", "path": "f"}]',
        b'[{"path": "f", "size": -1, "oid": ""}]',
    ):
        replies = iter([Reply(200, {}, b'{"sha": "1"}'), Reply(200, {}, tree)])
        server.special = lambda *_, replies=replies: next(replies)
        refusal(
            lambda: read(opened("hf://org/repo", HF_ENDPOINT=f"https://{server.address}")),
            Reason.STORE_UNAVAILABLE,
            "does not answer as a hub does",
            "correct HF_ENDPOINT",
        )
    for endpoint in ("ftp://host.example", "host.example", "https://user:pw@host.example"):
        refusal(lambda endpoint=endpoint: opened("hf://org/repo", HF_ENDPOINT=endpoint), Reason.INVALID_ARTIFACT)


def test_the_installation_names_the_hub_and_a_secret_goes_before_it(
    hub: Hub, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"https://{hub.server.address}/")
    assert read(opened("hf://org/repo"))[1]["config.json"] == b'{"a": 1}'
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    refusal(lambda: opened("hf://org/repo"), Reason.INVALID_ARTIFACT, "HF_ENDPOINT of the pod", "write https://<host>")
    assert read(opened("hf://org/repo", HF_ENDPOINT=f"https://{hub.server.address}"))[1]["config.json"] == b'{"a": 1}'


def test_a_model_of_a_hub_verifies_without_what_lies_beside_it(hub: Hub, opened: Opened, tmp_path: Path) -> None:
    """Somebody else's repository can not be tidied up: what is no part of the format is not taken."""
    model = write_model(tmp_path / "model")
    hub.files = {path.name: path.read_bytes() for path in model.iterdir()}
    expected = of_directory(model)
    hub.files |= {"pytorch_model.bin": b"\x80\x05pickle", "onnx/model.onnx": b"x", "train.py": b"x", "README.md": b"x"}
    artifact = verify(opened("hf://org/repo", HF_ENDPOINT=f"https://{hub.server.address}"), None, "huggingface")
    assert artifact.digest == expected.digest
    assert artifact.uri == "hf://org/repo"
    answer = artifact.as_result()
    assert answer["leftOut"] == ["README.md", "onnx/model.onnx", "pytorch_model.bin", "train.py"]
    assert answer["leftOutFiles"] == 4
