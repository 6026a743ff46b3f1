"""Text leaves whole: no half character, nothing of a stop string, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory_server.causal_lm.request import BadRequest, Request, request_of
from aifactory_server.causal_lm.text import TextStream
from aifactory_server.engines.request import Request as Full
from aifactory_server.engines.sampling import Sampling

chunks = st.lists(st.binary(max_size=3), max_size=30)
some_text = st.text(alphabet="ab→é\n", max_size=40)
stops = st.lists(st.text(alphabet="ab→é\n", min_size=1, max_size=4), max_size=3)


def pieces(stream: TextStream, data: bytes) -> list[str]:
    """Byte by byte, as the engine does."""
    out = []
    for byte in data:
        out.append(stream.push(bytes([byte])))
        if stream.stopped:
            return out
    return [*out, stream.finish()]


def expected(text: str, wanted: list[str]) -> str:
    """The text up to the first stop string that is complete, which may begin later than another that is not yet."""
    for end in range(len(text) + 1):
        hits = [text.find(stop, 0, end) for stop in wanted]
        if any(hit >= 0 for hit in hits):
            return text[: min(hit for hit in hits if hit >= 0)]
    return text


@given(chunks)
def test_any_bytes_become_the_text_that_decoding_them_at_once_gives(parts: list[bytes]) -> None:
    data = b"".join(parts)
    stream = TextStream()
    assert "".join(stream.push(part) for part in parts) + stream.finish() == data.decode("utf-8", "replace")


@given(some_text)
def test_no_piece_has_half_a_character(text: str) -> None:
    for piece in pieces(TextStream(), text.encode()):
        assert "\ufffd" not in piece


@given(some_text, stops)
def test_ends_before_the_first_stop_string(text: str, wanted: list[str]) -> None:
    stream = TextStream(wanted)
    assert "".join(pieces(stream, text.encode())) == expected(text, wanted)
    assert stream.stopped == any(stop in text for stop in wanted)


def test_holds_back_only_what_may_become_a_stop_string() -> None:
    stream = TextStream(["\n\n"])
    assert [stream.push(b"a"), stream.push(b"\n"), stream.push(b"b"), stream.push(b"\n")] == ["a", "", "\nb", ""]
    assert stream.finish() == "\n"


def test_a_request_is_what_the_small_engine_takes() -> None:
    full = Full("hé", max_tokens=5, stop=("\n",), seed=2**64 - 1, sampling=Sampling(temperature=0.5), probe=True)
    assert request_of(full) == Request("hé".encode(), 5, 0.5, 2**63 - 1, ("\n",), True)
    assert request_of(Full("x")) == Request(b"x")


@pytest.mark.parametrize(
    ("full", "words"),
    [
        (
            Full("x", sampling=Sampling(top_p=0.9)),
            "top_p is not known to the engine of this model; it takes max_tokens",
        ),
        (Full("x", sampling=Sampling(logprobs=0)), "logprobs is not known"),
        (Full("x", min_tokens=1), "min_tokens is not known"),
        (Full("x", ignore_eos=True), "ignore_eos is not known"),
        (Full("x", max_tokens=10**6), "max_tokens must be from 1 to 65536"),
    ],
)
def test_what_it_can_not_do_is_refused_by_name(full: Full, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        request_of(full)
