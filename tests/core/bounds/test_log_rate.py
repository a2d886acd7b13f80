"""What may be said, and how often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bounds.log_rate import LogRate


def test_subject_is_mentioned_once_in_a_period_and_then_with_the_number_of_times_it_was_not() -> None:
    seldom = LogRate(period_s=10)
    assert [seldom.due("a", now) for now in (0, 1, 9.9, 10, 11, 20)] == [0, None, None, 2, None, 1]


def test_each_subject_has_a_line_of_its_own() -> None:
    seldom = LogRate(period_s=10)
    assert [seldom.due(name, 0) for name in "abca"] == [0, 0, 0, None]


def test_subjects_beyond_the_limit_are_counted_and_mentioned_with_the_next_line() -> None:
    seldom = LogRate(period_s=10, subjects=2)
    assert [seldom.due(name, 0) for name in "abcd"] == [0, 0, None, None]
    assert seldom.due("e", 10) == 2


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 3)), max_size=300))
def test_lines_of_a_period_are_bounded_whatever_names_are_invented(said: list[tuple[int, float]]) -> None:
    seldom, now, lines = LogRate(period_s=10, subjects=5), 0.0, []
    for subject, step in said:
        now += step
        if seldom.due(subject, now) is not None:
            lines.append(now)
        assert len(seldom) <= 5
    for start in lines:
        assert len([line for line in lines if start <= line < start + 10]) <= 10
