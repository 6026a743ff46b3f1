"""Whom an engine tells what it does."""

from __future__ import annotations


class Meter:
    """Is told what happens, from several threads. This one counts nothing."""

    def prompt(self, tokens: int) -> None:
        """A prompt was read."""

    def cached(self, tokens: int) -> None:
        """So much of a prompt did not have to be read."""

    def first_token(self, seconds: float) -> None:
        """Since the request came."""

    def next_token(self, seconds: float) -> None:
        """Since the one before."""

    def probed(self) -> None:
        """A request of the agent was answered."""

    def load(self, running: int, waiting: int) -> None:
        """Called again and again."""
