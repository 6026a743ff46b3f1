"""Tokens are chosen as each request asks, whoever is in the batch beside it."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory_server.engines.sampling import Row, Sampling, choose

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])


def tokens(sampling: Sampling, draws: list[float], logits: torch.Tensor = LOGITS, **known: object) -> list[int]:
    chosen = choose(logits.repeat(len(draws), 1), [Row(sampling, draw, **known) for draw in draws])  # type: ignore[arg-type]
    assert None not in chosen
    return [choice.token for choice in chosen if choice]


def test_no_temperature_is_the_likeliest() -> None:
    assert tokens(Sampling(temperature=0.0), [0.0, 0.5, 0.999]) == [0, 0, 0]


def test_draws_follow_the_probabilities() -> None:
    chance = random.Random(1)
    counts = Counter(tokens(Sampling(temperature=0.7), [chance.random() for _ in range(20_000)]))
    expected = (LOGITS / 0.7).softmax(0)
    for token, share in enumerate(expected.tolist()):
        assert counts[token] / 20_000 == pytest.approx(share, abs=0.012)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.6), {0}),  # the likeliest alone has 0.64
        (Sampling(top_p=0.7), {0, 1}),
        (Sampling(top_k=3, top_p=0.9), {0, 1}),  # 0.67 and 0.24 of the three
        (Sampling(min_p=0.2), {0, 1}),
        (Sampling(temperature=0.1, min_p=0.01), {0}),
        (Sampling(), {0, 1, 2, 3, 4}),
        (Sampling(logit_bias={0: -100.0, 1: -100.0}), {2, 3, 4}),
    ],
)
def test_only_what_the_filters_leave_can_come(sampling: Sampling, possible: set[int]) -> None:
    assert set(tokens(sampling, [(number + 0.5) / 2000 for number in range(2000)])) == possible


@pytest.mark.parametrize(
    "sampling", [Sampling(top_p=0.9), Sampling(top_p=0.2), Sampling(min_p=0.3), Sampling(top_k=2000)]
)
def test_a_large_vocabulary_is_not_cut_at_the_first_thousand(sampling: Sampling) -> None:
    """The same tokens as by sorting all of it."""
    torch.manual_seed(0)
    logits = torch.randn(5000)
    ordered, order = logits.sort(descending=True)
    if sampling.top_k:
        ordered[sampling.top_k :] = -torch.inf
    probabilities = ordered.double().softmax(0)
    kept = probabilities.cumsum(0) - probabilities < sampling.top_p
    kept &= probabilities >= sampling.min_p * probabilities[0]
    sums = (probabilities * kept).cumsum(0)
    draws = [number / 97 for number in range(97)]
    expected = [int(order[int(torch.searchsorted(sums, draw * sums[-1], right=True))]) for draw in draws]
    assert tokens(sampling, draws, logits) == expected


@pytest.mark.parametrize("size", [1, 5, 256, 257, 5000])
def test_a_draw_is_where_the_sum_of_the_probabilities_passes_it(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(size) * 2
    sums = logits.double().softmax(0).cumsum(0)
    draws = [(number + 0.5) / 501 for number in range(501)]
    expected = torch.searchsorted(sums, torch.tensor(draws).double() * sums[-1], right=True).tolist()
    found = tokens(Sampling(), draws, logits)
    # float32 and float64 may differ at the very edge of a token.
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1


def test_penalties_count_what_was_said() -> None:
    said = {"prompt": [1], "generated": [0, 0, 1]}
    assert tokens(Sampling(temperature=0, presence_penalty=0.9), [0.0], **said) == [0]
    assert tokens(Sampling(temperature=0, presence_penalty=1.9), [0.0], **said) == [0]  # 0.1, -0.9, 0.0
    assert tokens(Sampling(temperature=0, frequency_penalty=1.2), [0.0], **said) == [2]  # -0.4, -0.2, 0.0
    assert tokens(Sampling(temperature=0, repetition_penalty=3.0), [0.0], prompt=[0]) == [1]
    assert tokens(Sampling(temperature=0, repetition_penalty=3.0), [0.0], logits=-LOGITS.flip(0), prompt=[0]) == [0]


def test_a_banned_token_does_not_come() -> None:
    assert tokens(Sampling(temperature=0), [0.0], banned=[0, 1]) == [2]


def test_log_probabilities_are_the_models_own() -> None:
    asked = Sampling(temperature=0.0, logprobs=2, logit_bias={3: 100.0})
    (choice,) = choose(LOGITS.repeat(1, 1), [Row(asked, 0.0)])
    expected = LOGITS.log_softmax(0)
    assert choice is not None
    assert [(one.token, one.rank) for one in choice.logprobs] == [(3, 4), (0, 1), (1, 2)]
    for one in choice.logprobs:
        assert one.logprob == pytest.approx(float(expected[one.token]), abs=1e-6)


def test_rows_that_are_no_numbers_get_no_token_and_the_others_do() -> None:
    rows = torch.stack([LOGITS, torch.full((5,), math.nan), LOGITS, torch.tensor([0.0, math.inf, 0.0, 0.0, 0.0])])
    chosen = choose(
        rows, [Row(Sampling(top_p=0.9), 0.5), Row(Sampling(top_p=0.9), 0.5), Row(Sampling(), 0.5), Row(Sampling(), 0.5)]
    )
    assert [choice is None for choice in chosen] == [False, True, False, True]


_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-4, 0.5, 1.0, 100.0]),
    top_p=st.sampled_from([1e-6, 0.3, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 10_000]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    presence_penalty=st.sampled_from([0.0, 2.0]),
    frequency_penalty=st.sampled_from([0.0, -2.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(_SAMPLINGS, st.floats(0, 1, exclude_max=True), st.lists(st.integers(0, 29), max_size=8)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 1000),
)
def test_a_row_is_chosen_as_if_it_were_alone(rows: list[tuple[Sampling, float, list[int]]], seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(len(rows), 30) * 3
    wanted = [Row(sampling, draw, prompt=said, generated=said[:4]) for sampling, draw, said in rows]
    alone = [choose(logits[index : index + 1].clone(), [row])[0] for index, row in enumerate(wanted)]
    assert choose(logits.clone(), wanted) == alone
    assert None not in alone
