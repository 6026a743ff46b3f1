"""Publish, verify and fetch, over a volume and over a real S3 server."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from harness import WORKLOADS, free_ports, wait_for
from samples import write_model
from webserver import Reply, WebServer, certificates, serving

from aifactory_agent.artifacts import buckets, objects, reading, transfer, volume
from aifactory_agent.artifacts.secret import Secret
from aifactory_agent.artifacts.stores import Mounts, open_store
from aifactory_agent.cli import main
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.uri import ArtifactUri

ACCESS, SECRET = "factory", "factory-secret"


@dataclass
class Place:
    """A store to publish to, and a way to spoil what is in it."""

    base: str
    mounts: Mounts
    secret: str | None
    folder: Path
    """Where the files really are: both stores keep them in a directory."""

    def file(self, uri: str, name: str) -> Path:
        return self.folder / uri.partition("://")[2].partition("/")[2] / name


@contextmanager
def s3_process(data: Path, *tls: str) -> Iterator[str]:
    """Address of an S3 server with a bucket `models`, which it keeps in a directory."""
    cluster = WORKLOADS.parent / "localcluster" / "cluster.py"
    built = subprocess.run([sys.executable, cluster, "bin", "versitygw"], stdout=subprocess.PIPE, text=True, check=True)
    (data / "models").mkdir(parents=True)
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    credentials = ["--access", ACCESS, "--secret", SECRET]
    arguments = [built.stdout.split()[-1], "--port", address, "--quiet", *tls, *credentials, "posix", str(data)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True

        wait_for("the S3 server answers", listens, 20)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Endpoint and data directory of an S3 server with a bucket `models`."""
    data = tmp_path_factory.mktemp("s3")
    with s3_process(data) as address:
        yield f"http://{address}", data


@pytest.fixture(params=["pvc", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, claims: Path) -> Place:
    if request.param == "pvc":
        return Place("pvc://models/made", Mounts(claims), None, claims / "models")
    endpoint, data = request.getfixturevalue("s3_server")
    secrets = write_secret(tmp_path / "secrets", endpoint)
    return Place(f"s3://models/{tmp_path.name}", Mounts(claims, secrets), "s3", data / "models")


def write_secret(secrets: Path, endpoint: str, secret_key: str = SECRET) -> Path:
    values = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_ENDPOINT_URL": endpoint}
    (secrets / "s3").mkdir(parents=True, exist_ok=True)
    for key, value in {**values, "AWS_REGION": "us-east-1"}.items():
        (secrets / "s3" / key).write_text(value + "\n")
    return secrets


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source", metrics={"heldOutBitsPerByte": 2.5, "note": "text"})


def publish(source: Path, place: Place) -> transfer.Artifact:
    return transfer.publish(source, ArtifactUri.parse(place.base), "gpt", place.mounts, place.secret)


def verify(uri: str, place: Place, digest: str | None = None) -> transfer.Artifact:
    return transfer.verify(open_store(ArtifactUri.parse(uri), place.mounts, place.secret), digest, "huggingface")


def test_what_was_published_verifies(source: Path, place: Place) -> None:
    artifact = publish(source, place)
    assert artifact.uri == f"{place.base}/gpt/{artifact.digest.removeprefix('sha256:')[:16]}"
    assert artifact.as_result()["metrics"] == {"heldOutBitsPerByte": 2.5}
    assert verify(artifact.uri, place, artifact.digest) == artifact
    assert verify(artifact.uri, place).digest == artifact.digest


def test_publishing_again_changes_nothing(source: Path, place: Place) -> None:
    first = publish(source, place)
    written = place.file(first.uri, "model.safetensors").stat()
    assert publish(source, place) == first
    assert place.file(first.uri, "model.safetensors").stat().st_mtime_ns == written.st_mtime_ns


def test_a_published_artifact_is_never_overwritten(source: Path, place: Place) -> None:
    artifact = publish(source, place)
    victim = place.file(artifact.uri, "model.safetensors")
    content = victim.read_bytes()
    spoil(victim, content[:-1] + b"!")
    with pytest.raises(FactoryError, match=r"model\.safetensors") as caught:
        publish(source, place)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert victim.read_bytes() == content[:-1] + b"!"


def test_a_changed_byte_is_found(source: Path, place: Place) -> None:
    artifact = publish(source, place)
    victim = place.file(artifact.uri, "model.safetensors")
    spoil(victim, victim.read_bytes()[:-1] + b"!")
    with pytest.raises(FactoryError, match="changed after they were published") as caught:
        verify(artifact.uri, place, artifact.digest)
    assert caught.value.reason is Reason.DIGEST_MISMATCH


def test_nothing_there_is_said_so(place: Place) -> None:
    with pytest.raises(FactoryError) as caught:
        verify(f"{place.base}/missing", place)
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND
    assert f"{place.base}/missing" in caught.value.message


def test_a_fetch_that_nobody_wants_any_more_stops(source: Path, place: Place, tmp_path: Path) -> None:
    artifact = publish(source, place)
    cancel = threading.Event()
    cancel.set()
    (tmp_path / "target").mkdir()
    store = open_store(ArtifactUri.parse(artifact.uri), place.mounts, place.secret)
    with pytest.raises(transfer.Cancelled):
        transfer.fetch(store, tmp_path / "target", artifact.digest, "huggingface", cancel)


def test_an_interrupted_upload_is_completed(source: Path, s3_server: tuple[str, Path], tmp_path: Path) -> None:
    endpoint, data = s3_server
    place = Place("s3://models/broken", Mounts(secrets=write_secret(tmp_path / "k", endpoint)), "s3", data / "models")
    artifact = publish(source, place)
    place.file(artifact.uri, "model.safetensors").unlink()
    assert publish(source, place) == artifact
    assert verify(artifact.uri, place, artifact.digest) == artifact


def test_a_crash_while_publishing_leaves_no_half_artifact(
    source: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    expected = publish(source, place).uri
    shutil.rmtree(claims / "models/gpt")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(FactoryError, match="enlarge the claim") as caught:
            publish(source, place)
    assert caught.value.reason is Reason.STORE_FULL
    assert list((claims / "models/gpt").iterdir()) == []
    assert publish(source, place).uri == expected


def test_an_output_of_another_user_is_denied_and_never_published_in_part(source: Path, claims: Path) -> None:
    """The way out is in the message: training is done, and a person can mend the rights (case: kserve#1607)."""
    (source / "docs").mkdir()
    (source / "docs/page.md").write_text("x")
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    opened = os.open
    listed = os.scandir

    def refuse_file(path: str, *arguments: int, **options: object) -> int:
        if str(path).endswith("model.safetensors"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)  # type: ignore[arg-type]

    def refuse_folder(path: object) -> object:
        if str(path).endswith("docs"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)  # type: ignore[type-var]

    for name, refuse, victim in (("os.open", refuse_file, "model.safetensors"), ("os.scandir", refuse_folder, "docs")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(FactoryError, match="umask 022") as caught:
                publish(source, place)
        assert caught.value.reason is Reason.ACCESS_DENIED
        assert f"{source}/{victim}" in caught.value.message
    assert not (claims / "models/gpt").exists()


def test_an_unreadable_folder_in_a_volume_is_denied(
    source: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "docs").mkdir()
    (source / "docs/page.md").write_text("x")
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    artifact = publish(source, place)
    listed = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("docs"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)  # type: ignore[type-var]

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(FactoryError, match=r"docs may not be read") as caught:
        verify(artifact.uri, place)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert artifact.uri in caught.value.message


def test_folder_markers_in_a_bucket_are_no_files(source: Path, s3_server: tuple[str, Path], tmp_path: Path) -> None:
    secrets = write_secret(tmp_path / "k", s3_server[0])
    place = Place(f"s3://models/{tmp_path.name}", Mounts(secrets=secrets), "s3", s3_server[1] / "models")
    (source / "docs").mkdir()
    (source / "docs/page.md").write_text("x")
    artifact = publish(source, place)
    keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = get_session().create_client("s3", endpoint_url=s3_server[0], **keys)
    for marker in ("docs/", "", "empty/"):
        key = f"{artifact.uri.removeprefix('s3://')}/{marker}".rstrip("/") + "/"
        bucket, _, name = key.partition("/")
        client.put_object(Bucket=bucket, Key=name, Body=b"")
    assert verify(artifact.uri, place, artifact.digest) == artifact


def left_behind(folder: Path, name: str, hours: float) -> Path:
    """What a publisher that was killed so long ago has left."""
    left = folder / f".incoming-{name}"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    then = time.time() - hours * 3600
    for path in (left / "model.safetensors", left):
        os.utime(path, (then, then))
    return left


def test_what_a_killed_publisher_left_is_removed_by_the_next_one(source: Path, claims: Path) -> None:
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    old, young = (left_behind(claims / "models/gpt", name, hours) for name, hours in (("old", 2), ("young", 0.5)))
    at_work = left_behind(claims / "models/gpt", "work", 2)
    (at_work / "shard").write_bytes(b"x")
    os.utime(at_work, (1, 1))
    locked = left_behind(claims / "models/gpt", "locked", 2)
    with locked.with_name(f"{locked.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        artifact = publish(source, place)
        assert not old.exists()
        assert young.exists()
        assert at_work.exists(), "something was written there a moment ago"
        assert locked.exists(), "its publisher lives"
    publish(source, place)
    assert not locked.exists()
    assert verify(artifact.uri, place, artifact.digest) == artifact
    left = {path.name for path in (claims / "models/gpt").iterdir()}
    assert left == {artifact.uri.rpartition("/")[2], young.name, at_work.name}


def test_a_publisher_that_is_taken_for_dead_fails_and_publishes_nothing(
    source: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept for hours on a file system without locks, and another one has cleared its directory away."""
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    other = write_model(source.with_name("other"), note="of another digest")
    copy, slept = volume._copy, []

    def sleep_once(source_folder: Path, target: Path, path: str) -> None:
        copy(source_folder, target, path)
        if not slept:
            slept.append(target)
            for old in (target / path, target):
                os.utime(old, (1, 1))
            publish(other, place)

    monkeypatch.setattr(volume, "_copy", sleep_once)
    monkeypatch.setattr(volume, "_is_locked", lambda _: False)
    with pytest.raises(FactoryError) as caught:
        publish(source, place)
    assert caught.value.transient
    monkeypatch.undo()
    assert verify(publish(source, place).uri, place)


def test_wrong_keys_are_access_denied(source: Path, s3_server: tuple[str, Path], tmp_path: Path) -> None:
    secrets = write_secret(tmp_path / "secrets", s3_server[0], secret_key="wrong")
    place = Place("s3://models", Mounts(secrets=secrets), "s3", tmp_path)
    with pytest.raises(FactoryError, match="secret") as caught:
        publish(source, place)
    assert caught.value.reason is Reason.ACCESS_DENIED
    with pytest.raises(FactoryError, match="AWS_ACCESS_KEY_ID") as caught:
        open_store(ArtifactUri.parse("s3://models/x"), Mounts(secrets=secrets), "other")
    assert caught.value.reason is Reason.ACCESS_DENIED


@contextmanager
def refusing_store(code: str, status: int) -> Iterator[str]:
    """Address of a store that answers whatever it is asked with one error."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("code", "status", "hint"),
    [
        ("InvalidToken", 400, "secret's keys"),
        ("ExpiredToken", 400, "secret's keys"),
        ("TokenRefreshRequired", 400, "secret's keys"),
        ("AuthorizationHeaderMalformed", 400, "secret's keys"),
        ("CredentialsNotSupported", 400, "secret's keys"),
        ("InvalidClientTokenId", 403, "secret's keys"),
        ("InvalidAccessKeyId", 403, "secret's keys"),
        ("SignatureDoesNotMatch", 403, "secret's keys"),
        ("InvalidSecurity", 403, "secret's keys"),
        ("RequestTimeTooSkewed", 403, "clocks"),
    ],
)
def test_whatever_a_store_says_of_credentials_is_access_denied(
    tmp_path: Path, code: str, status: int, hint: str
) -> None:
    with refusing_store(code, status) as endpoint:
        secrets = write_secret(tmp_path / "secrets", endpoint)
        with pytest.raises(FactoryError, match=hint) as caught:
            open_store(ArtifactUri.parse("s3://models/x"), Mounts(secrets=secrets), "s3").files()
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert not caught.value.transient


def test_what_a_store_says_of_anything_else_is_no_matter_of_credentials(tmp_path: Path) -> None:
    with refusing_store("BadDigest", 400) as endpoint:
        secrets = write_secret(tmp_path / "secrets", endpoint)
        with pytest.raises(FactoryError) as caught:
            open_store(ArtifactUri.parse("s3://models/x"), Mounts(secrets=secrets), "s3").files()
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def test_a_missing_bucket_is_named(source: Path, s3_server: tuple[str, Path], tmp_path: Path) -> None:
    secrets = write_secret(tmp_path / "secrets", s3_server[0])
    place = Place("s3://nobucket", Mounts(secrets=secrets), "s3", tmp_path)
    with pytest.raises(FactoryError, match="nobucket"):
        publish(source, place)


def test_a_store_that_is_away_is_told_from_one_that_refuses(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    monkeypatch.setattr(buckets, "ATTEMPTS", 1)
    secrets = write_secret(tmp_path / "secrets", f"http://127.0.0.1:{free_ports(1)[0]}")
    place = Place("s3://models", Mounts(secrets=secrets), "s3", tmp_path)
    started = time.monotonic()
    with pytest.raises(FactoryError) as caught:
        publish(source, place)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.transient
    assert time.monotonic() - started < 20


def test_a_claim_that_is_not_mounted_is_named(claims: Path) -> None:
    place = Place("pvc://other", Mounts(claims), None, claims)
    with pytest.raises(FactoryError, match=r"claim other .* not mounted"):
        verify("pvc://other/gpt/1", place)


def test_a_link_out_of_the_claim_is_not_followed(claims: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "outside")
    (claims / "models/gpt").symlink_to(tmp_path / "outside")
    with pytest.raises(FactoryError) as caught:
        verify("pvc://models/gpt", Place("pvc://models", Mounts(claims), None, claims))
    assert caught.value.reason is Reason.SOURCE_NOT_FOUND


def test_too_little_room_is_said_before_the_copy(
    source: Path, claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("pvc://models", Mounts(claims), None, claims)
    artifact = publish(source, place)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    store = open_store(ArtifactUri.parse(artifact.uri), place.mounts, None)
    with pytest.raises(FactoryError, match="10 are free") as caught:
        transfer.fetch(store, tmp_path, artifact.digest, "huggingface", threading.Event())
    assert caught.value.reason is Reason.DISK_FULL


def test_fetches_at_the_same_time_share_the_room(
    source: Path, claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone would fit; both together would fill the volume under the models that run."""
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    artifact = publish(source, place)
    usage = shutil.disk_usage(tmp_path)._replace(free=artifact.size + artifact.size // 2)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    store = open_store(ArtifactUri.parse(artifact.uri), place.mounts, None)

    def fetch(name: str) -> transfer.Artifact:
        (tmp_path / name).mkdir()
        return transfer.fetch(store, tmp_path / name, artifact.digest, "huggingface", threading.Event())

    original = transfer.write_piece
    refused: list[FactoryError] = []

    def meanwhile(*arguments: Any) -> Any:
        if not refused:
            with pytest.raises(FactoryError) as caught:
                fetch("second")
            refused.append(caught.value)
        return original(*arguments)

    monkeypatch.setattr(reading, "THREADS", 1)
    monkeypatch.setattr(transfer, "write_piece", meanwhile)
    fetch("first")
    assert refused[0].reason is Reason.DISK_FULL
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    fetch("third")


def run_main(place: Place, tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = tmp_path / "termination-log"
    common = ["--claims", str(place.mounts.claims), "--secrets", str(place.mounts.secrets), "--result", str(result)]
    common += ["--secret", place.secret] if place.secret else []
    code = main([*arguments, *common])
    assert len(result.read_bytes()) <= 4096
    return code, json.loads(result.read_text())


def contents(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_store_is_tried_before_anybody_trains_for_it(place: Place, tmp_path: Path) -> None:
    before = contents(place.folder)
    assert run_main(place, tmp_path, "probe", "--store", place.base) == (0, {"uri": place.base})
    assert contents(place.folder) == before, "the probe has left something"


def test_a_store_that_is_no_good_is_told_by_the_probe(s3_server: tuple[str, Path], tmp_path: Path) -> None:
    secrets = write_secret(tmp_path / "secrets", s3_server[0])
    good = Place("s3://models", Mounts(tmp_path, secrets), "s3", tmp_path)
    code, answer = run_main(good, tmp_path, "probe", "--store", "s3://no-such-bucket")
    assert (code, answer["reason"]) == (1, "StoreUnavailable")
    assert "no-such-bucket" in answer["message"]
    wrong = write_secret(tmp_path / "wrong", s3_server[0], secret_key="wrong")
    bad = Place("s3://models", Mounts(tmp_path, wrong), "s3", tmp_path)
    assert run_main(bad, tmp_path, "probe", "--store", "s3://models")[1]["reason"] == "AccessDenied"
    other = Place("s3://models", Mounts(tmp_path, secrets), "no-such-secret", tmp_path)
    code, answer = run_main(other, tmp_path, "probe", "--store", "s3://models")
    assert (code, answer["reason"]) == (1, "AccessDenied")
    assert "no-such-secret" in answer["message"]
    assert run_main(good, tmp_path, "probe", "--store", "pvc://none")[1]["reason"] == "SourceNotFound"


def test_a_full_or_read_only_volume_is_told_by_the_probe(
    claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    for number, reason in ((errno.ENOSPC, "StoreFull"), (errno.EROFS, "AccessDenied")):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", refuse)
            assert run_main(place, tmp_path, "probe", "--store", "pvc://models/a/b")[1]["reason"] == reason
    assert contents(claims) == set()


def test_what_can_not_be_published_is_told_before_the_training(place: Place, tmp_path: Path) -> None:
    check = ["publish", "--check-only", "--store", place.base]
    before = contents(place.folder)
    assert run_main(place, tmp_path, *check, "--model", "gpt", "--format", "huggingface") == (
        0,
        {"uri": f"{place.base}/gpt"},
    )
    assert run_main(place, tmp_path, *check, "--model", "GPT 4")[1]["reason"] == "InvalidArtifact"
    assert "write one of" in run_main(place, tmp_path, *check, "--model", "gpt", "--format", "gguf")[1]["message"]
    if place.secret:
        other = Place(place.base, place.mounts, "no-such-secret", place.folder)
        assert run_main(other, tmp_path, *check, "--model", "gpt")[1]["reason"] == "AccessDenied"
    assert contents(place.folder) == before


def test_an_answer_fits_a_termination_message_whatever_config_json_holds(claims: Path, tmp_path: Path) -> None:
    metrics = {f"metric-{number}-" + "é" * 60: number / 7 for number in range(5000)}
    source = write_model(tmp_path / "wide", metrics=metrics)
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    code, answer = run_main(place, tmp_path, "publish", "--from", str(source), "--store", place.base, "--model", "m")
    assert code == 0
    assert 0 < len(answer["metrics"]) <= 64
    odd = write_model(tmp_path / "odd", format="\u4e00" * 3000)
    code, answer = run_main(place, tmp_path, "publish", "--from", str(odd), "--store", place.base, "--model", "m")
    assert (code, answer["reason"]) == (1, "InvalidArtifact")


def test_a_store_with_a_ca_of_its_own_is_used_with_that_and_not_without(tmp_path: Path, source: Path) -> None:
    tls = certificates(tmp_path / "tls")
    secrets = tmp_path / "secrets"
    with s3_process(tmp_path / "data", "--cert", str(tls.made), "--key", str(tls.key)) as address:
        write_secret(secrets, f"https://{address}")
        place = Place("s3://models", Mounts(secrets=secrets), "s3", tmp_path)
        with pytest.raises(FactoryError, match=r"TLS: .*into the secret under the key ca\.crt") as caught:
            publish(source, place)
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        for name in ("ca.crt", "AWS_CA_BUNDLE"):
            (secrets / "s3" / name).write_text(tls.authority.read_text())
            artifact = publish(source, place)
            assert verify(artifact.uri, place, artifact.digest) == artifact
            (secrets / "s3" / name).unlink()
        (secrets / "s3/ca.crt").write_text("put cert.pem here")
        with pytest.raises(FactoryError, match=r"ca\.crt is no certificate in PEM form"):
            publish(source, place)


def test_temporary_keys_are_used_with_their_token_and_not_without(tmp_path: Path) -> None:
    secrets = write_secret(tmp_path, "http://127.0.0.1:9")
    uri = ArtifactUri.parse("s3://models/x")
    (secrets / "s3/AWS_ACCESS_KEY_ID").write_text("ASIAEXAMPLE")
    with pytest.raises(FactoryError, match="AWS_SESSION_TOKEN") as caught:
        buckets.access_to(uri, Secret("s3", secrets / "s3"))
    assert caught.value.reason is Reason.ACCESS_DENIED
    (secrets / "s3/AWS_SESSION_TOKEN").write_text("token-of-today\n")
    access = buckets.access_to(uri, Secret("s3", secrets / "s3"))
    assert access.settings["token"] == "token-of-today"
    assert "token-of-today" not in repr(access)
    with serving(WebServer(special=lambda *_: Reply(403))) as store:
        (tmp_path / "s3/AWS_ENDPOINT_URL").write_text(f"http://{store.address}")
        access = buckets.access_to(uri, Secret("s3", tmp_path / "s3"))
        with pytest.raises(FactoryError):
            objects.ObjectStore(uri, access).files()
        assert {headers["x-amz-security-token"] for _, _, headers in store.asked} == {"token-of-today"}


def test_what_a_trainer_left_beside_the_model_is_not_published_and_told(
    source: Path, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = publish(source, place)
    assert "leftOut" not in whole.as_result()
    beside = [
        "training_args.bin",
        "checkpoint-7/optimizer.pt",
        *(f".cache/{'é' * 40}{number}" for number in range(30)),
    ]
    for name in beside:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    base = ["--from", str(source), "--store", place.base, "--model", "gpt"]
    code, answer = run_main(place, tmp_path, "publish", *base)
    assert code == 0
    assert (answer["digest"], answer["uri"], answer["files"]) == (whole.digest, whole.uri, 3)
    assert set(answer["leftOut"]) <= set(beside)
    assert answer["leftOutFiles"] == len(beside)
    assert capsys.readouterr().err.count('"left out"') == 20
    if place.secret is None:  # a directory as the trainer left it is the same artifact
        shutil.copytree(source, place.folder / "raw")
        raw = verify("pvc://models/raw", place, whole.digest)
        assert raw.files == 3
        assert set(raw.left_out) >= {"training_args.bin", "checkpoint-7/optimizer.pt"}
        assert raw.as_result()["leftOutFiles"] == len(raw.left_out)
        store = open_store(ArtifactUri.parse("pvc://models/raw"), place.mounts, None)
        (tmp_path / "fetched").mkdir()
        transfer.fetch(store, tmp_path / "fetched", whole.digest, "huggingface", threading.Event())
        fetched = {path.name for path in contents(tmp_path / "fetched")}
        assert fetched == {"config.json", "model.safetensors", "tokenizer.json"}


def test_what_no_engine_serves_is_kept_but_no_version(source: Path, claims: Path) -> None:
    """Work that was done is never thrown away: it is in the store, and another release may serve it."""
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    write_model(source, architectures=["RwkvForCausalLM"])
    artifact = publish(source, place)
    with pytest.raises(FactoryError, match=r"no engine serves this model .*; they serve .* bytes: Qwen3For") as caught:
        verify(artifact.uri, place)
    assert caught.value.reason is Reason.UNSERVABLE


def test_a_chat_template_that_does_not_render_is_told_before_anybody_chats(source: Path, claims: Path) -> None:
    place = Place("pvc://models", Mounts(claims), None, claims / "models")
    good = publish(source, place)
    (source / "chat_template.jinja").write_text("{{ messages[0].content }")
    with pytest.raises(FactoryError, match=r"chat_template\.jinja does not render: TemplateSyntaxError"):
        publish(source, place)
    shutil.copytree(source, place.folder / "raw")
    with pytest.raises(FactoryError, match=r"chat_template\.jinja does not render"):
        verify("pvc://models/raw", place)
    verify(good.uri, place)


def test_the_command_line_answers_in_one_line(source: Path, place: Place, tmp_path: Path) -> None:
    result = tmp_path / "termination-log"
    common = ["--claims", str(place.mounts.claims), "--secrets", str(place.mounts.secrets), "--result", str(result)]
    common += ["--secret", place.secret] if place.secret else []
    assert main(["publish", "--from", str(source), "--store", place.base, "--model", "gpt", *common]) == 0
    published = json.loads(result.read_text())
    assert set(published) == {"uri", "digest", "files", "sizeBytes", "format", "metrics"}
    check = ["verify", "--uri", published["uri"], "--format", "huggingface", *common]
    assert main([*check, "--digest", published["digest"]]) == 0
    assert json.loads(result.read_text()) == published
    assert main([*check, "--digest", "sha256:" + "0" * 64]) == 1
    answer = json.loads(result.read_text())
    assert answer["reason"] == "DigestMismatch"
    assert published["digest"] in answer["message"]
    assert len(result.read_bytes()) < 4096


def test_needs_neither_triton_nor_torch(source: Path, claims: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "block"
    for name in ("torch", "tritonclient", "grpc", "numpy"):
        (blocker / name).mkdir(parents=True)
        (blocker / name / "__init__.py").write_text("raise ImportError('not in this image')")
    arguments = ["publish", "--from", str(source), "--store", "pvc://models", "--model", "gpt", "--claims", str(claims)]
    env = {**os.environ, "PYTHONPATH": f"{blocker}:{WORKLOADS / 'agent'}:{WORKLOADS / 'contract'}"}
    run = [sys.executable, "-m", "aifactory_agent", *arguments, "--result", str(tmp_path / "result")]
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def spoil(path: Path, content: bytes) -> None:
    """Change a file in place (the S3 server keeps an object's facts with the file)."""
    with path.open("r+b") as file:
        file.write(content)
