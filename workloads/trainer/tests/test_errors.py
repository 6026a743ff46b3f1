"""Why a process ended is where the operator reads it, and short enough to get there whole."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest

from aifactory_trainer import errors
from conftest import Pod


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.write_text("")
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(path))
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    return path


def raised(error: Exception, depth: int = 1) -> Exception:
    try:
        if depth > 1:
            raised(error, depth - 1)
        raise error
    except Exception as caught:
        return caught


def test_the_form_is_torchelastics(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    errors.record_exception(raised(ValueError("lr must be positive")))
    document = json.loads(log.read_text())
    assert document == json.loads((tmp_path / "error.json").read_text())
    message = document["message"]
    assert message["message"] == "ValueError: lr must be positive"
    assert message["errorCode"] == 1
    assert message["extraInfo"]["py_callstack"].rstrip().endswith("ValueError: lr must be positive")
    assert int(message["extraInfo"]["timestamp"]) > 0


@pytest.mark.parametrize("text", ["x" * 100_000, "é\n" * 30_000 + "the cause", "\x00\udcff" * 5000])
def test_a_long_message_is_cut_to_what_a_kubelet_keeps(log: Path, text: str) -> None:
    errors.record_exception(raised(RuntimeError(text), depth=200))
    assert len(log.read_bytes()) <= 4096
    message = json.loads(log.read_text())["message"]["message"]
    assert message.startswith("RuntimeError: ")
    assert message.endswith(text[-9:]), "the last line is the cause"


def test_the_first_cause_stays(log: Path) -> None:
    errors.record_exception(raised(ValueError("first")))
    errors.record_exception(raised(RuntimeError("Connection closed by peer")))
    assert "first" in log.read_text()


def test_without_a_pod_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFACTORY_TERMINATION_LOG", str(tmp_path / "absent"))
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    errors.record_exception(raised(ValueError("first")))
    assert list(tmp_path.iterdir()) == []


def test_trouble_with_the_file_is_only_printed(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "such" / "directory"))
    errors.record_exception(raised(ValueError("first")))
    assert "can not be written" in capsys.readouterr().err
    assert "first" in log.read_text()


def test_a_termination_log_that_is_a_mount_point_is_written_in_place(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `launcher: none` the operator names it for torchelastic's error file too; no file can be renamed over it."""

    def busy(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy", str(target))

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(log))
    monkeypatch.setattr(Path, "replace", busy)
    errors.record_exception(raised(ValueError("first")))
    assert json.loads(log.read_text())["message"]["message"] == "ValueError: first"
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["termination-log"]


class Closed:
    """A standard error whose reader is gone."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("trouble", [OSError(errno.EROFS, "Read-only file system"), ValueError("closed file")])
@pytest.mark.parametrize("stderr", [Closed(), None])
def test_nothing_ever_raises(
    log: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, stderr: Closed | None
) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise trouble

    monkeypatch.setattr(sys, "stderr", stderr)
    errors.record_exception(Speechless())
    assert "Speechless: its text can not be read" in json.loads(log.read_text())["message"]["message"]
    for name in ("write_text", "is_file", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refuse)
            errors.record_exception(raised(ValueError("first")))
    with pytest.raises(SystemExit):
        errors.give_up("why")


def test_giving_up_ends_with_93(pod: Pod) -> None:
    output = pod.run("-c", "from aifactory_trainer import give_up; give_up('the loss is nan')", expect=93)
    assert "the loss is nan" in output
    assert pod.termination_message()["message"] == "NoRestart: the loss is nan"
    assert pod.termination_message()["errorCode"] == 93


def test_any_exception_after_install_is_recorded_and_printed(pod: Pod) -> None:
    code = "from aifactory_trainer import errors; errors.install(); errors.install(); {}['key']"
    output = pod.run("-c", code, expect=1)
    assert output.count("KeyError: 'key'") == 1
    assert pod.termination_message()["message"] == "KeyError: 'key'"
    assert json.loads(pod.error_file.read_text())["message"]["message"] == "KeyError: 'key'"
