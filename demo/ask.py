"""Asking a served model as any program would: with the `openai` package, token by token or for a whole answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import openai

from demo.tools import DemoError

ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What came over a stream."""

    model: str
    """As the server calls it: `<name>@<version>`."""
    text: str
    tokens: int
    first_token_at: float
    """Monotonic time of the first piece."""
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole time, the first one's wait included."""
        return self.tokens / self.seconds


def stream(base_url: str, model: str, *, prompt: str, max_tokens: int) -> Answer:
    """One answer, printed piece by piece as it comes.

    Raises:
        DemoError: the server refused, with its words, or fell silent.
    """
    pieces: list[str] = []
    started = time.monotonic()
    first = 0.0
    tokens, answered_by = 0, ""
    print(f"\n    | {prompt}", end="", flush=True)
    try:
        # No key is asked for, but the package wants one. It tries again by itself what passes (docs/openai.md).
        with openai.OpenAI(base_url=base_url, api_key="none", timeout=ANSWER_SECONDS) as client:
            for chunk in client.completions.create(
                model=model,
                prompt=prompt,
                max_tokens=max_tokens,
                temperature=0.7,
                seed=3,
                stream=True,
                stream_options={"include_usage": True},
            ):
                answered_by = chunk.model
                if chunk.usage is not None:
                    tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    first = first or time.monotonic()
                    pieces.append(choice.text)
                    print(choice.text.replace("\n", "\n    | "), end="", flush=True)
    except openai.OpenAIError as error:
        raise DemoError(f"{base_url} does not answer for model {model}: {error}") from error
    print(flush=True)
    if not "".join(pieces):
        raise DemoError(f"model {model} answered with no text")
    return Answer(answered_by, "".join(pieces), tokens, first, time.monotonic() - started)


def chat(base_url: str, model: str, question: str, *, max_tokens: int) -> str:
    """The likeliest answer, all of it on one line.

    Raises:
        DemoError: the server refused, with its words, or fell silent.
    """
    try:
        with openai.OpenAI(base_url=base_url, api_key="none", timeout=ANSWER_SECONDS) as client:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], max_tokens=max_tokens, temperature=0
            )
    except openai.OpenAIError as error:
        raise DemoError(f"{base_url} does not answer for model {model}: {error}") from error
    return " ".join((answer.choices[0].message.content or "").split())
