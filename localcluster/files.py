"""Write configuration so that a reader never sees half of it, and nobody is woken when nothing changed."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Programs watch their files (kube-proxy ends on any write to its own), so equal content is not written again."""
    if not path.exists() or path.read_text() != text:
        staging = path.with_name(f".{path.name}.new")
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as handle:
            handle.write(text)
        staging.replace(path)
    return path
