"""What may be said, and how often."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bounds.log_rate import LogRate


def test_subject_is_mentioned_once_in_a_period_and_then_with_the_number_of_times_it_was_not() -> None:
    seldom = LogRate(period_s=10)
    assert [seldom.due("a", now) for now in (0, 1, 9.9, 10, 11, 20)] == [0, None, None, 2, None, 1]


def test_subject_may_have_more_lines_than_one() -> None:
    seldom = LogRate(period_s=10, lines=2)
    assert [seldom.due("a", now) for now in (0, 1, 2, 3, 10, 11, 12)] == [0, 0, None, None, 2, 0, None]


def test_each_subject_has_a_line_of_its_own() -> None:
    seldom = LogRate(period_s=10)
    assert [seldom.due(name, 0) for name in "abca"] == [0, 0, 0, None]


def test_subjects_beyond_the_limit_are_counted_and_mentioned_with_the_next_line() -> None:
    seldom = LogRate(period_s=10, subjects=2)
    assert [seldom.due(name, 0) for name in "abcd"] == [0, 0, None, None]
    assert seldom.due("e", 10) == 2


@pytest.mark.parametrize(
    "flood",
    ["@m{0}:evil.test", "!r{0}:s{0}.evil.test:84", "s{0}.EVIL.test", "!{0}", "@m{0}:[::1]", "!r{0}:a{0}.b.evil.test."],
)
def test_domain_with_many_names_leaves_lines_for_others(flood: str) -> None:
    seldom = LogRate(period_s=10, subjects=50)
    said = [seldom.due(flood.format(number), 0) for number in range(100)]
    assert sum(each is not None for each in said) == 25
    assert [seldom.due(f"@alice:{name}.example", 1) for name in ("a", "b")] == [75, 0]
    assert len(seldom) == 27
    assert sum(seldom.due(flood.format(number), 10.5) is not None for number in range(100, 200)) > 20, (
        "its hour is over"
    )


def test_domain_with_many_names_leaves_lines_for_others_also_where_a_subject_has_several_parts() -> None:
    """A user and what is full or refused: as for events that are dropped, where strangers fill a share each."""
    seldom = LogRate(period_s=10, subjects=50)
    said = [seldom.due((len, f"@m{number}:evil.test", "a.service"), 0) for number in range(100)]
    assert sum(each is not None for each in said) == 25
    assert [seldom.due((len, f"@alice:{name}.example"), 1) for name in ("a", "b")] == [75, 0]
    assert seldom.due(("tuple", 3), 1) == 0


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


def test_what_was_left_unsaid_can_be_taken_when_a_period_is_over() -> None:
    seldom = LogRate(period_s=10, subjects=2)
    for subject, now in (("a", 0), ("a", 1), ("a", 2), ("b", 5), ("c", 6), ("d", 7)):
        seldom.due(subject, now)
    assert seldom.left_out(9.9) == []
    assert seldom.left_out(10) == [("a", 2)]
    assert seldom.left_out(15) == [], "nothing was left out of b, and the period of the others began at 6"
    assert seldom.left_out(16) == [(None, 2)]
    assert seldom.left_out(100) == []


def test_subject_that_is_about_to_be_mentioned_keeps_its_own_count() -> None:
    seldom = LogRate(period_s=10)
    for subject, now in (("a", 0), ("b", 1), ("a", 2), ("b", 3), ("b", 4)):
        seldom.due(subject, now)
    assert seldom.left_out(20, but="a") == [("b", 2)]
    assert seldom.due("a", 20) == 1


def test_everything_that_was_left_unsaid_can_be_taken_at_the_end() -> None:
    seldom = LogRate(period_s=10, subjects=1)
    for subject in "aabc":
        seldom.due(subject, 0)
    assert seldom.left_out(math.inf) == [("a", 1), (None, 2)]
    assert not seldom.knows("a")
    assert not seldom.knows(None)


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 3), st.booleans()), max_size=300))
def test_every_mention_is_made_or_counted_once(said: list[tuple[int, float, bool]]) -> None:
    seldom, now, counted = LogRate(period_s=10, subjects=3), 0.0, 0
    for subject, step, taken in said:
        now += step
        if taken:
            counted += sum(count for _, count in seldom.left_out(now, but=subject))
        unsaid = seldom.due(subject, now)
        counted += 0 if unsaid is None else 1 + unsaid
    assert counted + sum(count for _, count in seldom.left_out(math.inf)) == len(said)
