"""The draws repeat for a seed, and are spread as they should be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp.bbr_random import Draws
from tests.long import examples


def test_the_sequence_is_that_of_splitmix64() -> None:
    """The published first outputs for the seed 0."""
    draws = Draws(0)
    assert [draws.bits() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@settings(max_examples=examples(50))
@given(st.integers())
def test_draws_repeat_for_a_seed_and_stay_in_their_ranges(seed: int) -> None:
    first, second = Draws(seed), Draws(seed)
    fractions = [first.fraction() for _ in range(20)]
    assert fractions == [second.fraction() for _ in range(20)]
    assert all(0.0 <= fraction < 1.0 for fraction in fractions)
    assert {first.coin() for _ in range(64)} == {0, 1}


def test_fractions_are_spread_evenly() -> None:
    draws = Draws(7)
    counts = [0] * 10
    for _ in range(10_000):
        counts[int(draws.fraction() * 10)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
