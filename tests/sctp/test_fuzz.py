"""Recorded packets of other implementations, and mutations of them, at every place of an association."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import HEADER_SIZE
from tests.long import examples
from tests.sctp.fuzz import feed, frame, places, seeds
from tests.sctp.hostile import THEIR_TSN, Puppet
from tests.sctp.recorded import Recording, recordings

KNOWN = recordings()


@pytest.mark.parametrize("recording", KNOWN, ids=[recording.name for recording in KNOWN])
def test_recorded_packets_in_their_place_are_taken(recording: Recording) -> None:
    """The inputs that fuzzing starts from reach the association: the first packet of none breaks the protocol."""
    known = [recording]
    inputs = list(seeds(known))
    assert len(inputs) == len(places(recording)) > 20
    for data in inputs:
        replay = feed(known, data[:2] + data[2 : 4 + int.from_bytes(data[2:4], "big")])
        assert replay is not None
        assert replay.ended is None or replay.ended.code in ("aborted", "closed")
        assert not set(replay.association.dropped) & {"short", "port", "checksum", "tag"}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An input of several recorded packets, of any implementation and any place, with bytes changed."""
    index = draw(st.integers(0, len(KNOWN) - 1))
    place = draw(st.integers(0, 255))
    packets = []
    for _ in range(draw(st.integers(1, 6))):
        source = KNOWN[draw(st.sampled_from([index, index, draw(st.integers(0, len(KNOWN) - 1))]))]
        choice = source.theirs if draw(st.booleans()) else source.ours
        near = draw(st.integers(place, place + 8)) if choice is source.theirs else draw(st.integers(0, 255))
        body = bytearray(choice[near % len(choice)])
        for _ in range(draw(st.integers(0, 4))):
            # Near the start are the fields that decide; the rest is mostly payload.
            end = min(len(body), HEADER_SIZE + draw(st.sampled_from([4, 16, 40, 2000])))
            body[draw(st.integers(HEADER_SIZE, end - 1))] = draw(st.sampled_from([0, 1, 3, 127, 128, 192, 255]))
        cut = draw(st.sampled_from([None, None, None, -1, -4, HEADER_SIZE + 4, HEADER_SIZE + 16]))
        packets.append(bytes(body[:cut]) + draw(st.binary(max_size=8)))
    return bytes([index, place]) + frame(packets)


@settings(max_examples=examples(400), derandomize=True, deadline=None)
@given(mutated())
def test_mutations_are_taken_or_refused(data: bytes) -> None:
    replay = feed(KNOWN, data)
    assert replay is not None
    assert replay.ended is None or replay.ended.code in ("aborted", "closed", "violation", "timeout", "refused")


@settings(max_examples=examples(200), derandomize=True, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    assert (feed(KNOWN, data) is None) == (len(data) < 2)


KINDS = sorted(
    {
        chunks.DATA, chunks.SACK, chunks.HEARTBEAT, chunks.HEARTBEAT_ACK, chunks.SHUTDOWN, chunks.ERROR,
        chunks.INIT, chunks.INIT_ACK, chunks.COOKIE_ECHO, chunks.COOKIE_ACK, chunks.I_DATA, chunks.RE_CONFIG,
        chunks.PAD, chunks.PIECE, chunks.FORWARD_TSN, chunks.I_FORWARD_TSN, 63, 127, 191, 255,
    }
)  # fmt: skip
"""All that we act on, also those that no recording has, but the ones that end all; and one of each kind of unknown."""

SMALL = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 13, 16, 17, 20, 21, 65_535])
FIELDS = st.lists(
    st.one_of(
        SMALL.map(lambda value: value.to_bytes(2)),
        SMALL.map(lambda value: (THEIR_TSN + value).to_bytes(4)),
        st.binary(max_size=5),
    ),
    max_size=8,
).map(b"".join)
PIECES = st.tuples(SMALL, st.sampled_from([0, 0, 1, 2]), st.binary(min_size=1, max_size=20)).map(
    lambda drawn: THEIR_TSN.to_bytes(4) + drawn[0].to_bytes(2) + drawn[1].to_bytes(2) + drawn[2][: max(drawn[0], 1)]
)
CHUNKS = st.one_of(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 15), FIELDS),
    st.tuples(st.just(chunks.PIECE), st.just(0), PIECES),
)


@settings(max_examples=examples(400), derandomize=True, deadline=None)
@given(st.booleans(), st.lists(CHUNKS, max_size=6))
def test_chunks_of_any_kind_with_anything_in_them_are_taken_or_refused(
    interleaving: bool, drawn: list[tuple[int, int, bytes]]
) -> None:
    puppet = Puppet(interleaving=interleaving)
    for kind, flags, body in drawn:
        puppet.send(chunks.chunk(kind, body, flags))
    assert puppet.end.ended is None or puppet.end.ended.code in ("aborted", "closed", "violation", "refused")
