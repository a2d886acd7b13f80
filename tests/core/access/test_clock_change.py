"""Ends by two clocks: whichever comes first, whatever the wall clock is set to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.clock_change import SET_TOLERANCE_MS, Deadlines, Moment, SteadyTime, set_by_ms

NOON = Moment(1_000_000, 500)


def later(wall: int, elapsed: int) -> Moment:
    return Moment(NOON.wall_ms + wall, NOON.elapsed_ms + elapsed)


def test_clock_that_is_set_by_more_than_the_tolerance_is_noticed() -> None:
    limit = SET_TOLERANCE_MS
    assert [set_by_ms(NOON, later(2000 + by, 2000)) for by in (-limit - 1, -limit, 0, limit, limit + 1)] == [
        -limit - 1, 0, 0, 0, limit + 1,
    ]  # fmt: skip


def test_sleep_of_the_machine_is_no_change_of_the_clock() -> None:
    assert set_by_ms(NOON, later(8 * 3600_000, 8 * 3600_000)) == 0


def test_end_counts_at_the_time_that_was_named() -> None:
    ends: Deadlines[int] = Deadlines()
    ends.add(1, NOON.wall_ms + 100, NOON)
    assert (ends.take_ended(later(99, 99)), ends.next_in_ms(later(99, 99))) == ([], 1)
    assert (ends.take_ended(later(100, 100)), ends.next_in_ms(later(100, 100))) == ([1], None)
    assert ends.take_ended(later(100, 100)) == []


def test_clock_that_is_set_forward_ends_at_once_and_back_ends_no_later() -> None:
    ends: Deadlines[int] = Deadlines()
    ends.add(1, NOON.wall_ms + 100, NOON)
    ends.add(2, NOON.wall_ms + 9000, NOON)
    assert ends.take_ended(later(5000, 10)) == [1]
    assert ends.take_ended(later(-5000, 8999)) == []
    assert ends.take_ended(later(-5000, 9000)) == [2]


def test_what_is_added_after_the_clock_was_set_has_its_whole_length() -> None:
    ends: Deadlines[int] = Deadlines()
    now = later(-5000, 10)
    ends.add(1, now.wall_ms + 100, now)
    assert ends.take_ended(Moment(now.wall_ms + 99, now.elapsed_ms + 99)) == []


def test_what_was_taken_back_is_forgotten_and_keeps_no_room() -> None:
    ends: Deadlines[int] = Deadlines()
    for number in range(1000):
        ends.add(number, NOON.wall_ms + 1000 + number, NOON)
        ends.discard(number)
    ends.discard(5)
    assert ends.next_in_ms(NOON) is None
    for number in range(1000):
        ends.add(number, NOON.wall_ms + 1000 + number, NOON)
        ends.discard(number)
        assert len(ends) < 200
    assert ends.take_ended(later(10_000, 0)) == []


STEPS = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 20)), max_size=30)
"""By how much the clock is set, and how much time passes then."""


@given(steps=STEPS, length=st.integers(0, 60))
def test_no_setting_of_the_clock_lengthens_anything(steps: list[tuple[int, int]], length: int) -> None:
    ends: Deadlines[int] = Deadlines()
    ends.add(1, NOON.wall_ms + length, NOON)
    steady, now, gone = SteadyTime(NOON), NOON, False
    expected = False
    for by, passes in steps:
        now = Moment(now.wall_ms + by + passes, now.elapsed_ms + passes)
        expected = expected or now.wall_ms >= NOON.wall_ms + length or now.elapsed_ms - NOON.elapsed_ms >= length
        gone = gone or ends.take_ended(now) == [1]
        assert gone == expected
        assert steady.now_ms(now) >= max(now.wall_ms, NOON.wall_ms + now.elapsed_ms - NOON.elapsed_ms)


@given(steps=STEPS, lengths=st.dictionaries(st.integers(0, 9), st.integers(0, 60)), out=st.sets(st.integers(0, 9)))
def test_deadlines_agree_with_a_walk_over_all_of_them(
    steps: list[tuple[int, int]], lengths: dict[int, int], out: set[int]
) -> None:
    ends: Deadlines[int] = Deadlines()
    for key, length in lengths.items():
        ends.add(key, NOON.wall_ms + length, NOON)
    for key in out:
        ends.discard(key)
    alive = {key: length for key, length in lengths.items() if key not in out}
    now = NOON
    for by, passes in steps:
        now = Moment(now.wall_ms + by + passes, now.elapsed_ms + passes)
        wall, elapsed = now.wall_ms - NOON.wall_ms, now.elapsed_ms - NOON.elapsed_ms
        over = {key for key, length in alive.items() if length <= max(wall, elapsed)}
        assert set(ends.take_ended(now)) == over
        alive = {key: length for key, length in alive.items() if key not in over}
        left = min((length - max(wall, elapsed) for length in alive.values()), default=None)
        assert ends.next_in_ms(now) == left
