"""The build context: which files of the repository a COPY takes, with `.dockerignore` honoured.

Only regular files and directories; a symbolic link is refused, since builders disagree about what it should become.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localcluster.console import CannotRun
from localcluster.imagebuild.containerfile import Copy

IGNORE_FILE = ".dockerignore"


@dataclass(frozen=True, slots=True)
class Selected:
    """A file or directory of the context and where it goes in the image (relative to /)."""

    source: Path
    target: str

    @property
    def is_directory(self) -> bool:
        return self.source.is_dir()


class Context:
    """The repository as a source of COPY."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ignored = _read_patterns(root / IGNORE_FILE)

    def select(self, copy: Copy, workdir: str) -> Iterator[Selected]:
        """What `copy` puts into the image, in a stable order; directories come before what they hold."""
        target = copy.target if copy.target.startswith("/") else f"{workdir.rstrip('/')}/{copy.target}"
        for source in copy.sources:
            path = self.root / source
            if path.is_dir():
                # Of a directory its content is copied, not itself.
                yield Selected(path, _normal(target))
                yield from self._below(path, _normal(target), copy)
            elif path.is_file():
                into_directory = target.endswith(("/", "/."))
                yield Selected(path, _normal(f"{target}/{path.name}" if into_directory else target))
            else:
                raise copy.where.refuse(f"COPY source '{source}' does not exist in the repository")

    def _below(self, directory: Path, target: str, copy: Copy) -> Iterator[Selected]:
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            path = Path(entry.path)
            if self._is_ignored(path.relative_to(self.root).as_posix()):
                continue
            if entry.is_symlink():
                raise copy.where.refuse(f"'{path.relative_to(self.root)}' is a symbolic link; copy regular files only")
            selected = Selected(path, f"{target}/{entry.name}".lstrip("/"))
            yield selected
            if entry.is_dir():
                yield from self._below(path, selected.target, copy)

    def _is_ignored(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(
            fnmatch.fnmatchcase(name, pattern[3:]) if pattern.startswith("**/") else path == pattern
            for pattern in self._ignored
        )


def _normal(path: str) -> str:
    return os.path.normpath(path).strip("/")


def _read_patterns(file: Path) -> tuple[str, ...]:
    """Two kinds of pattern: a path from the root, and `**/NAME` where NAME may hold wildcards."""
    if not file.exists():
        return ()
    patterns = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        pattern = line.strip().rstrip("/")
        if not pattern or pattern.startswith("#"):
            continue
        name = pattern.removeprefix("**/")
        plain = not any(character in name for character in "*?[!")
        if not plain and not (pattern.startswith("**/") and "/" not in name and "!" not in name):
            raise CannotRun(f"{file.name}:{number}: write a path, or **/NAME; '{pattern}' is not supported here")
        patterns.append(pattern)
    return tuple(patterns)
