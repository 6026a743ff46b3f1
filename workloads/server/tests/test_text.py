"""Text leaves whole: no half character, nothing of a stop string, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory_server.causal_lm.request import BadRequest, read_request
from aifactory_server.causal_lm.text import TextStream

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


def test_a_request_has_defaults_and_limits() -> None:
    request = read_request({"text_input": [b"hi"]}, {})
    assert (request.prompt, request.max_tokens, request.temperature, request.seed) == (b"hi", 16, 1.0, None)
    whole = {"text_input": [b"hi"], "max_tokens": [5], "temperature": [0.5], "seed": [2**64 - 1], "stream": [True]}
    request = read_request({**whole, "stop": [b"\n", "é".encode()]}, {"triton_x": 1})
    assert request.seed == 2**63 - 1
    assert request.stops == ("\n", "é")
    assert request.stream
    assert not request.probe
    assert read_request({"text_input": [b"x"]}, {"aifactory_probe": "sign"}, probe=True).probe


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "text_input is missing"),
        ({"text_input": [b"a", b"b"]}, "one value"),
        ({"max_tokens": [0]}, "max_tokens must be from 1 to 65536, it is 0"),
        ({"max_tokens": [10**6]}, "max_tokens"),
        ({"temperature": [-0.1]}, "temperature must be from 0"),
        ({"temperature": [float("nan")]}, "temperature"),
        ({"stop": [b""]}, "stop string"),
        ({"stop": [b"x" * 257]}, "stop string"),
        ({"stop": [b"x"] * 17}, "stop takes up to 16"),
        ({"stop": [b"\xff"]}, "UTF-8"),
    ],
)
def test_a_bad_request_is_told_what_to_write(inputs: dict[str, list[object]], words: str) -> None:
    given_inputs = inputs if "text_input" in inputs or not inputs else {"text_input": [b"x"], **inputs}
    with pytest.raises(BadRequest, match=words):
        read_request(given_inputs, {})


def test_an_unknown_parameter_is_not_swallowed() -> None:
    with pytest.raises(BadRequest, match="top_p is not known; this model takes text_input, max_tokens"):
        read_request({"text_input": [b"x"]}, {"top_p": 0.9})
    with pytest.raises(BadRequest, match="aifactory_probe is not known"):
        read_request({"text_input": [b"x"]}, {"aifactory_probe": True})
