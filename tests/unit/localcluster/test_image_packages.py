"""Package layers: which packages of a lock are installed, and that files shared with uv's cache are never changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localcluster.console import CannotRun
from localcluster.imagebuild import packages

FIRST = """numpy==1.26.4 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
networkx==3.6.1 ; python_full_version < '3.12' \\
    --hash=sha256:cc
networkx==3.7 ; python_full_version >= '3.12' \\
    --hash=sha256:dd
"""


def lock(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_lock_is_read_with_markers_and_hashes(tmp_path: Path) -> None:
    assert packages.pins(lock(tmp_path, "a", FIRST)) == {
        ("numpy", "1.26.4"): "numpy==1.26.4 --hash=sha256:aa --hash=sha256:bb",
        ("networkx", "3.6.1"): "networkx==3.6.1 ; python_full_version < '3.12' --hash=sha256:cc",
        ("networkx", "3.7"): "networkx==3.7 ; python_full_version >= '3.12' --hash=sha256:dd",
    }


@pytest.mark.parametrize("line", ["--index-url https://example.org/simple", "numpy>=1", "-e ."])
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(CannotRun, match="not of the form name==version"):
        packages.pins(lock(tmp_path, "a", line))


def test_what_an_earlier_layer_has_is_not_installed_again(tmp_path: Path) -> None:
    earlier = lock(tmp_path, "torch.lock", FIRST)
    later = lock(tmp_path, "server.lock", "Num_Py==2\nNumPy==1.26.4 --hash=sha256:aa\nnvidia_pytriton==0.7.0\n")
    assert packages.uninstalled(later, [earlier]) == "Num_Py==2\nnvidia_pytriton==0.7.0\n"


def test_two_versions_of_one_package_are_refused(tmp_path: Path) -> None:
    earlier = lock(tmp_path, "torch.lock", FIRST)
    later = lock(tmp_path, "server.lock", "numpy==2.3.0 --hash=sha256:ee\n")
    with pytest.raises(CannotRun, match=r"server\.lock has numpy 2\.3\.0, an earlier lock .* has 1\.26\.4"):
        packages.uninstalled(later, [earlier])


@pytest.mark.parametrize(
    "head",
    [
        "#!/usr/bin/python3\n",
        "#!/home/me/.venv/bin/python\n",
        "#!/usr/bin/env python3\n",
        "#!/bin/sh\n'''exec' /a/very/long/python \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_scripts_run_with_the_images_python(tmp_path: Path, head: str) -> None:
    site, cached = tmp_path / "site", tmp_path / "cached"
    (site / "bin").mkdir(parents=True)
    (site / "tool-1.dist-info").mkdir()
    cached.write_text(f"{head}import tool\n")
    cached.chmod(0o644)
    os.link(cached, site / "bin" / "tool")
    (site / "bin" / "native").write_bytes(b"\x7fELF no script")
    (site / "tool-1.dist-info" / "RECORD").write_text("tool/__init__.py,sha256=x,1\nbin/tool,sha256=y,2\n")

    packages.separate_prefix(site, tmp_path / "prefix")

    assert (tmp_path / "prefix/bin/tool").read_text() == "#!/usr/bin/python3\nimport tool\n"
    assert (tmp_path / "prefix/bin/native").read_bytes() == b"\x7fELF no script"
    assert (tmp_path / "prefix/bin/tool").stat().st_mode & 0o777 == 0o755
    assert cached.read_text() == f"{head}import tool\n", "the file in uv's cache was changed"
    record = (site / "tool-1.dist-info" / "RECORD").read_text()
    assert record == "tool/__init__.py,sha256=x,1\n../../../bin/tool,,\n"
    assert not (site / "bin").exists()


def test_a_package_that_is_called_like_a_directory_of_the_prefix_stays(tmp_path: Path) -> None:
    (tmp_path / "site" / "etc").mkdir(parents=True)
    (tmp_path / "site" / "etc" / "__init__.py").touch()
    packages.separate_prefix(tmp_path / "site", tmp_path / "prefix")
    assert (tmp_path / "site" / "etc" / "__init__.py").exists()
