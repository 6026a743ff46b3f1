"""What one door stands. The command line has an option for each that somebody may have to change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """For all requests of one process."""

    body_bytes: int = 4 * 1024 * 1024
    answer_tokens: int = 32_768
    """Of one sequence."""
    sequences: int = 512
    """At the same time; more are answered with 503."""
    connections: int = 2048
    seconds: float = 600.0
    """For one answer; what the `openai` package waits at most."""
    body_seconds: float = 30.0
    connection_seconds: float = 10.0
    """After which a connection is closed with its next answer: clients find new pods, and leave one that is to end
    while it still answers."""
    idle_seconds: float = 75.0
    """For which a connection may be silent: longer than clients commonly keep one, so that they close first."""
