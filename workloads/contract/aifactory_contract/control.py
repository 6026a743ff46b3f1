"""The key to Triton's control calls (load, unload, shared memory, trace, logging).

Triton has no sandbox: whoever may load a model may run code in the pod. The key is random, lives on the volume that
only Triton and the agent mount, and is made by whichever of the two comes first.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_FILE = "control-key"
RESTRICTION = "aifactory-control"
"""What Triton is told to ask for before it takes a control call; the key is its value."""
HEADER = f"triton-grpc-protocol-{RESTRICTION}"
"""gRPC metadata in which Triton looks for it."""


def control_key(repository: Path) -> str:
    """The pod's key; made now if there is none."""
    repository.mkdir(parents=True, exist_ok=True)
    path = repository / _FILE
    temporary = repository / f".{_FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(24))
    try:
        # A link appears with its contents or not at all, and fails if the other side was first.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_text()
