"""JSON that somebody else wrote: whatever is in it, reading it ends with a value or a ValueError.

json.loads alone also raises RecursionError, when brackets are nested a thousand deep; a caller that expects ValueError
only would answer "unexpected failure" to a file that is simply no good.
"""

from __future__ import annotations

import json
from typing import Any


def parse_json(raw: bytes | str) -> Any:
    """The document. Raises ValueError, with words for a person. The caller bounds the size."""
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding}") from error
