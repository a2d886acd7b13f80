"""The queue of unwritten bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sinks.buffer import JOIN_UP_TO, MAX_PIECES, WriteBuffer

SIZES = st.sampled_from([0, 1, 2, 100, 16384, JOIN_UP_TO - 1, JOIN_UP_TO, JOIN_UP_TO + 1])


@given(st.lists(st.tuples(SIZES, st.floats(0, 1)), max_size=12))
def test_buffer_gives_back_what_it_got_in_order(steps: list[tuple[int, float]]) -> None:
    buffer = WriteBuffer(10_000_000)
    given_, taken = bytearray(), bytearray()
    for number, (size, share) in enumerate(steps):
        data = bytes([number]) * size
        buffer.append(data)
        given_ += data
        out = b"".join(buffer.pieces())
        if buffer.size:
            assert out.startswith(buffer.first())
        out = out[: int(len(out) * share)]
        buffer.consume(len(out))
        taken += out
        assert buffer.size == len(given_) - len(taken)
    while buffer.size:
        out = b"".join(buffer.pieces())
        buffer.consume(len(out))
        taken += out
    assert taken == given_


def test_buffer_holds_its_limit_but_not_a_byte_more() -> None:
    buffer = WriteBuffer(10)
    buffer.append(b"123456789")
    buffer.append(b"0")
    with pytest.raises(StateError, match="11 bytes"):
        buffer.append(b"1")
    assert b"".join(buffer.pieces()) == b"1234567890"


def test_buffer_joins_small_pieces() -> None:
    buffer = WriteBuffer(10_000_000)
    for _ in range(JOIN_UP_TO + 1):
        buffer.append(b"x")
    assert [len(piece) for piece in buffer.pieces()] == [JOIN_UP_TO, 1]


def test_buffer_offers_a_bounded_number_of_pieces() -> None:
    buffer = WriteBuffer(100_000_000)
    for _ in range(MAX_PIECES + 1):
        buffer.append(bytes(JOIN_UP_TO))
    assert len(buffer.pieces()) == MAX_PIECES


def test_buffer_is_empty_after_clear() -> None:
    buffer = WriteBuffer(10)
    buffer.append(b"12345")
    buffer.consume(2)
    buffer.clear()
    buffer.append(b"abc")
    assert (buffer.size, b"".join(buffer.pieces())) == (3, b"abc")
