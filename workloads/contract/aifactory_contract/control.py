"""The key to Triton's control calls (load, unload, shared memory, trace, logging), and the sign of the agent's probes.

Triton has no sandbox: whoever may load a model may run code in the pod. The key is random, lives on the volume that
only Triton and the agent mount, and is made by whichever of the two comes first. The sign is made of the key, which can
not be computed back from it: requests may be seen by more people than the volume.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aifactory_contract.names import PROBE_PARAMETER

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


def probe_sign(repository: Path) -> str:
    """What the agent puts into PROBE_PARAMETER, and what no client of the pod can know."""
    return hmac.new(control_key(repository).encode(), PROBE_PARAMETER.encode(), hashlib.sha256).hexdigest()


def is_probe(parameters: Mapping[str, Any], sign: str) -> bool:
    """Whether a request with these parameters comes from the agent."""
    given = parameters.get(PROBE_PARAMETER)
    return isinstance(given, str) and hmac.compare_digest(given.encode(errors="replace"), sign.encode())
