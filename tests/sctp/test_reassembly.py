"""Fragments in any order make the same messages."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp.chunks import BEGINS, ENDS, UNORDERED
from mxrtc_bridge.sctp.events import MessageReceived
from mxrtc_bridge.sctp.reassembly import InStream, Reassembly
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


class Line:
    """A reassembly, and what it hands out when it is asked, which it is at the end or before."""

    def __init__(self, max_message: int = 1000) -> None:
        self._events: deque[MessageReceived | InStream | str] = deque()
        self.reassembly = Reassembly(self._events.append, max_message)
        self.got: list[MessageReceived | str] = []

    def poll(self, count: int = 1 << 30) -> None:
        """Ask for so many messages."""
        for _ in range(count):
            if not self._events:
                return
            event = self._events.popleft()
            if isinstance(event, InStream):
                message = self.reassembly.take(event)
                if event.in_line:
                    self._events.appendleft(event)
                if message is not None:
                    self.got.append(message)
            else:
                self.got.append(event)

    def messages(self) -> list[MessageReceived]:
        """All that has been handed out by the end."""
        self.poll()
        assert self.reassembly.lines == 0
        return [each for each in self.got if isinstance(each, MessageReceived)]

    def reset(self, stream: int) -> None:
        """Reset a stream as an association does it."""
        self.reassembly.reset(stream)
        self._events.append(f"reset {stream}")

    def sweep(self) -> None:
        """Let packets come until nothing that was given up is held."""
        while self.reassembly.leftover:
            self.reassembly.sweep()


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
    line = Line()
    rng.shuffle(fragments.data)
    for piece in fragments.data:
        line.reassembly.add_data(*piece)
        line.poll(rng.randrange(3))
    check(line.messages(), line.reassembly, fragments)


@settings(max_examples=examples(200), deadline=None)
@given(messages, st.randoms(use_true_random=False))
def test_i_data_in_any_order_makes_the_same_messages(plan: list[tuple[int, bool, int]], rng: random.Random) -> None:
    fragments = Fragments(plan)
    line = Line()
    rng.shuffle(fragments.interleaved)
    for piece in fragments.interleaved:
        line.reassembly.add_interleaved(*piece)
        line.poll(rng.randrange(3))
    check(line.messages(), line.reassembly, fragments)


@settings(max_examples=examples(200), deadline=None)
@given(messages, messages, st.randoms(use_true_random=False), st.booleans())
def test_all_of_a_stream_is_handed_out_before_its_reset_and_what_follows_after_it(
    before: list[tuple[int, bool, int]], after: list[tuple[int, bool, int]], rng: random.Random, interleaved: bool
) -> None:
    """Whenever it is asked for: also where the stream still stands in line when it is reset, and new ones come."""
    line, told = Line(), []
    for plan in (before, after):
        fragments = Fragments(plan)
        pieces: list[tuple[object, ...]] = list(fragments.interleaved if interleaved else fragments.data)
        rng.shuffle(pieces)
        add = line.reassembly.add_interleaved if interleaved else line.reassembly.add_data
        for piece in pieces:
            add(*piece)  # type: ignore[operator]
            line.poll(rng.randrange(2))
        for stream in range(3):
            line.reset(stream)
        told.append(fragments)
    assert len(line.messages()) == len(before) + len(after)
    for stream in range(3):
        own = [each for each in line.got if each == f"reset {stream}" or each[0] == stream]
        first = own.index(f"reset {stream}")
        for part, fragments in zip((own[:first], own[first + 1 : -1]), told, strict=True):
            expected = [(ordered, each) for ordered, each in fragments.expected if each.stream == stream]
            assert sorted(map(str, part)) == sorted(str(each) for _, each in expected)
            ordered_ones = [each for ordered, each in expected if ordered]
            assert [each for each in part if each in ordered_ones] == ordered_ones
    line.sweep()
    assert (line.reassembly.held, line.reassembly.fragments) == (0, 0)


def test_more_numbers_than_half_of_all_may_follow_while_a_stream_stands_in_line() -> None:
    """The number of DATA has 16 bits: the next one to be handed out must not decide which message is meant."""
    line = Line()
    count = 32_000
    for number in [*range(1, count), 0, *range(count, 2 * count)]:
        line.reassembly.add_data(number, BEGINS | ENDS, 0, number & 0xFFFF, 53, number.to_bytes(4, "big"))
    assert [int.from_bytes(each.data, "big") for each in line.messages()] == list(range(2 * count))


def test_what_is_whole_is_handed_out_before_messages_behind_it_are_given_up() -> None:
    line = Line()
    for number in (1, 2, 4, 0, 6):
        line.reassembly.add_data(number, BEGINS | ENDS, 0, number, 53, bytes([number]))
    line.reassembly.skip_ordered(0, 5, interleaved=False)
    assert [each.data[0] for each in line.messages()] == [0, 1, 2, 6]
    line.sweep()
    assert (line.reassembly.held, line.reassembly.fragments) == (0, 0)


@settings(max_examples=examples(200), deadline=None)
@given(messages, st.randoms(use_true_random=False), st.floats(0, 1))
def test_reset_and_skip_leave_nothing_behind(
    plan: list[tuple[int, bool, int]], rng: random.Random, share: float
) -> None:
    """Whatever is incomplete when everything is skipped, or reset, is no longer counted."""
    for interleaved in (False, True):
        for skip in (False, True):
            fragments = Fragments(plan)
            line = Line()
            reassembly = line.reassembly
            pieces: list[tuple[object, ...]] = list(fragments.interleaved if interleaved else fragments.data)
            rng.shuffle(pieces)
            for piece in pieces[: int(len(pieces) * share)]:
                (reassembly.add_interleaved if interleaved else reassembly.add_data)(*piece)  # type: ignore[operator]
                line.poll(rng.randrange(2))
            reassembly.skip_loose(2**33)
            for stream in range(3):
                if skip:
                    reassembly.skip_ordered(stream, 50, interleaved=interleaved)
                    for number in range(12):
                        reassembly.skip_unordered(stream, number)
                else:
                    reassembly.reset(stream)
            line.poll()
            line.sweep()
            assert (reassembly.held, reassembly.fragments) == (0, 0)


@pytest.mark.parametrize("backwards", [False, True])
def test_work_for_a_long_message_is_linear(backwards: bool) -> None:
    """A message of many fragments is put together once, in whatever order they come."""
    line = Line(1 << 20)
    numbers = list(range(20_000))
    for number in reversed(numbers) if backwards else numbers:
        flags = (BEGINS if not number else 0) | (ENDS if number == numbers[-1] else 0)
        line.reassembly.add_data(number, flags, 0, 0, 53, number.to_bytes(16, "big"))
    assert line.messages() == [MessageReceived(0, 53, b"".join(number.to_bytes(16, "big") for number in numbers))]
