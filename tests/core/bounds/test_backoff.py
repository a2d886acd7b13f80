"""Pauses double up to their limit, and jitter spreads them."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.bounds.backoff import LONGEST_ASKED_S, Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.pause_s(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_first_pause_is_no_longer_than_the_longest() -> None:
    assert Backoff(5.0, 3.0).pause_s(1) == 3.0


def test_failures_without_end_stay_at_the_longest() -> None:
    assert Backoff(1e-9, 60.0).pause_s(10**9) == pytest.approx(1e-9 * 2**30)
    assert Backoff(0.05, 60.0).pause_s(10**9) == 60.0


def test_jitter_spreads_by_a_quarter_to_either_side() -> None:
    backoff = Backoff(4.0, 8.0)
    assert [backoff.pause_s(1, jitter) for jitter in (0.0, 0.5)] == [3.0, 4.0]
    assert backoff.pause_s(9, 0.999) == pytest.approx(10.0, rel=1e-3)


def test_what_the_other_side_asks_for_is_kept_up_to_a_limit() -> None:
    backoff = Backoff(0.5, 3.0)
    asked = (0.0, 0.4, 120.0, 7200.0)
    assert [backoff.pause_s(1, asked_s=each) for each in asked] == [0.5, 0.5, 120.0, LONGEST_ASKED_S]
