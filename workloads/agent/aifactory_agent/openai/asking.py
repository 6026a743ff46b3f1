"""From what a client wishes to what the engine is asked, and the pieces of several sequences in one stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from aifactory_agent.openai.answers import CHAT, COMPLETION, ChatChoice, Choice, CompletionChoice, Kind
from aifactory_agent.openai.catalog import Served
from aifactory_agent.openai.engine import STRUCTURE, Engine, Piece, Sequence
from aifactory_agent.openai.errors import ApiError, bad
from aifactory_agent.openai.reasoning import THINK_END, Reasoning
from aifactory_agent.openai.structures import answer_or_calls, one_call
from aifactory_agent.openai.toolcalls import BEGIN, Calls
from aifactory_agent.openai.wishes import ChatWish, CompletionWish, Wish

_DEFAULTS = {"temperature": 1.0}
_QUEUE = 8
"""Pieces that one sequence may be ahead of the client."""


@dataclass(frozen=True)
class Plan:
    """What is asked of the engine for one request."""

    kind: Kind
    wish: Wish
    served: Served
    sequences: tuple[Sequence, ...]
    """Those of one prompt stand together."""
    choices: tuple[Choice, ...]
    """One for each sequence."""
    counted: tuple[int, ...]
    """Tokens of each prompt, as counted here; 0 where only the engine can."""


def plan_chat(asked: ChatWish, served: Served, max_answer: int) -> Plan:
    """Render the conversation. Takes long for long ones. Raises ApiError."""
    text, wish, tools = served.text, asked.wish, asked.tools
    if asked.speaks_of_calls and not text.calls:
        message = f"is not supported by {served.id}: its chat template has no calls in the form of Hermes and Qwen"
        raise bad("tools", f"{message}, the only one known here; leave tools out", "unsupported_parameter")
    given = {"tools": list(tools.given)} if tools else {}
    prompt = text.render(asked.messages, {**asked.arguments, **given})
    inside = text.begins_thinking(prompt)
    structure, must = asked.structure, tools is not None and bool(tools.must)
    if tools:
        # Some models have the tags among their special tokens, which are left out of the text otherwise.
        wish = replace(wish, sampling={**wish.sampling, "skip_special_tokens": False})
        if tools.must:
            structure = one_call(tools.must)
        elif structure is not None:
            structure = answer_or_calls(structure, [tool["function"] for tool in tools.given], tools.several)
    if structure is not None:
        # Triton's back end for vLLM takes it as a string of JSON.
        wish = replace(wish, sampling={**wish.sampling, STRUCTURE: json.dumps(structure)})
    if inside and structure is not None:
        # The schema is for the answer, and holds from the first token on: the reasoning that the prompt opens ends.
        prompt, inside = f"{prompt.rstrip()}\n\n{THINK_END}\n\n", False
    if must:
        prompt += f"{BEGIN}\n"
    choices = [
        ChatChoice(
            index,
            Reasoning(inside) if text.thinks and not must else None,
            Calls(must, None if tools.several else 1, alone=structure is not None) if tools else None,
            wish.logprobs or 0,
        )
        for index in range(wish.choices)
    ]
    return _plan(CHAT, wish, served, [prompt], choices, "messages", max_answer)


def plan_completion(asked: CompletionWish, served: Served, max_answer: int) -> Plan:
    """Take the prompts as they are. Takes long for long ones. Raises ApiError."""
    wish = asked.wish
    choices = [
        CompletionChoice(index, asked.prompts[index // wish.choices] if asked.echo else "", wish.logprobs or 0)
        for index in range(len(asked.prompts) * wish.choices)
    ]
    return _plan(COMPLETION, wish, served, asked.prompts, choices, "prompt", max_answer)


def _plan(
    kind: Kind,
    wish: Wish,
    served: Served,
    prompts: Iterable[str],
    choices: Iterable[Choice],
    field: str,
    max_answer: int,
) -> Plan:
    if wish.logprobs is not None and not served.logprobs:
        message = f"is not supported: the engine of {served.id} tells no log probabilities"
        raise bad("logprobs", message, "unsupported_parameter")
    sequences, counted = [], []
    for prompt in prompts:
        try:
            encoded = prompt.encode()
        except UnicodeEncodeError as error:
            raise bad(field, "has half of a surrogate pair, which is no text") from error
        if not encoded:
            raise bad(field, "is empty: there is nothing to go on from")
        count = served.text.count(prompt)
        sampling = _sampling(
            wish, served, field, len(encoded) if count is None else count, count is not None, max_answer
        )
        for choice in range(wish.choices):
            own = sampling | {"seed": sampling["seed"] + choice} if "seed" in sampling else sampling
            asks = wish.logprobs is not None
            sequences.append(Sequence(served.name, served.version, encoded, own, wish.stream, asks))
        counted.append(count or 0)
    return Plan(kind, wish, served, tuple(sequences), tuple(choices), tuple(counted))


def _sampling(
    wish: Wish, served: Served, field: str, prompt_tokens: int, exact: bool, max_answer: int
) -> dict[str, Any]:
    """The engine's sampling parameters: the client's, else the model's makers', else OpenAI's."""
    sampling: dict[str, Any] = {**_DEFAULTS, **served.text.sampling, **wish.sampling}
    if wish.logprobs is not None:
        sampling["logprobs"] = wish.logprobs
    if served.adapter:
        sampling["lora_name"] = served.adapter
    if wish.max_tokens is not None and wish.max_tokens > max_answer:
        raise bad("max_tokens", f"must be at most {max_answer} here, it is {wish.max_tokens}")
    context = served.text.context
    if context is None:
        sampling["max_tokens"] = wish.max_tokens or max_answer
        return sampling
    # Bytes are at least as many as tokens: without a count an answer may be shorter than it could be, never refused.
    room = context - prompt_tokens
    if exact and (room < 1 or room < (wish.max_tokens or 0)):
        asked = f" and {wish.max_tokens} are asked for" if wish.max_tokens else ""
        message = f"This model's maximum context length is {context} tokens; the {field} has {prompt_tokens}{asked}"
        raise ApiError(400, f"{message}. Shorten it", param=field, code="context_length_exceeded")
    sampling["max_tokens"] = wish.max_tokens or max(1, min(room, max_answer))
    return sampling


async def together(
    engine: Engine, sequences: tuple[Sequence, ...], timeout: float
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of all sequences as they come, each with its sequence's place. Closing it frees them all.

    Raises ApiError if one of them fails.
    """
    if len(sequences) == 1:
        async with aclosing(engine.pieces(sequences[0], timeout)) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue(_QUEUE * len(sequences))

    async def read(place: int, sequence: Sequence) -> None:
        try:
            async with aclosing(engine.pieces(sequence, timeout)) as pieces:
                async for piece in pieces:
                    await queue.put((place, piece))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    loop = asyncio.get_running_loop()
    readers = [loop.create_task(read(place, sequence)) for place, sequence in enumerate(sequences)]
    try:
        left = len(readers)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
