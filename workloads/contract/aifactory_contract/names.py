"""Words that several programs have to spell alike."""

from __future__ import annotations

import re

from aifactory_contract.errors import FactoryError, Reason

CONFIG = "config.json"
"""The file of an artifact that says what it is."""
PROBE_PARAMETER = "aifactory_probe"
"""Request parameter of the agent's own requests, by which it sees whether a version answers; its value is the sign of
the pod (`control.probe_sign`). Back ends answer them first and leave them out of their token counters."""
PROBE_REQUESTS = "aifactory_probe_requests_total"
"""Counter of those requests. Triton counts them like all others; what is left after subtracting came from clients."""
FAILED_REQUESTS = "aifactory_failed_requests_total"
"""Counter of clients' requests that were answered by an error which is no fault of theirs. Triton 2.51 counts what a
Python back end answers as a success, errors too."""
GENERATED_TOKENS = "aifactory_generated_tokens_total"
"""Counter of the tokens that were generated for clients."""
SERVING = "serving.json"
"""On the volume of a serving pod: the agent's note of what runs, for those who have to know it at once."""
ADMISSION = "agent.sock"
"""There too: the agent's socket, where the OpenAI port asks for a request's model, if models are loaded on demand."""
ADMITTED, UNKNOWN, REFUSED = "Admitted", "Unknown", "Refused"
"""What it is told there."""

_MODEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def check_model_name(name: str) -> str:
    """Return the name clients call a model by, if it is one: it becomes a directory in stores and in Triton's volume.

    Raises FactoryError (InvalidArtifact) otherwise.
    """
    if not _MODEL.fullmatch(name) or ".." in name:
        raise FactoryError(Reason.INVALID_ARTIFACT, f"{name!r} is no model name: use a-z, 0-9, '-' and '.'")
    return name
