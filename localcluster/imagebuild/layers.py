"""Layers as tar files whose bytes depend on their content alone: sorted, fixed times, plain modes.

A layer is hashed while it is written, in one pass: the largest has 5 GB. Layers are never compressed: they do not
travel, and containerd then needs no second digest for them.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import tarfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# The modification time of everything we put into a layer: 2020-01-01, older than any build, new enough for zip files.
EPOCH = 1577836800
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed layer, so `digest` is both its blob's digest and its diff id."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a layer, relative to /. Without a `source` it is a directory."""

    path: str
    source: Path | None = None
    executable: bool = False
    owner: tuple[int, int] = (0, 0)
    link: str | None = None


def file_entry(path: str, source: Path, owner: tuple[int, int] = (0, 0)) -> Entry:
    """A regular file; of its mode only the executable bit counts, as in git."""
    return Entry(path, source, bool(source.stat().st_mode & 0o100), owner)


def tree_entries(directory: Path, path: str) -> list[Entry]:
    """Everything below ``directory``, to be found below ``path`` in the image. Links stay links."""
    entries: list[Entry] = []
    for parent, directories, files in os.walk(directory):
        relative = Path(parent).relative_to(directory).as_posix()
        prefix = path if relative == "." else f"{path}/{relative}"
        for name in directories + files:
            source = Path(parent, name)
            if source.is_symlink():
                entries.append(Entry(f"{prefix}/{name}", link=os.readlink(source)))
            elif source.is_dir():
                entries.append(Entry(f"{prefix}/{name}"))
            else:
                entries.append(file_entry(f"{prefix}/{name}", source))
    return entries


def write_layer(entries: Iterable[Entry], output: BinaryIO) -> Layer:
    """Write the tar of ``entries`` to ``output``. The order in which they are given does not matter."""
    with (
        _HashingWriter(output) as writer,
        tarfile.TarFile(fileobj=writer, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as archive,
    ):
        for entry in sorted(entries, key=lambda entry: entry.path):
            _add(archive, entry)
    return Layer(f"sha256:{writer.hexdigest}", writer.tell())


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mtime = EPOCH
    info.uid, info.gid = entry.owner
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    elif entry.source is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.mode = 0o755 if entry.executable else 0o644
        with entry.source.open("rb", buffering=0) as content:
            info.size = os.fstat(content.fileno()).st_size
            archive.addfile(info, content)
        return
    archive.addfile(info)


class _HashingWriter(io.RawIOBase):
    """Writes to a file while another thread hashes the same bytes: both let go of the interpreter lock."""

    def __init__(self, output: BinaryIO) -> None:
        super().__init__()
        self._output = output
        self._position = 0
        self._hash = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._digest, name="sha256", daemon=True)
        self._thread.start()
        self.hexdigest = ""

    def _digest(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._chunks.put(data)
        self._output.write(data)
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._chunks.put(None)
            self._thread.join()
            self.hexdigest = self._hash.hexdigest()
        super().close()
