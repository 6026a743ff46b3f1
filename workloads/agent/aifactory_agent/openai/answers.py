"""The bodies of answers: OpenAI's objects, whole and in chunks.

A stream's chunks are all alike but for the text, so everything around it is made once: the door is to write thousands
of them a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aifactory_agent.openai.engine import Piece, Token
from aifactory_agent.openai.reasoning import Reasoning
from aifactory_agent.openai.toolcalls import Call, Calls

DONE = b"data: [DONE]\n\n"
_LEAST_LOGPROB = -9999.0
"""JSON has no infinity."""


class Usage:
    """Tokens of one request, as the engine counts them.

    Args:
        counted: of each prompt, as counted here, in case the engine does not tell.
        choices: for each prompt.
    """

    def __init__(self, counted: Iterable[int], choices: int) -> None:
        self._prompts = list(counted)
        self._choices = choices
        self._completion = 0

    def add(self, place: int, piece: Piece) -> None:
        """Take up a piece of the sequence at this place."""
        self._completion += piece.tokens
        if piece.prompt_tokens is not None:
            self._prompts[place // self._choices] = piece.prompt_tokens

    def as_json(self) -> dict[str, int]:
        """OpenAI's `usage`; a prompt counts once, however many choices it has."""
        prompt, completion = sum(self._prompts), self._completion
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True)
class Kind:
    """OpenAI's names for the objects of one route."""

    prefix: str
    whole: str
    chunk: str


CHAT = Kind("chatcmpl", "chat.completion", "chat.completion.chunk")
COMPLETION = Kind("cmpl", "text_completion", "text_completion")


@dataclass(frozen=True)
class Head:
    """What every object of one answer begins with."""

    kind: Kind
    id: str
    created: int
    model: str


class Chunks:
    """Writes the chunks of one stream.

    Args:
        head: what they begin with.
        usage: whether each says that its usage is null, because a last one tells it.
    """

    def __init__(self, head: Head, usage: bool) -> None:
        start = json.dumps({"id": head.id, "object": head.kind.chunk, "created": head.created, "model": head.model})
        self._start = f'data: {start[:-1]}, "system_fingerprint": null, "choices": ['
        self._end = '], "usage": null}\n\n' if usage else "]}\n\n"

    def delta(self, index: int, delta: Mapping[str, Any], finish: str = "", logprobs: Any = None) -> bytes:
        """A chunk of a chat."""
        return self._chunk(index, f'"delta": {json.dumps(delta)}', finish, logprobs)

    def text(self, index: int, text: str, finish: str = "", logprobs: Any = None) -> bytes:
        """A chunk of a completion."""
        return self._chunk(index, f'"text": {json.dumps(text)}', finish, logprobs)

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, which tells the usage and has no choice."""
        return f'{self._start}], "usage": {json.dumps(usage.as_json())}}}\n\n'.encode()

    def _chunk(self, index: int, part: str, finish: str, logprobs: Any) -> bytes:
        told = json.dumps(logprobs) if logprobs is not None else "null"
        reason = f'"{finish}"' if finish else "null"
        end = f', "logprobs": {told}, "finish_reason": {reason}}}{self._end}'
        return f'{self._start}{{"index": {index}, {part}{end}'.encode()


class Choice(Protocol):
    """One choice of an answer, as far as it has come."""

    def begin(self, chunks: Chunks) -> bytes:
        """What a stream of it begins with."""

    def told(self, piece: Piece, chunks: Chunks) -> bytes:
        """The chunks of a piece; none if it tells nothing yet."""

    def add(self, piece: Piece) -> None:
        """Take a piece into the whole answer."""

    def as_json(self) -> dict[str, Any]:
        """The choice of a whole answer."""


@dataclass
class ChatChoice:
    """A choice of a chat.

    Args:
        index: which one.
        reasoning: what tells its reasoning from its answer; None: the model does not think.
        calls: what tells calls of tools from its text; None: there is nothing to call.
        alternatives: to tell for each token, where log probabilities are asked for.
    """

    index: int
    reasoning: Reasoning | None = None
    calls: Calls | None = None
    alternatives: int = 0
    _thought: list[str] = field(default_factory=list)
    _answer: list[str] = field(default_factory=list)
    _called: list[Call] = field(default_factory=list)
    _logprobs: list[Token] | None = None
    _finish: str = ""

    def begin(self, chunks: Chunks) -> bytes:
        """Whose words follow."""
        return chunks.delta(self.index, {"role": "assistant", "content": ""})

    def told(self, piece: Piece, chunks: Chunks) -> bytes:
        """Reasoning, answer, calls and end, each in a chunk of its own."""
        thought, answer, calls = self._split(piece)
        logprobs = chat_logprobs(piece.logprobs, self.alternatives)
        told = b""
        if thought:
            told += chunks.delta(self.index, {"reasoning_content": thought}, logprobs=logprobs)
            logprobs = None
        if answer or logprobs:
            told += chunks.delta(self.index, {"content": answer}, logprobs=logprobs)
        for call in calls:
            delta = {"index": len(self._called), **call.as_json()}
            told += chunks.delta(self.index, {"tool_calls": [delta]})
            self._called.append(call)
        if piece.finish:
            told += chunks.delta(self.index, {}, self._reason(piece.finish))
        return told

    def add(self, piece: Piece) -> None:
        """Take a piece into the whole answer."""
        thought, answer, calls = self._split(piece)
        self._thought.append(thought)
        self._answer.append(answer)
        self._called += calls
        self._finish = piece.finish or self._finish
        if piece.logprobs is not None:
            self._logprobs = [*(self._logprobs or ()), *piece.logprobs]

    def as_json(self) -> dict[str, Any]:
        """The choice of a whole answer."""
        content: str | None = "".join(self._answer)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self._called:
            message |= {"content": content or None, "tool_calls": [call.as_json() for call in self._called]}
        if self.reasoning is not None:
            message["reasoning_content"] = "".join(self._thought) or None
        logprobs, finish = chat_logprobs(self._logprobs, self.alternatives), self._reason(self._finish or "stop")
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def _reason(self, finish: str) -> str:
        return "tool_calls" if self._called and finish == "stop" else finish

    def _split(self, piece: Piece) -> tuple[str, str, list[Call]]:
        thought, answer, calls = "", piece.text, list[Call]()
        if self.reasoning is not None:
            thought, answer = self.reasoning.feed(answer)
            if piece.finish:
                more = self.reasoning.end()
                thought, answer = thought + more[0], answer + more[1]
        if self.calls is not None:
            answer, calls = self.calls.feed(answer)
            if piece.finish:
                last, ended = self.calls.end()
                answer, calls = answer + last, calls + ended
        return thought, answer, calls


@dataclass
class CompletionChoice:
    """A choice of a completion.

    Args:
        index: which one.
        echo: the prompt, where it is to come before the text.
        alternatives: to tell for each token, where log probabilities are asked for.
    """

    index: int
    echo: str = ""
    alternatives: int = 0
    _text: list[str] = field(default_factory=list)
    _length: int = 0
    _logprobs: list[Token] | None = None
    _finish: str = ""

    def begin(self, chunks: Chunks) -> bytes:
        """The echo."""
        return chunks.text(self.index, self.echo) if self.echo else b""

    def told(self, piece: Piece, chunks: Chunks) -> bytes:
        """Text and end in one chunk."""
        logprobs = completion_logprobs(piece.logprobs, self.alternatives, self._length)
        self._length += len(piece.text)
        if not piece.text and not piece.finish and not piece.logprobs:
            return b""
        return chunks.text(self.index, piece.text, piece.finish, logprobs)

    def add(self, piece: Piece) -> None:
        """Take a piece into the whole answer."""
        self._text.append(piece.text)
        self._finish = piece.finish or self._finish
        if piece.logprobs is not None:
            self._logprobs = [*(self._logprobs or ()), *piece.logprobs]

    def as_json(self) -> dict[str, Any]:
        """The choice of a whole answer."""
        logprobs = completion_logprobs(self._logprobs, self.alternatives, 0)
        text = self.echo + "".join(self._text)
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": self._finish or "stop"}


def whole(head: Head, choices: Iterable[Mapping[str, Any]], usage: Usage) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": head.id,
        "object": head.kind.whole,
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
        "usage": usage.as_json(),
        "system_fingerprint": None,
    }


def error_chunk(body: Mapping[str, Any]) -> bytes:
    """An error that comes when the stream has begun; the `openai` package raises it."""
    return f"data: {json.dumps(body)}\n\n".encode()


def chat_logprobs(tokens: list[Token] | None, alternatives: int) -> dict[str, Any] | None:
    """OpenAI's `logprobs` of a chat's choice."""
    if tokens is None:
        return None

    def told(one: Mapping[str, Any]) -> dict[str, Any]:
        text = _token(one)
        return {"token": text, "logprob": _logprob(one), "bytes": list(text.encode())}

    content = [
        {**told(token[0]), "top_logprobs": [told(one) for one in _best(token, alternatives)]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: list[Token] | None, alternatives: int, offset: int) -> dict[str, Any] | None:
    """OpenAI's `logprobs` of a completion's choice; `offset` is where its text begins."""
    if tokens is None:
        return None
    texts = [_token(token[0]) for token in tokens]
    offsets = [offset]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [_logprob(token[0]) for token in tokens],
        "top_logprobs": [{_token(one): _logprob(one) for one in _best(token, alternatives)} for token in tokens],
        "text_offset": offsets[:-1],
    }


def _best(token: Token, alternatives: int) -> list[Mapping[str, Any]]:
    ranked = sorted(token, key=lambda one: one.get("rank") or 0)
    return ranked[:alternatives]


def _token(one: Mapping[str, Any]) -> str:
    return str(one.get("decoded_token") or "")


def _logprob(one: Mapping[str, Any]) -> float:
    # max() with NaN first would keep it; JSON has none either.
    value = float(one.get("logprob") or 0.0)
    return value if value > _LEAST_LOGPROB else _LEAST_LOGPROB
