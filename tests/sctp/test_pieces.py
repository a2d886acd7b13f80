"""Chunks in pieces: whatever becomes of them on the way, what is put together is what was cut, or nothing."""

from __future__ import annotations

import random
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import CHUNK, MalformedError
from mxrtc_bridge.sctp.pieces import MAX_INCOMPLETE, MAX_PIECES, MAX_WHOLE, Pieces, cut
from tests.long import examples
from tests.sctp.hostile import THEIR_TSN, Puppet

ROOM = 496
"""Of a packet of 508 bytes."""


def bodies(tsn: int, whole: bytes, room: int = ROOM) -> list[bytes]:
    """The pieces as a packet's reader sees them, without header and padding."""
    return [piece[4 : piece[2] << 8 | piece[3]] for piece in cut(tsn, whole, room)]


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(CHUNK.size + 1, MAX_WHOLE), st.integers(148, 1500), st.integers(0, 2**32 - 1), st.randoms())
def test_pieces_in_any_order_and_more_than_once_make_the_chunk_again(
    size: int, room: int, tsn: int, rng: random.Random
) -> None:
    whole = rng.randbytes(size)
    written = cut(tsn, whole, room)
    assert all(len(piece) <= room for piece in written)
    assert len(written) == ceil(size / (room - 12 & ~3)) <= MAX_PIECES
    parts = bodies(tsn, whole, room)
    shuffled = rng.sample(parts, len(parts))
    pieces = Pieces()
    for part in shuffled[:-1]:
        assert pieces.put(part) is None
        assert pieces.put(part) is None
    assert pieces.put(shuffled[-1]) == whole


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_input_is_taken_or_refused(inputs: list[bytes]) -> None:
    pieces = Pieces()
    for body in inputs:
        try:
            whole = pieces.put(body)
        except MalformedError:
            continue
        assert whole is None or len(whole) <= MAX_WHOLE


def test_chunks_that_are_cut_again_for_a_narrower_path_are_put_together() -> None:
    whole = bytes(range(256)) * 5
    pieces = Pieces()
    assert pieces.put(bodies(7, whole, 700)[0]) is None
    for part in bodies(7, whole)[:-1]:
        assert pieces.put(part) is None
    assert pieces.put(bodies(7, whole)[-1]) == whole


def test_what_is_never_completed_makes_place_for_what_comes_after() -> None:
    pieces = Pieces()
    first = bodies(0, bytes(1000))
    assert pieces.put(first[0]) is None
    for tsn in range(1, MAX_INCOMPLETE + 1):
        assert pieces.put(bodies(tsn, bytes(1000))[0]) is None
    assert [pieces.put(part) for part in first[1:]] == [None] * len(first[1:]), "it was dropped"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(8),
        (1).to_bytes(4) + (MAX_WHOLE + 4).to_bytes(2) + bytes(2) + b"x",
        (1).to_bytes(4) + (20).to_bytes(2) + (16).to_bytes(2) + b"12345",
        (1).to_bytes(4) + (0).to_bytes(2) + (0).to_bytes(2) + b"x",
        (1).to_bytes(4) + CHUNK.size.to_bytes(2) + (0).to_bytes(2) + b"1234",
    ],
)
def test_piece_that_cannot_be_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        Pieces().put(body)


def test_a_chunk_in_more_pieces_than_any_path_asks_for_is_refused() -> None:
    pieces = Pieces()
    for number in range(MAX_PIECES - 1):
        assert pieces.put((1).to_bytes(4) + (1000).to_bytes(2) + (4 * number).to_bytes(2) + b"abcd") is None
    with pytest.raises(MalformedError):
        pieces.put((1).to_bytes(4) + (1000).to_bytes(2) + (900).to_bytes(2) + b"abcd")


def test_pieces_of_anything_but_user_data_end_the_association() -> None:
    """An INIT or a SACK in pieces would pass by what is looked at where they come as chunks of their own."""
    for kind in (chunks.SACK, chunks.INIT, chunks.PIECE, chunks.ABORT):
        puppet = Puppet()
        inner = chunks.chunk(kind, bytes(24))
        puppet.send(*cut(THEIR_TSN, inner, 24))
        assert puppet.end.ended is not None
        assert puppet.end.ended.code == "violation"


def test_pieces_with_a_length_that_lies_end_the_association() -> None:
    puppet = Puppet()
    whole = bytearray(puppet.data(0, b"some user data"))
    whole[3] += 4
    puppet.send(*cut(THEIR_TSN, bytes(whole), 24))
    assert puppet.end.ended is not None


def test_user_data_in_pieces_is_a_message_as_any_other() -> None:
    puppet = Puppet()
    data = puppet.data(0, b"some user data")
    puppet.send(*cut(THEIR_TSN, data[: data[2] << 8 | data[3]], 24))
    assert [message.data for message in puppet.end.messages] == [b"some user data"]


@pytest.mark.parametrize("size", range(1, 20))
def test_a_chunk_in_pieces_that_is_shorter_than_user_data_ends_the_association(size: int) -> None:
    puppet = Puppet()
    whole = (bytes([chunks.DATA, 3]) + size.to_bytes(2) + bytes(16))[:size]
    puppet.send(chunks.chunk(chunks.PIECE, THEIR_TSN.to_bytes(4) + size.to_bytes(2) + bytes(2) + whole))
    assert (puppet.end.ended is None) == (size > 16)
