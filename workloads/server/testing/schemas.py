"""What keeping to a JSON schema costs: CPU time to compile it, and for each token, in milliseconds.

    python testing/schemas.py MODEL_DIRECTORY    (in workloads/server, with the Python that `python3 venv.py` prints)

Only the directory's tokenizer is read. The tokens are drawn from those that are allowed, without a model.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

import llguidance.hf
from transformers import AutoTokenizer

from aifactory_server.engines.structure import Structure

TOKENS = 200
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any objects": {"type": "array", "items": {"type": "object"}, "minItems": 50},
    "a person": PERSON,
    "a list of people": {"type": "array", "items": PERSON, "minItems": 50},
    "one of 500 names": {"type": "array", "items": {"enum": [f"name number {n}" for n in range(500)]}, "minItems": 50},
    "a pattern": {
        "type": "array",
        "items": {"type": "string", "pattern": "^([A-Z][a-z]+ ){3}[0-9]{4}$"},
        "minItems": 50,
    },
    "a hard pattern": {"type": "string", "pattern": "^(.*a){20}.{200}$"},
}


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
    started = time.process_time()
    words = llguidance.hf.from_tokenizer(tokenizer)
    print(f"tokenizer of {words.vocab_size} tokens: read in {time.process_time() - started:.2f} s")
    chance = random.Random(0)
    for name, schema in SCHEMAS.items():
        started = time.process_time()
        structure, steps = Structure(words, json.dumps(schema), {tokenizer.eos_token_id}), list[float]()
        compiled = time.process_time() - started
        while len(steps) < TOKENS and not structure.over:
            started = time.process_time()
            try:
                allowed = structure.allowed()
            except RuntimeError as error:
                print(f"{name:18} given up after {len(steps)} tokens, {time.process_time() - started:.2f} s: {error}")
                break
            found = time.process_time() - started
            tokens = [token for token in allowed.nonzero().flatten().tolist() if token != tokenizer.eos_token_id]
            if not tokens:
                break
            token = chance.choice(tokens)
            started = time.process_time()
            structure.take(token)
            steps.append(found + time.process_time() - started)
        print(
            f"{name:18} compiled {compiled * 1000:6.2f}, a token {statistics.median(steps) * 1000:5.2f}, "
            f"the longest {max(steps) * 1000:6.2f}"
        )


if __name__ == "__main__":
    main()
