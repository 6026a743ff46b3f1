"""A program that tries once what a serving pod will do with a model's own files: see `aside`, which starts it.

It reads a job from standard input, a line of JSON and then bytes, and prints what is wrong, nothing if nothing is.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any

_TEXT = "Hello"
_MESSAGES = [{"role": "user", "content": _TEXT}]


def render(template: str, tokens: Mapping[str, str]) -> str:
    """The prompt of a chat with one message. Raises what Jinja, or the template's own mistakes, raise."""
    from aifactory_agent.templates import compile_template

    values = {"tools": None, "documents": None, "add_generation_prompt": True, **tokens}
    return str(compile_template(template).render(messages=_MESSAGES, **values))


def tokenize(document: bytes) -> str:
    """A text there and back through the tokenizer of a tokenizer.json. Raises what the library raises."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_buffer(document)
    return str(made.decode(made.encode(_TEXT).ids, skip_special_tokens=False))


def _try(job: Mapping[str, Any], content: bytes) -> None:
    if job["task"] == "render":
        render(content.decode(), job["tokens"])
    else:
        tokenize(content)


def main() -> None:
    """Read the job, and print what is wrong."""
    job = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    try:
        _try(job, sys.stdin.buffer.read())
    except MemoryError:
        print(f"it took more than {job['memory'] >> 20} MiB")
    except Exception as error:  # a template can raise anything
        print(" ".join(f"{type(error).__name__}: {error}".split())[:300])


if __name__ == "__main__":
    main()
