"""How the server is started: where Triton is found, what it is told, what the workers get."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from harness import WORKLOADS, as_process_one, ended_by_sigterm, wait_for

from aifactory_contract.cgroup import memory_taken
from aifactory_contract.control import control_key
from aifactory_contract.memory import read_memory
from aifactory_contract.server import OURS, VLLM, Server, read_server
from aifactory_server import launch
from aifactory_server.backends import available, write_backends
from aifactory_server.distribution import Distribution, find_triton
from aifactory_server.launch import Settings, command, environment, remove_leftovers


def test_finds_the_wheels_triton() -> None:
    triton = find_triton({})
    assert triton.server.name == "tritonserver"
    assert {path.name for path in triton.python_backend} >= {"libtriton_python.so", "triton_python_backend_stub"}
    assert triton.libraries is not None
    assert list(triton.libraries.glob("libtritonserver*.so"))


def test_prefers_an_installed_triton_as_in_nvidias_image(tmp_path: Path) -> None:
    for file in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_stub",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    triton = find_triton({"AIFACTORY_TRITONSERVER": str(tmp_path)})
    assert triton.server == tmp_path / "bin/tritonserver"
    assert triton.libraries is None
    assert triton.vllm_backend is None
    assert available(triton, {}) == OURS == available(triton, {"AIFACTORY_BACKENDS": ""})
    backends = write_backends(triton, tmp_path / "made", OURS)
    assert {path.name for path in backends.iterdir()} == {*OURS, "python"}
    assert "aifactory_server.causal_lm.backend" in (backends / "bytes/model.py").read_text()


def test_vllm_is_there_where_triton_brings_it(tmp_path: Path) -> None:
    for file in ("bin/tritonserver", "backends/python/libtriton_python.so", "backends/vllm/model.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    triton = find_triton({"AIFACTORY_TRITONSERVER": str(tmp_path)})
    assert triton.vllm_backend == tmp_path / "backends/vllm"
    assert available(triton, {}) == (*OURS, VLLM)
    assert available(triton, {"AIFACTORY_BACKENDS": " vllm "}) == (VLLM,), "as its image says"
    backends = write_backends(triton, tmp_path / "made", (VLLM,))
    assert sorted(path.name for path in backends.iterdir()) == ["python", "vllm"]
    made = environment(triton, {"HOME": "/nowhere"})
    assert made["AIFACTORY_VLLM_BACKEND"] == str(tmp_path / "backends/vllm")
    assert (made["VLLM_NO_USAGE_STATS"], made["HOME"]) == ("1", tempfile.gettempdir())


def test_a_back_end_that_is_not_there_is_told() -> None:
    with pytest.raises(
        SystemExit, match="AIFACTORY_BACKENDS: vllm is not here; there are bytes, embeddings, torch-export"
    ):
        available(Distribution(Path("/t"), (), None), {"AIFACTORY_BACKENDS": "bytes,vllm"})


@pytest.mark.parametrize(
    ("script", "gpus", "said"),
    [
        ("raise OSError('no symbol cuInit')", 0, "CUDA can not start (OSError: no symbol cuInit)"),
        ("print(2)", 2, ""),
        ("print(-100)", 0, ""),
        ("print(-803)", 0, "CUDA can not start (error 803)"),
        ("import time; time.sleep(60)", 0, "CUDA has not answered"),
    ],
)
def test_gpus_are_those_that_cuda_shows(
    script: str, gpus: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_DRIVER", "libc.so.6")
    monkeypatch.setattr(launch, "_COUNT_GPUS", script)
    monkeypatch.setattr(launch, "_COUNT_SECONDS", 2)
    assert launch.count_gpus() == gpus
    heard = capsys.readouterr().err
    assert said in heard
    assert bool(said) == bool(heard)


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_DRIVER", "libnotthere.so.1")
    monkeypatch.setattr(launch, "_COUNT_GPUS", "print(3)")
    assert launch.count_gpus() == 0


def test_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"no tritonserver in {tmp_path}"):
        find_triton({"AIFACTORY_TRITONSERVER": str(tmp_path)})


def test_nothing_is_loaded_but_by_the_agent() -> None:
    triton = Distribution(Path("/t/bin/tritonserver"), (), None)
    settings = Settings.of({"AIFACTORY_EXIT_TIMEOUT_SECONDS": "7", "AIFACTORY_HTTP_PORT": ""})
    line = command(triton, settings, Path("/b"), "secret", ["--log-verbose=1"])
    assert line[0] == "/t/bin/tritonserver"
    assert "--model-control-mode=explicit" in line
    assert "--model-repository=/repository/models" in line
    assert "--exit-timeout-secs=7" in line
    assert "--http-port=8000" in line
    for protocol in ("http-restricted-api", "grpc-restricted-protocol"):
        (value,) = [item for item in line if protocol in item]
        assert "model-repository" in value
        assert value.endswith(":aifactory-control=secret")
    assert line[-1] == "--log-verbose=1"


@pytest.mark.parametrize(
    ("quota", "environ", "threads"),
    [
        (None, {}, "16"),
        (2.0, {}, "2"),
        (1.5, {}, "2"),
        (0.25, {}, "1"),
        (64.0, {}, "16"),
        (2.0, {"OMP_NUM_THREADS": "3"}, "3"),
    ],
)
def test_threads_are_what_the_container_may_use(
    quota: float | None, environ: dict[str, str], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(16))
    monkeypatch.setattr(launch, "cpu_quota", lambda: quota)
    assert environment(Distribution(Path("/t"), (), None), environ)["OMP_NUM_THREADS"] == threads


def test_the_libraries_of_this_python_and_of_triton_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = {"LIBDIR": str(tmp_path), "INSTSONAME": "libpython3.11.so.1.0"}
    monkeypatch.setattr(sysconfig, "get_config_var", library.get)

    def made() -> str:
        return environment(Distribution(Path("/t"), (), Path("/libs")), {"LD_LIBRARY_PATH": "/mine"})["LD_LIBRARY_PATH"]

    assert made() == "/libs:/mine"  # a Python that is one file
    (tmp_path / "libpython3.11.so.1.0").touch()
    assert made() == f"{tmp_path}:/libs:/mine"


def test_the_control_key_is_one_for_both_sides(tmp_path: Path) -> None:
    key = control_key(tmp_path)
    assert control_key(tmp_path) == key
    assert len(key) == 48
    assert [path.name for path in tmp_path.iterdir()] == ["control-key"]
    assert stat.S_IMODE((tmp_path / "control-key").stat().st_mode) & 0o007 == 0


def test_shared_memory_of_a_killed_server_is_removed(tmp_path: Path) -> None:
    (tmp_path / "aifactory-1").write_text("")
    (tmp_path / "other").write_text("")
    remove_leftovers("aifactory", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_pod_that_is_deleted_while_triton_starts_ends_at_once(tmp_path: Path) -> None:
    server = tmp_path / "triton/bin/tritonserver"
    server.parent.mkdir(parents=True)
    (tmp_path / "triton/backends/python").mkdir(parents=True)
    server.write_text("#!/bin/sh\necho starting >&2\nexec sleep 60\n")  # no handler, as Triton has none yet
    server.chmod(0o755)
    where = {"AIFACTORY_TRITONSERVER": str(tmp_path / "triton"), "AIFACTORY_REPOSITORY": str(tmp_path / "repository")}
    process = as_process_one(
        sys.executable,
        "-m",
        "aifactory_server.launch",
        **where,
        AIFACTORY_SHM_PREFIX="aif-test",
        AIFACTORY_ENGINE_SLOTS="3",
        AIFACTORY_TELL_MEMORY="true",
    )
    assert process.stderr is not None
    while b"starting" not in process.stderr.readline():
        pass
    assert read_server(tmp_path / "repository") == Server(settings={"AIFACTORY_ENGINE_SLOTS": "3"}), "said before"
    if memory_taken() is not None:
        wait_for("it tells its memory", lambda: read_memory(tmp_path / "repository"), 10)
    code, seconds = ended_by_sigterm(process)
    assert code == 128 + signal.SIGTERM
    assert seconds < 3


def test_an_exit_code_of_triton_is_the_containers() -> None:
    script = "import sys; from aifactory_server.supervise import supervise; sys.exit(supervise(sys.argv[1:], {}))"
    run = [sys.executable, "-c", script, "/bin/sh", "-c"]
    env = {**os.environ, "PYTHONPATH": str(WORKLOADS / "server")}
    assert subprocess.run([*run, "exit 7"], env=env, check=False).returncode == 7
    assert subprocess.run([*run, "kill -9 $$"], env=env, check=False).returncode == 137
