"""Packs a release: everything that is handed out beside the images, in one folder, with checksums.

    python -m release pack [--since TAG] [--url ADDRESS]     (make release)
    python -m release version 0.2.0                          (make release-version VERSION=0.2.0)

The same commit makes the same files, byte by byte, with the same tools: no time of the day is in them, and what has a
time has the commit's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from charts.images import find
from plugin import package

ROOT: Final = Path(__file__).resolve().parents[1]
CHARTS: Final = ("aifactory-crds", "aifactory")
VERSIONED: Final = {
    "pyproject.toml": r'^version = "(.+)"$',
    "operator/aifactory/__init__.py": r'^    __version__ = "(.+)"$',
    "plugin/kubectl_aifactory.py": r'^__version__ = "(.+)"$',
    **{f"charts/{name}/Chart.yaml": r"^(?:version|appVersion): (.+)$" for name in CHARTS},
    **{
        f"workloads/{name}/pyproject.toml": r'^version = "(.+)"$' for name in ("agent", "contract", "server", "trainer")
    },
}
"""Where the version stands, and how: all have the same one."""
LOCKS: Final = {
    "operator": ("requirements.lock",),
    "agent": ("workloads/agent/requirements.lock",),
    "gateway": ("workloads/gateway/requirements.lock",),
    "trainer": ("workloads/torch/requirements.lock", "workloads/trainer/requirements.lock"),
    "server": (
        "workloads/torch/requirements.lock",
        "workloads/server/requirements.lock",
        "workloads/server/requirements-engine.lock",
    ),
}
"""What each image installs, by its Containerfile."""
SBOM_TOOL: Final = "cyclonedx-bom==7.5.0"
_SEMVER: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
_QUIET_TITLES: Final = re.compile(r"(Tests?|Format|Mutation|Bench\w*)\b", re.IGNORECASE)
"""Commits that change nothing for a user."""


def versions() -> dict[str, set[str]]:
    """The versions that each file names."""
    found = {}
    for name, pattern in VERSIONED.items():
        found[name] = set(re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        assert found[name], f"{name} names no version"
    return found


def the_version() -> str:
    """The one version that all files name. Raises SystemExit where they differ."""
    found = versions()
    every = set().union(*found.values())
    if len(every) > 1:
        words = "; ".join(f"{name}: {', '.join(sorted(each))}" for name, each in found.items())
        raise SystemExit(
            f"the files do not name one version: {words}; write one with make release-version VERSION=x.y.z"
        )
    return every.pop()


def set_version(version: str) -> None:
    """Write a version into every file that names it. Raises SystemExit if it is none."""
    if not _SEMVER.fullmatch(version):
        raise SystemExit(f"VERSION: {version!r} is no version: write three numbers such as 0.2.0, or 0.2.0-rc.1")
    for name, pattern in VERSIONED.items():
        path = ROOT / name

        def other(match: re.Match[str]) -> str:
            first, last = match.span(1)
            return match[0][: first - match.start()] + version + match[0][last - match.start() :]

        path.write_text(re.sub(pattern, other, path.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")


def git(*arguments: str) -> str:
    """What git says. Raises CalledProcessError."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def refuse_unclean() -> None:
    """What is packed is what is committed. Raises SystemExit."""
    if changed := git("status", "--porcelain"):
        raise SystemExit(f"a release is made of what is committed; commit or remove first:\n{changed}")


def notes(version: str, since: str | None) -> str:
    """What has changed for a user, from the titles of commits."""
    if since is None:
        tags = git("tag", "--merged", "HEAD^", "--list", "v*", "--sort=-version:refname").splitlines()
        since = next((tag for tag in tags if tag != f"v{version}"), None)
    titles = git("log", "--no-merges", "--reverse", "--format=%s", f"{since}..HEAD" if since else "HEAD").splitlines()
    told = dict.fromkeys(title for title in titles if not _QUIET_TITLES.match(title))
    head = f"Changes since {since}" if since else "Everything is new: there was no release before"
    return "\n".join([f"# AI factory {version}", "", f"{head}.", "", *(f"- {title}" for title in told), ""])


def pack_charts(folder: Path, time: int) -> None:
    """The charts as `helm package` packs them."""
    helm = find("helm")
    with tempfile.TemporaryDirectory() as copy:
        for name in CHARTS:
            chart = Path(copy) / name
            shutil.copytree(ROOT / "charts" / name, chart)
            for path in (chart, *chart.rglob("*")):
                os.utime(path, (time, time))  # helm takes over the times of the files
            _run(helm, "package", str(chart), "--destination", str(folder))


def pack_crds(folder: Path) -> None:
    """All CRDs in one file, for `kubectl apply --server-side`."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "crds").glob("*.yaml"))]
    (folder / "crds.yaml").write_text("---\n".join(texts), encoding="utf-8")


def pack_images(folder: Path) -> None:
    """The images of an installation as the chart comes, and the one that trains."""
    listed = _run(sys.executable, str(ROOT / "charts/images.py"))
    trainer = next(line for line in listed.splitlines() if "/operator:" in line).replace("/operator:", "/trainer:")
    (folder / "images.txt").write_text("\n".join(sorted([*listed.split(), trainer])) + "\n")


def pack_sboms(folder: Path, uv: str, version: str, time: int) -> None:
    """What each image installs beside its base, in CycloneDX's form."""
    tool = (uv, "tool", "run", "--quiet", "--from", SBOM_TOOL, "cyclonedx-py", "requirements", "-")
    for image, locks in LOCKS.items():
        lines = "".join((ROOT / lock).read_text(encoding="utf-8") for lock in locks)
        found = json.loads(
            _run(*tool, "--output-reproducible", "--short-PURLs", given=lines, SOURCE_DATE_EPOCH=str(time))
        )
        found["metadata"]["component"] = {"type": "container", "name": f"aifactory/{image}", "version": version}
        for component in found["components"]:
            component.pop("description", None)  # the line of the lock file again
        text = json.dumps(found, indent=1, sort_keys=True)
        (folder / f"sbom-{image}.cdx.json").write_text(text + "\n", encoding="utf-8")


def pack_plugin(folder: Path, uv: str, url: str, time: int) -> None:
    """kubectl aifactory for pipx and krew."""
    _run(uv, "build", "--quiet", "--wheel", str(ROOT / "plugin"), "--out-dir", str(folder), SOURCE_DATE_EPOCH=str(time))
    _run(sys.executable, str(ROOT / "plugin/package.py"), str(folder), url)
    (folder / "aifactory.yaml").rename(folder / "krew.yaml")
    (folder / ".gitignore").unlink(missing_ok=True)


def pack(folder: Path, since: str | None, url: str) -> None:
    """Make the folder anew. Raises SystemExit with what stands in the way."""
    refuse_unclean()
    version, time = the_version(), int(git("show", "--no-patch", "--format=%ct", "HEAD"))
    uv = _run(sys.executable, str(ROOT / "localcluster/ensure_uv.py")).splitlines()[-1]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pack_charts(folder, time)
    pack_crds(folder)
    shutil.copy(ROOT / "charts/aifactory/files/argocd-cm.yaml", folder)
    pack_images(folder)
    pack_sboms(folder, uv, version, time)
    pack_plugin(folder, uv, url, time)
    (folder / "NOTES.md").write_text(notes(version, since), encoding="utf-8")
    (folder / package.SUMS).unlink()  # that of the plugin
    package.write_checksums(folder, sorted(folder.iterdir()))


def _run(*command: str, given: str | None = None, **environ: str) -> str:
    env = {**os.environ, **environ}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=given, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(prog="release", description="Packs a release, or sets its version.")
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="make build/release")
    packing.add_argument("--since", help="the release before; the newest tag v* if left out")
    packing.add_argument("--url", default="https://example.com", help="address at which the files will lie")
    packing.add_argument("--folder", type=Path, default=ROOT / "build/release")
    actions.add_parser("version", help="write a version into every file that names it").add_argument("version")
    found = parser.parse_args(arguments)
    if found.action == "version":
        set_version(found.version)
        return
    pack(found.folder, found.since, found.url)
    print((found.folder / package.SUMS).read_text(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
