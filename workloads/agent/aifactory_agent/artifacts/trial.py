"""A program that renders a chat template once, with a chat of one message.

It reads a job from standard input and prints what is wrong, nothing if nothing is. See `chat`, which starts it.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping

from aifactory_agent.templates import compile_template

_MESSAGES = [{"role": "user", "content": "Hello"}]


def render(template: str, tokens: Mapping[str, str]) -> str:
    """The prompt. Raises what Jinja, or the template's own mistakes, raise."""
    values = {"tools": None, "documents": None, "add_generation_prompt": True, **tokens}
    return str(compile_template(template).render(messages=_MESSAGES, **values))


def main() -> None:
    """Read the job, and print what is wrong with its template."""
    job = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    try:
        render(job["template"], job["tokens"])
    except MemoryError:
        print(f"it took more than {job['memory'] >> 20} MiB")
    except Exception as error:  # a template can raise anything
        print(" ".join(f"{type(error).__name__}: {error}".split())[:300])


if __name__ == "__main__":
    main()
