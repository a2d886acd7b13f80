"""Fragments in any order make the same messages."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp.chunks import BEGINS, ENDS, UNORDERED
from mxrtc_bridge.sctp.events import MessageReceived
from mxrtc_bridge.sctp.reassembly import Reassembly
from tests.long import examples

messages = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 6)), min_size=1, max_size=12
)  # stream, ordered, fragments


class Fragments:
    """Messages cut into fragments of three bytes, as a sender would number them."""

    def __init__(self, plan: list[tuple[int, bool, int]]) -> None:
        self.data: list[tuple[int, int, int, int, int, bytes]] = []
        self.interleaved: list[tuple[int, int, int, int, bytes]] = []
        self.expected: list[tuple[bool, MessageReceived]] = []
        tsn, numbers = 2**32 - 3, dict[tuple[int, bool], int]()
        for index, (stream, ordered, count) in enumerate(plan):
            number = numbers.get((stream, ordered), 0)
            numbers[stream, ordered] = number + 1
            pieces = [bytes([index, part, 7]) for part in range(count)]
            self.expected.append((ordered, MessageReceived(stream, index, b"".join(pieces))))
            for part, piece in enumerate(pieces):
                flags = (BEGINS if not part else 0) | (ENDS if part == count - 1 else 0) | (0 if ordered else UNORDERED)
                self.data.append((tsn, flags, stream, number & 0xFFFF, index, piece))
                self.interleaved.append((flags, stream, number, part if part else index, piece))
                tsn += 1


def check(got: list[MessageReceived], reassembly: Reassembly, fragments: Fragments) -> None:
    assert sorted(got) == sorted(message for _, message in fragments.expected)
    for stream in range(3):
        own = [message for message in got if message.stream == stream]
        ordered = [message for is_ordered, message in fragments.expected if is_ordered and message.stream == stream]
        assert [message for message in own if message in ordered] == ordered
    assert (reassembly.held, reassembly.fragments) == (0, 0)
    assert reassembly.unconsumed == sum(len(message.data) for message in got)


@settings(max_examples=examples(200), deadline=None)
@given(messages, st.randoms(use_true_random=False))
def test_data_in_any_order_makes_the_same_messages(plan: list[tuple[int, bool, int]], rng: random.Random) -> None:
    fragments = Fragments(plan)
    got: list[MessageReceived] = []
    reassembly = Reassembly(got.append, 1000)
    rng.shuffle(fragments.data)
    for piece in fragments.data:
        reassembly.add_data(*piece)
    check(got, reassembly, fragments)


@settings(max_examples=examples(200), deadline=None)
@given(messages, st.randoms(use_true_random=False))
def test_i_data_in_any_order_makes_the_same_messages(plan: list[tuple[int, bool, int]], rng: random.Random) -> None:
    fragments = Fragments(plan)
    got: list[MessageReceived] = []
    reassembly = Reassembly(got.append, 1000)
    rng.shuffle(fragments.interleaved)
    for piece in fragments.interleaved:
        reassembly.add_interleaved(*piece)
    check(got, reassembly, fragments)


@settings(max_examples=examples(200), deadline=None)
@given(messages, st.randoms(use_true_random=False), st.floats(0, 1))
def test_reset_and_skip_leave_nothing_behind(
    plan: list[tuple[int, bool, int]], rng: random.Random, share: float
) -> None:
    """Whatever is incomplete when everything is skipped, or reset, is no longer counted."""
    for interleaved in (False, True):
        for skip in (False, True):
            fragments = Fragments(plan)
            reassembly = Reassembly(lambda message: None, 1000)
            pieces: list[tuple[object, ...]] = list(fragments.interleaved if interleaved else fragments.data)
            rng.shuffle(pieces)
            for piece in pieces[: int(len(pieces) * share)]:
                (reassembly.add_interleaved if interleaved else reassembly.add_data)(*piece)  # type: ignore[operator]
            reassembly.skip_loose(0, 2**33)
            for stream in range(3):
                if skip:
                    reassembly.skip_ordered(stream, 50, interleaved=interleaved)
                    for number in range(12):
                        reassembly.skip_unordered(stream, number)
                else:
                    reassembly.reset(stream)
            assert (reassembly.held, reassembly.fragments) == (0, 0)


@pytest.mark.parametrize("backwards", [False, True])
def test_work_for_a_long_message_is_linear(backwards: bool) -> None:
    """A message of many fragments is put together once, in whatever order they come."""
    got: list[MessageReceived] = []
    reassembly = Reassembly(got.append, 1 << 20)
    numbers = list(range(20_000))
    for number in reversed(numbers) if backwards else numbers:
        flags = (BEGINS if not number else 0) | (ENDS if number == numbers[-1] else 0)
        reassembly.add_data(number, flags, 0, 0, 53, number.to_bytes(16, "big"))
    assert got == [MessageReceived(0, 53, b"".join(number.to_bytes(16, "big") for number in numbers))]
