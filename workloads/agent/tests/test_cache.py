"""Inputs fetched to a volume: whole or not there, once, and gone on with by the next try."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import WORKLOADS, free_ports, wait_for

from aifactory_agent.artifacts import cache as caches
from aifactory_agent.artifacts import reading
from aifactory_agent.artifacts.cache import Cache, Progress
from aifactory_agent.artifacts.reading import Cancelled
from aifactory_agent.artifacts.store import StoredFile
from aifactory_agent.artifacts.volume import VolumeStore
from aifactory_agent.cli import main
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.fetchspec import InUse
from aifactory_contract.formats import FORMATS
from aifactory_contract.manifest import of_directory
from aifactory_contract.uri import ArtifactUri


class Memory:
    """A source of files in memory, that may break off."""

    def __init__(self, files: dict[str, bytes], uri: str = "s3://bucket/corpus") -> None:
        self.uri = ArtifactUri.parse(uri)
        self.contents = files
        self.read_bytes = 0
        self.fails_after: int | None = None
        self.before: Callable[[StoredFile, int], None] = lambda file, start: None
        self._lock = threading.Lock()

    def files(self) -> list[StoredFile]:
        return [
            StoredFile(path, len(data), f'"{hashlib.md5(data).hexdigest()}"')
            for path, data in sorted(self.contents.items())
        ]

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> bytes:
        self.before(file, start)
        with self._lock:
            self.read_bytes += end - start
            if self.fails_after is not None and self.read_bytes > self.fails_after:
                raise FactoryError(Reason.STORE_UNAVAILABLE, f"{self.uri}: away")
        return self.contents[file.path][start:end]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", 1000)
    monkeypatch.setattr(reading, "WINDOW", 3000)


@pytest.fixture
def contents() -> dict[str, bytes]:
    return {"a.txt": b"hello", "empty": b"", "sub/large": os.urandom(20_500), "z": os.urandom(1000)}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "claims/inputs/cache", "inputs")


def root(tmp_path: Path) -> Path:
    return tmp_path / "claims/inputs/cache"


def fetch(cache: Cache, source: Memory, digest: str | None = None) -> caches.Input:
    return cache.fetch(source, digest, Progress(str(source.uri)), threading.Event())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_input_lies_under_its_digest(
    cache: Cache, contents: dict[str, bytes], tmp_path: Path, small_pieces: None
) -> None:
    found = fetch(cache, Memory(contents))
    folder = root(tmp_path) / found.name
    assert files_of(folder) == contents
    assert of_directory(folder).digest == found.digest
    assert (found.files, found.size, found.cached) == (4, 21_505, False)
    assert not [path for path in root(tmp_path).glob(".incoming-*") if path.is_dir()]


def test_it_is_fetched_once(cache: Cache, contents: dict[str, bytes], tmp_path: Path) -> None:
    first, again = Memory(contents), Memory(contents)
    found = fetch(cache, first)
    second = fetch(cache, again)
    assert (second.digest, second.size, second.files, second.cached) == (found.digest, found.size, found.files, True)
    assert again.read_bytes == 0
    assert fetch(cache, Memory({}), found.digest).cached, "with a digest the source is not even listed"
    other = Memory(contents, "s3://bucket/elsewhere")
    assert fetch(cache, other).digest == found.digest, "the same files from another place are one input"
    changed = Memory({**contents, "a.txt": b"HELLO"})
    assert fetch(cache, changed).digest != found.digest
    shutil.rmtree(root(tmp_path) / found.name)
    assert not fetch(cache, Memory(contents)).cached, "one that was removed is fetched again"


def test_the_next_try_goes_on_where_the_last_one_ended(
    cache: Cache, contents: dict[str, bytes], small_pieces: None
) -> None:
    source = Memory(contents)
    source.fails_after = 12_000
    with pytest.raises(FactoryError, match="away"):
        fetch(cache, source)
    total = sum(map(len, contents.values()))
    source.fails_after, source.read_bytes = None, 0
    progress = Progress("x")
    found = cache.fetch(source, None, progress, threading.Event())
    assert not found.cached
    assert source.read_bytes < total - 7_000, "what was there is not read again"
    assert progress.as_json() == {
        "uri": "x", "phase": "Finishing", "bytes": total, "totalBytes": total, "files": 4, "totalFiles": 4,
    }  # fmt: skip


def test_what_changed_meanwhile_is_not_gone_on_with(
    cache: Cache, contents: dict[str, bytes], tmp_path: Path, small_pieces: None
) -> None:
    source = Memory(contents)
    source.fails_after = 12_000
    with pytest.raises(FactoryError, match="away"):
        fetch(cache, source)
    changed = Memory({**contents, "sub/large": os.urandom(20_500), "new": b"n"})
    del changed.contents["a.txt"]
    found = fetch(cache, changed)
    assert files_of(root(tmp_path) / found.name) == changed.contents


def test_a_damaged_beginning_is_found_by_the_digest_and_read_anew(
    cache: Cache, contents: dict[str, bytes], tmp_path: Path, small_pieces: None
) -> None:
    digest = fetch(Cache(tmp_path / "other", "x"), Memory(contents)).digest
    source = Memory(contents)
    source.fails_after = 12_000
    with pytest.raises(FactoryError, match="away"):
        fetch(cache, source, digest)
    (left,) = (path for path in root(tmp_path).glob(".incoming-*") if path.is_dir())
    with (left / "sub/large").open("r+b") as file:
        file.write(b"damaged!")
    source.fails_after = None
    with pytest.raises(FactoryError) as caught:
        fetch(cache, source, digest)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert fetch(cache, source, digest).digest == digest


def test_a_wrong_digest_is_told_and_nothing_stays(cache: Cache, contents: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(FactoryError, match="correct the digest") as caught:
        fetch(cache, Memory(contents), f"sha256:{'0' * 64}")
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert not list(root(tmp_path).glob("sha256-*"))
    assert not [path for path in root(tmp_path).glob(".incoming-*") if path.is_dir()]


def test_too_little_room_is_told_before_the_copy(
    cache: Cache, contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    source = Memory(contents)
    with pytest.raises(FactoryError, match="10 are free in claim inputs") as caught:
        fetch(cache, source)
    assert caught.value.reason is Reason.STORE_FULL
    assert source.read_bytes == 0


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, Reason.STORE_FULL), (errno.EROFS, Reason.ACCESS_DENIED)])
def test_a_volume_that_refuses_is_told(
    cache: Cache, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(caches, "write_piece", refuse)
        with pytest.raises(FactoryError, match="claim inputs") as caught:
            fetch(cache, Memory(contents))
    assert caught.value.reason is reason
    assert fetch(cache, Memory(contents)).files == 4


def test_two_pods_that_want_the_same_fetch_it_once(
    cache: Cache, contents: dict[str, bytes], small_pieces: None
) -> None:
    first, second = Memory(contents), Memory(contents)
    reached, go_on, found = threading.Event(), threading.Event(), []

    def wait(_: StoredFile, start: int) -> None:
        if start == 5000:
            reached.set()
            go_on.wait(20)

    first.before = wait
    one = threading.Thread(target=lambda: found.append(fetch(cache, first)))
    one.start()
    assert reached.wait(20)
    two = threading.Thread(target=lambda: found.append(fetch(cache, second)))
    two.start()
    go_on.set()
    one.join(20)
    two.join(20)
    assert sorted(each.cached for each in found) == [False, True]
    assert first.read_bytes + second.read_bytes == sum(map(len, contents.values()))


def test_a_fetch_that_nobody_wants_any_more_ends(cache: Cache, contents: dict[str, bytes], small_pieces: None) -> None:
    source, cancel = Memory(contents), threading.Event()

    def stop(_: StoredFile, start: int) -> None:
        if start == 5000:
            cancel.set()

    source.before = stop
    with pytest.raises(Cancelled):
        cache.fetch(source, None, Progress("x"), cancel)


def test_what_nobody_goes_on_with_is_removed_after_a_day(
    cache: Cache, contents: dict[str, bytes], tmp_path: Path, small_pieces: None
) -> None:
    left = {}
    for age, uri in ((2, "s3://bucket/old"), (0.5, "s3://bucket/young")):
        source = Memory(contents, uri)
        source.fails_after = 8000
        with pytest.raises(FactoryError, match="away"):
            fetch(cache, source)
        (folder,) = {path for path in root(tmp_path).glob(".incoming-*") if path.is_dir()} - set(left.values())
        left[uri] = folder
        then = time.time() - age * 24 * 3600
        for path in (folder / ".aifactory/fetched.jsonl", folder):
            os.utime(path, (then, then))
    thrown = root(tmp_path) / ".incoming-thrown-away-by-the-operator"
    thrown.mkdir()
    os.utime(thrown, (1, 1))
    fetch(cache, Memory({"x": b"y"}))
    assert not left["s3://bucket/old"].exists()
    assert left["s3://bucket/young"].exists()
    assert not thrown.exists()


# --- the command ---


@pytest.fixture
def corpus(claims: Path) -> Path:
    """Files in a claim, to be fetched to another."""
    (claims / "inputs").mkdir()
    folder = claims / "models/corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello")
    (folder / "sub/b.bin").write_bytes(os.urandom(5000))
    return folder


@pytest.mark.parametrize("known", [True, False])
def test_many_files_are_pushed_to_the_disk_in_one_go_where_the_system_can(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """And before the input gets its name."""
    pushed, at_once = set(), []

    def fsync(path: Path) -> None:
        if path.is_file():
            pushed.add(path.name)

    def syncfs(folder: Path) -> bool:
        assert set(contents) == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        at_once.append(folder.name)
        return known

    monkeypatch.setattr(caches, "_MANY_FILES", len(contents) - 1)
    monkeypatch.setattr(caches, "fsync", fsync)
    monkeypatch.setattr(caches, "syncfs", syncfs)
    fetch(Cache(root(tmp_path), "inputs"), Memory(contents))
    assert [name.startswith(".incoming-") for name in at_once] == [True]
    assert pushed == (set() if known else {Path(path).name for path in contents})


# --- Room ---


def entry(cache_root: Path, digit: str, hours: float) -> Path:
    """An input of 1,000 bytes that was needed so many hours ago."""
    folder = cache_root / f"sha256-{digit * 64}"
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(bytes(1000))
    os.utime(folder, times=(then := time.time() - hours * 3600, then))
    return folder


def there(cache_root: Path) -> str:
    return "".join(sorted(path.name[7] for path in cache_root.glob("sha256-*") if len(set(path.name[7:])) == 1))


def collecting(tmp_path: Path, *needed: str, seen: float = 0.0) -> Cache:
    """The cache of a pod that was told what is needed."""
    in_use = InUse(int(time.time() - seen * 3600), tuple(digit * 16 for digit in needed))
    return Cache(root(tmp_path), "inputs", in_use)


def test_what_nobody_needs_goes_when_its_room_is_needed_the_oldest_first(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for digit, hours in (("1", 5), ("2", 9), ("3", 7), ("4", 0.5), ("5", 100)):
        entry(root(tmp_path), digit, hours)

    def usage(path: Path) -> Any:
        """Too little until two are gone."""
        return shutil._ntuple_diskusage(10**6, 0, 10**6 if len(there(root(tmp_path))) <= 3 else 0)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    fetch(collecting(tmp_path, "5"), Memory(contents))
    assert there(root(tmp_path)) == "145", "5 is needed, 4 was needed a moment ago; of the others 1 is the youngest"
    assert time.time() - (root(tmp_path) / f"sha256-{'5' * 64}").stat().st_mtime < 60
    assert not [path for path in root(tmp_path).glob(".incoming-*") if path.is_dir()]


def test_with_room_only_what_was_not_needed_for_a_week_goes(contents: dict[str, bytes], tmp_path: Path) -> None:
    for digit, hours in (("1", 6 * 24), ("2", 8 * 24), ("3", 8 * 24)):
        entry(root(tmp_path), digit, hours)
    fetch(Cache(root(tmp_path), "inputs"), Memory({"other": b"x"}))
    assert there(root(tmp_path)) == "123", "who is not told what is needed removes nothing"
    fetch(collecting(tmp_path, "3"), Memory(contents))
    assert there(root(tmp_path)) == "13"


def test_a_list_that_is_old_says_nothing_of_what_was_needed_since(contents: dict[str, bytes], tmp_path: Path) -> None:
    entry(root(tmp_path), "1", 8 * 24)
    fetch(collecting(tmp_path, seen=9 * 24), Memory(contents))
    assert there(root(tmp_path)) == "1"


def test_one_that_is_found_while_it_is_removed_stays(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pod has looked for it between the look at its age and the end of its name."""
    folder = entry(root(tmp_path), "1", 8 * 24)
    other, rename = Cache(root(tmp_path), "inputs"), Path.rename
    found = []

    def late(path: Path, target: Path) -> Path:
        if path == folder:
            found.append(other.find(f"sha256:{'1' * 64}"))
            monkeypatch.setattr(Path, "rename", rename)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    fetch(collecting(tmp_path), Memory(contents))
    assert [input_ is not None for input_ in found] == [True]
    assert there(root(tmp_path)) == "1"
    assert (folder / "f").stat().st_size == 1000


def test_one_that_is_gone_is_not_found(tmp_path: Path) -> None:
    assert Cache(root(tmp_path), "inputs").find(f"sha256:{'1' * 64}") is None


def run(claims: Path, spec: object, result: Path) -> tuple[int, dict[str, Any]]:
    text = spec if isinstance(spec, str) else json.dumps(spec)
    code = main(["fetch", "--spec", text, "--claims", str(claims), "--result", str(result), "--port", "0"])
    return code, json.loads(result.read_text())


def test_the_command_answers_in_one_line(corpus: Path, claims: Path, tmp_path: Path) -> None:
    spec = {"uri": "pvc://models/corpus", "destination": "pvc://inputs/cache", "digest": None}
    digest = of_directory(corpus).digest
    path = f"cache/{digest.replace(':', '-')}"
    expected = {"uri": spec["uri"], "digest": digest, "files": 2, "sizeBytes": 5005, "path": path}
    assert run(claims, spec, tmp_path / "log") == (0, {**expected, "cached": False})
    assert run(claims, {**spec, "digest": digest}, tmp_path / "log") == (0, {**expected, "cached": True})
    assert files_of(claims / "inputs" / path) == files_of(corpus)


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ("{", "InvalidArtifact", "not JSON"),
        ([], "InvalidArtifact", "JSON object"),
        ({"uri": "pvc://models/corpus"}, "InvalidArtifact", "needs 'destination'"),
        ({"uri": "pvc://models/corpus", "destination": "pvc://inputs/c", "url": "x"}, "InvalidArtifact", "'url'"),
        ({"uri": "pvc://models/corpus", "destination": "s3://inputs/c"}, "InvalidArtifact", "pvc://<claim>/<path>"),
        ({"uri": "pvc://models/corpus", "destination": "pvc://none/c"}, "SourceNotFound", "claim none"),
        ({"uri": "pvc://models/none", "destination": "pvc://inputs/c"}, "SourceNotFound", "no directory none"),
        ({"uri": "pvc://models/corpus", "destination": "pvc://inputs/c", "inUse": ["a"]}, "InvalidArtifact", "'inUse'"),
        (
            {"uri": "pvc://models/corpus", "destination": "pvc://inputs/c", "inUse": {"time": 1, "digests": ["../.."]}},
            "InvalidArtifact",
            "hex digits",
        ),
        (
            {"uri": "pvc://models/corpus", "destination": "pvc://inputs/c", "format": "csv"},
            "InvalidArtifact",
            "format 'csv' is not known here; write one of: chat, huggingface, preference, text, torch-export, triton",
        ),
        ({"uri": "file:///etc", "destination": "pvc://inputs/c"}, "InvalidArtifact", "none of pvc://"),
        (
            {"uri": "pvc://models/corpus", "destination": "pvc://inputs/c", "digest": "sha256:1"},
            "DigestMismatch",
            "64 lower-case",
        ),
    ],
)
def test_a_bad_spec_is_told(corpus: Path, claims: Path, tmp_path: Path, spec: object, reason: str, words: str) -> None:
    code, answer = run(claims, spec, tmp_path / "log")
    assert (code, answer["reason"]) == (1, reason)
    assert words in answer["message"]


# --- formats ---

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'


@pytest.fixture
def talks(claims: Path) -> Path:
    """A chat file whose third line is no good."""
    folder = claims / "models/talks"
    (folder / "sub").mkdir(parents=True)
    (claims / "inputs").mkdir()
    (folder / "sub/chat.jsonl").write_text(2 * GOOD + GOOD.replace("assistant", "bot") + GOOD)
    return folder


def of_format(form: str, uri: str = "pvc://models/talks") -> dict[str, str]:
    return {"uri": uri, "destination": "pvc://inputs/cache", "format": form}


def test_a_bad_line_is_told_until_somebody_puts_it_right(talks: Path, claims: Path, tmp_path: Path) -> None:
    for _ in range(2):
        code, answer = run(claims, of_format("chat"), tmp_path / "log")
        assert (code, answer["reason"]) == (1, "InvalidArtifact")
        assert answer["message"].startswith("sub/chat.jsonl:3: messages[1] has the role 'bot'; the roles are system, ")
    code, answer = run(claims, {"uri": "pvc://models/talks", "destination": "pvc://inputs/cache"}, tmp_path / "log")
    assert (code, answer["digest"], answer["cached"]) == (0, of_directory(talks).digest, True), "without a format"

    (talks / "sub/chat.jsonl").write_text(3 * GOOD)
    code, answer = run(claims, of_format("chat"), tmp_path / "log")
    assert (code, answer["digest"], answer["cached"]) == (0, of_directory(talks).digest, False)
    assert files_of(claims / "inputs" / answer["path"]) == files_of(talks), "no mark of ours in it"


def test_what_is_there_is_checked_once_for_each_format(
    talks: Path, claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (talks / "sub/chat.jsonl").write_text(GOOD)
    assert run(claims, of_format("chat"), tmp_path / "log")[0] == 0
    checked = []

    def check(folder: Path, form: str, called: str) -> None:
        checked.append((folder.name, form, called))

    monkeypatch.setattr(caches.data, "check", check)
    digest = of_directory(talks).digest
    for form in ("chat", "text", "text"):
        assert run(claims, {**of_format(form), "digest": digest}, tmp_path / "log")[0] == 0
    assert checked == [(digest.replace(":", "-"), "text", "pvc://models/talks")]


def test_a_model_is_checked_as_a_version_would_be(claims: Path, tmp_path: Path) -> None:
    (claims / "models/base").mkdir(parents=True)
    (claims / "inputs").mkdir()
    (claims / "models/base/config.json").write_text("{}")
    code, answer = run(claims, of_format("huggingface", "pvc://models/base"), tmp_path / "log")
    assert (code, answer["reason"]) == (1, "InvalidArtifact")
    assert "config.json names no architecture" in answer["message"]


def test_a_folder_that_goes_while_it_is_checked_is_no_bad_file(
    talks: Path, cache: Cache, claims: Path, tmp_path: Path
) -> None:
    gone = caches.Input(of_directory(talks).digest, 1, 1, cached=True)
    with pytest.raises(FactoryError, match="claim inputs: No such file or directory") as told:
        cache.check(gone, "chat", Progress("x"))
    assert told.value.reason is Reason.STORE_UNAVAILABLE


def test_a_killed_fetch_is_gone_on_with_and_tells_how_far_it_is(corpus: Path, claims: Path, tmp_path: Path) -> None:
    """The whole program, killed without warning while it reads from a pipe-slow volume, and started again."""
    (corpus / "sub/c.bin").write_bytes(os.urandom(64 * 1024))
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\n"
        "from aifactory_agent.artifacts import cache, reading, volume\n"
        "reading.PIECE, reading.WINDOW, reading.THREADS, cache._MARK_BYTES = 1024, 2048, 1, 4096\n"
        "read = volume.VolumeStore.read\n"
        "volume.VolumeStore.read = lambda self, *a: (time.sleep(0.05), read(self, *a))[1]\n"
        "from aifactory_agent.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (port,) = free_ports(1)
    spec = json.dumps({"uri": "pvc://models/corpus", "destination": "pvc://inputs/cache"})
    arguments = ["fetch", "--spec", spec, "--claims", str(claims), "--result", str(tmp_path / "log")]
    env = {**os.environ, "PYTHONPATH": f"{WORKLOADS / 'agent'}:{WORKLOADS / 'contract'}"}
    process = subprocess.Popen([sys.executable, slow, *arguments, "--port", str(port)], env=env)

    def status() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status", timeout=5) as answer:
            return dict(json.loads(answer.read()))

    try:
        wait_for("it has fetched some", lambda: status()["bytes"] > 20_000)
        now = status()
        assert (now["phase"], now["totalBytes"], now["totalFiles"]) == ("Fetching", 70_541, 3)
        assert not list((claims / "inputs/cache").glob("sha256-*"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    progress = Progress("x")
    source = counting(claims)
    found = Cache(claims / "inputs/cache", "inputs").fetch(source, None, progress, threading.Event())
    assert found.digest == of_directory(corpus).digest
    assert source.read_bytes < 60_000, "what the journal tells is not read again"


def counting(claims: Path) -> Any:
    class Counting(VolumeStore):
        read_bytes = 0

        def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> bytes:
            self.read_bytes += end - start
            return super().read(file, start, end, stop)

    return Counting(ArtifactUri.parse("pvc://models/corpus"), claims)


def test_of_a_version_the_files_of_its_format_are_fetched(cache: Cache, tmp_path: Path) -> None:
    """Its digest is that of what was verified: not of everything that lies beside it in a hub's repository."""
    files = {"config.json": b"{}", "model.safetensors": b"weights", "LICENSE": b"free", "picture.png": b"x"}
    source = Memory(files, "hf://org/repo@main")
    progress, never = Progress("x"), threading.Event()
    language_model = next(name for name in FORMATS if name != "torch-export")
    version = cache.fetch(source, None, progress, never, language_model)
    assert sorted(path.name for path in (root(tmp_path) / version.name).iterdir()) == [
        "LICENSE",
        "config.json",
        "model.safetensors",
    ]
    whole = cache.fetch(source, None, progress, never)
    assert (whole.files, whole.digest != version.digest) == (4, True)
