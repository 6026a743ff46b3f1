"""What the factory tells a training process, as one value.

Role: the only place that knows the names of the environment variables. Without a factory every field has a default
that works on a laptop: checkpoints and output in the current directory, no progress reports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CHECKPOINT_SECONDS = 300.0
TORCHRUN_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Environment:
    """The job as this process sees it.

    Attributes:
        checkpoints: directory of the checkpoints.
        output: directory that is published when the job is done; it appears by one rename.
        attempt: 0 at first, one more after each restart.
        progress_url: where progress goes; None: nowhere.
        token_file: the bearer token for it; read anew for each report, because it is rotated.
        checkpoint_seconds: time between checkpoints.
        grace_seconds: time from SIGTERM to SIGKILL; None where nobody says it.
    """

    checkpoints: Path
    output: Path
    attempt: int
    progress_url: str | None
    token_file: Path | None
    checkpoint_seconds: float
    grace_seconds: float | None = None

    @classmethod
    def read(cls, env: Mapping[str, str] = os.environ) -> Environment:
        """Take the values from AIFACTORY_* variables.

        Raises:
            ValueError: a number is none; the message names the variable.
        """
        token_file = env.get("AIFACTORY_PROGRESS_TOKEN_FILE")
        return cls(
            checkpoints=Path(env.get("AIFACTORY_CHECKPOINTS") or "checkpoints"),
            output=Path(env.get("AIFACTORY_OUTPUT") or "output"),
            attempt=int(_number(env, "AIFACTORY_ATTEMPT", 0)),
            progress_url=env.get("AIFACTORY_PROGRESS_URL") or None,
            token_file=Path(token_file) if token_file else None,
            checkpoint_seconds=_number(env, "AIFACTORY_CHECKPOINT_INTERVAL", DEFAULT_CHECKPOINT_SECONDS),
            grace_seconds=_grace(env),
        )


def _grace(env: Mapping[str, str]) -> float | None:
    """The shorter of what the pod has (AIFACTORY_GRACE) and what torchrun gives its workers before it kills them.

    torchrun: `--shutdown-timeout`, which is PET_SHUTDOWN_TIMEOUT, else TORCH_ELASTIC_SHUTDOWN_TIMEOUT, else 30 s
    (torch/distributed/run.py and launcher/api.py); it sets TORCHELASTIC_RUN_ID for its workers. Without torchrun and
    AIFACTORY_GRACE the time is not known: the pod's may be any.
    """
    known = []
    if env.get("AIFACTORY_GRACE"):
        known.append(_number(env, "AIFACTORY_GRACE", 0))
    if env.get("TORCHELASTIC_RUN_ID"):
        default = _number(env, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TORCHRUN_GRACE_SECONDS)
        known.append(_number(env, "PET_SHUTDOWN_TIMEOUT", default))
    return min(known, default=None)


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, it is {text!r}") from None
