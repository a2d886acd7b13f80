"""Recorded packets of other implementations, and mutations of them, at every place of an association."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp.chunks import HEADER_SIZE
from tests.long import examples
from tests.sctp.fuzz import feed, frame, places, seeds
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
