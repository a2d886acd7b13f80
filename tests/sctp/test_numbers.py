"""Sequence numbers and sets of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.sctp.numbers import Ranges, unwrap, unwrap16

small = st.integers(0, 60)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**31), 2**31 - 1))
def test_unwrap_finds_the_nearest_number(near: int, distance: int) -> None:
    assert unwrap(near + distance & 0xFFFFFFFF, near) == near + distance


@given(st.integers(-(2**40), 2**40), st.integers(-(2**15), 2**15 - 1))
def test_unwrap16_finds_the_nearest_number(near: int, distance: int) -> None:
    assert unwrap16(near + distance & 0xFFFF, near) == near + distance


def contents(ranges: Ranges) -> set[int]:
    """Return the numbers in ``ranges``, which must be sorted, disjoint and not adjacent."""
    assert len(ranges.starts) == len(ranges.ends)
    for start, end in zip(ranges.starts, ranges.ends, strict=True):
        assert start <= end
    for end, start in zip(ranges.ends, ranges.starts[1:], strict=False):
        assert end + 1 < start
    return {number for start, end in zip(ranges.starts, ranges.ends, strict=True) for number in range(start, end + 1)}


@given(st.lists(st.one_of(small, st.tuples(small, small), st.tuples(st.just("drop"), small)), max_size=30))
def test_ranges_are_a_set(steps: list[object]) -> None:
    """Adding numbers and ranges, and dropping from below, does what a set does."""
    ranges, model = Ranges(), set[int]()
    for step in steps:
        if isinstance(step, int):
            assert ranges.add(step) == (step not in model)
            model.add(step)
        elif isinstance(step, tuple) and step[0] == "drop":
            number = int(step[1])
            if number % 2:
                last = number
                while last + 1 in model:
                    last += 1
                assert ranges.drop_to(number) == last
                number = last
            else:
                ranges.discard_to(number)
            model = {each for each in model if each > number}
        elif isinstance(step, tuple):
            start, end = sorted(step)
            missing = [each for first, last in ranges.add_range(start, end) for each in range(first, last + 1)]
            assert missing == [each for each in range(start, end + 1) if each not in model]
            model.update(range(start, end + 1))
        assert contents(ranges) == model
        assert len(ranges) == len(ranges.starts)
    assert all((number in ranges) == (number in model) for number in range(-1, 62))
