"""The environments of the workloads' tests are made once, whole, and named after what is in them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from conftest import ROOT

SCRIPT = ROOT.parent / "torch" / "venv.py"


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("AIFACTORY_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("torch_venv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("# nothing\n")
    return path


def test_the_name_follows_the_lock(venv: ModuleType, lock: Path, tmp_path: Path) -> None:
    before = venv.venv_path("x", [lock])
    assert before.parent == tmp_path / "cache" / "venvs"
    assert before == venv.venv_path("x", [lock])
    lock.write_text("# something\n")
    assert before != venv.venv_path("x", [lock])


def test_half_an_environment_is_made_anew(venv: ModuleType, lock: Path) -> None:
    directory = venv.venv_path("x", [lock])
    half = directory.with_name(f".{directory.name}.new") / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("not yet")
    python = venv.ensure(directory, lock)
    printed = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str(directory)
    assert [path.name for path in directory.parent.iterdir() if path.name.endswith(".new")] == []


def test_another_environments_packages_can_be_seen(venv: ModuleType, lock: Path) -> None:
    base = venv.venv_path("base", [lock])
    venv.ensure(base, lock)
    (base / f"lib/python{venv.PYTHON_VERSION}/site-packages/only_in_base.py").write_text("here = 1\n")
    python = venv.ensure(venv.venv_path("x", [lock]), lock, packages_of=base)
    subprocess.run([python, "-c", "import only_in_base"], check=True)


def test_callers_at_once_get_one_environment(venv: ModuleType, lock: Path) -> None:
    directory = venv.venv_path("x", [lock])
    call = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import venv as v; from pathlib import Path\n"
        f"print(v.ensure(Path({str(directory)!r}), Path({str(lock)!r})))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [process.communicate(timeout=60) for process in processes]
    assert {output.strip() for output, _ in results} == {str(directory / "bin" / "python")}
    assert sum("(once)" in error for _, error in results) == 1, "one made it, the others waited"


def test_a_lock_that_can_not_be_installed_leaves_nothing(venv: ModuleType, lock: Path) -> None:
    lock.write_text("no-such-package @ file:///no/such/file\n")
    directory = venv.venv_path("x", [lock])
    with pytest.raises(venv.VenvError, match="see its message above"):
        venv.ensure(directory, lock)
    assert not directory.exists()
