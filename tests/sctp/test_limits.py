"""Every limit holds against a peer that breaks it, and nothing is raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import BEGINS, ENDS, UNORDERED
from mxrtc_bridge.sctp.lifecycle import AssociationState
from mxrtc_bridge.sctp.settings import KIB, SctpSettings
from tests.long import examples
from tests.sctp.hostile import THEIR_TSN, Puppet

SMALL = SctpSettings(
    receive_window=64 * KIB,
    max_message=16 * KIB,
    max_streams=8,
    max_used_streams=6,
    max_fragments=200,
    max_tsn_span=500,
    max_gaps=20,
    max_control_bytes=4 * KIB,
)


def test_parameter_of_length_zero_ends_the_association_and_not_the_process() -> None:
    """The twenty bytes that stop aiortc 1.16 are a protocol violation."""
    for kind in (chunks.HEARTBEAT_ACK, chunks.RE_CONFIG, chunks.ABORT, chunks.ERROR):
        puppet = Puppet(SMALL)
        puppet.send(chunks.chunk(kind, bytes(4)))
        assert puppet.association.state in (AssociationState.ENDED, AssociationState.ESTABLISHED)
        assert (puppet.association.state is AssociationState.ENDED) == (kind not in (chunks.ERROR,))


def test_heartbeat_comes_back_as_it_was() -> None:
    puppet = Puppet(SMALL)
    puppet.send(chunks.chunk(chunks.HEARTBEAT, b"\0\x01\0\0anything"))
    assert puppet.answers() == [(chunks.HEARTBEAT_ACK, b"\0\x01\0\0anything")]


def test_too_many_parameters_are_a_violation() -> None:
    puppet = Puppet(SMALL)
    puppet.send(chunks.chunk(chunks.HEARTBEAT_ACK, chunks.parameter(7, b"") * 65))
    assert "more than 64 parameters" in puppet.ended_because
    assert puppet.answers()[0][0] == chunks.ABORT


def test_answers_are_bounded_when_the_peer_asks_for_many() -> None:
    puppet = Puppet(SMALL)
    for _ in range(100):
        puppet.send(chunks.chunk(chunks.HEARTBEAT, bytes(1000)))
    assert 1 <= len(puppet.answers()) <= 4
    assert puppet.association.dropped["control"] >= 96


def test_chunks_that_do_not_fit_their_packet_are_dropped() -> None:
    puppet = Puppet(SMALL)
    for chunk in (b"\x00\x03\x00\x03", b"\x00\x03\xff\xff" + bytes(20), b"\x03\x00\x00\x00" * 5):
        puppet.send(chunk)
    assert puppet.association.dropped == {"chunk_length": 3}
    assert puppet.association.state is AssociationState.ESTABLISHED


def test_short_data_and_short_sack_are_violations() -> None:
    for chunk in (chunks.chunk(chunks.DATA, bytes(12)), chunks.chunk(chunks.DATA, bytes(5)), chunks.chunk(chunks.SACK)):
        puppet = Puppet(SMALL)
        puppet.send(chunk)
        assert puppet.end.ended is not None
        assert puppet.end.ended.code == "violation"


@pytest.mark.parametrize("size", [16 * KIB - 1, 16 * KIB, 16 * KIB + 1])
@pytest.mark.parametrize("flags", [0, UNORDERED])
def test_message_is_taken_up_to_the_limit(size: int, flags: int) -> None:
    puppet = Puppet(SMALL)
    pieces = [bytes(1000)] * (size // 1000) + [bytes(size % 1000)]
    for tsn, piece in enumerate(pieces):
        ends = (BEGINS if tsn == 0 else 0) | (ENDS if tsn == len(pieces) - 1 else 0)
        puppet.send(puppet.data(tsn, piece, flags=flags | ends))
    if size <= SMALL.max_message:
        assert [len(message.data) for message in puppet.end.messages] == [size]
    else:
        assert "the limit is 16384" in puppet.ended_because


def test_unordered_message_without_end_is_a_violation() -> None:
    puppet = Puppet(SMALL)
    for tsn in range(40):
        puppet.send(puppet.data(tsn, bytes(1000), flags=UNORDERED | (BEGINS if tsn == 0 else 0)))
        assert puppet.held <= 2 * SMALL.receive_window + SMALL.max_message
    for tsn in range(40, 400):
        puppet.send(puppet.data(tsn, bytes(1000), flags=UNORDERED))
    assert puppet.association.state is AssociationState.ENDED


def test_incomplete_messages_on_all_streams_stay_within_the_window() -> None:
    puppet = Puppet(SMALL)
    for tsn in range(1000):
        stream, number = tsn % 8, tsn // 8
        puppet.send(puppet.data(tsn, bytes(1000), stream=stream, flags=BEGINS if number == 0 else 0))
        assert puppet.held <= 2 * SMALL.receive_window + SMALL.max_message
    assert puppet.association.state is AssociationState.ENDED


def test_fragments_are_counted_however_small_they_are() -> None:
    puppet = Puppet(SMALL)
    for tsn in range(1, 1000):
        puppet.send(puppet.data(tsn, b"a", sequence=tsn, flags=BEGINS))
    reassembly = puppet.association._receiver.reassembly  # type: ignore[union-attr]
    assert reassembly.fragments == SMALL.max_fragments
    assert puppet.association.dropped["fragments"] == 299
    assert puppet.association.dropped["span"] == 500


def test_tsn_beyond_the_span_is_not_remembered() -> None:
    puppet = Puppet(SMALL)
    puppet.send(puppet.data(499, b"in"), puppet.data(500, b"out"), puppet.data(-5, b"old"))
    assert puppet.association.dropped == {"span": 1, "duplicate": 1}
    assert [message.data for message in puppet.end.messages] == [b"in"]


def test_gaps_are_bounded_and_the_oldest_data_still_gets_through() -> None:
    puppet = Puppet(SMALL)
    for tsn in range(1, 201, 2):
        puppet.send(puppet.data(tsn, b"x", flags=BEGINS | ENDS | UNORDERED))
    assert puppet.association.dropped["gaps"] == 80
    kind, body = puppet.answers()[-1]
    assert kind == chunks.SACK
    assert int.from_bytes(body[8:10], "big") == SMALL.max_gaps
    for tsn in range(0, 201, 2):
        puppet.send(puppet.data(tsn, b"y", flags=BEGINS | ENDS | UNORDERED))
    assert len(puppet.end.messages) >= 41


def test_sender_that_ignores_the_window_is_not_stored() -> None:
    """An application that does not read costs twice the window at most; what is dropped is not acknowledged."""
    puppet = Puppet(SMALL)
    puppet.end.consume = False
    for tsn in range(1000):
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
        puppet.answers()
    assert puppet.held <= SMALL.receive_window + 2 * 1500
    assert puppet.association.dropped["window"] == 500
    assert puppet.association.state is AssociationState.ESTABLISHED
    puppet.end.consume = True
    puppet.association.consumed(puppet.end.unread)
    assert puppet.association.state is AssociationState.ESTABLISHED


def test_acknowledgements_are_rare_while_the_window_is_closed() -> None:
    """A sender that sends one packet for each SACK gets four in a second."""
    puppet = Puppet(SMALL)
    puppet.end.consume = False
    tsn = 0
    while puppet.association._receiver.window:  # type: ignore[union-attr]
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
        tsn += 1
    puppet.answers()
    acknowledged = 0
    for _ in range(100):
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
        sent = [kind for kind, _ in puppet.wait(0.02)]
        acknowledged += len(sent)
        tsn += len(sent)
    assert 7 <= acknowledged <= 9


def test_window_opens_with_a_sack_once_half_is_consumed() -> None:
    puppet = Puppet(SMALL)
    puppet.end.consume = False
    for tsn in range(66):
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
    assert int.from_bytes(puppet.answers()[-1][1][4:8], "big") == 0
    puppet.association.consumed(30_000)
    assert puppet.answers() == []
    puppet.association.consumed(20_000)
    (kind, body), *_ = puppet.answers()
    assert kind == chunks.SACK
    assert int.from_bytes(body[4:8], "big") == SMALL.receive_window - 16_000


def test_data_on_a_stream_that_does_not_exist_is_acknowledged_and_reported() -> None:
    puppet = Puppet(SMALL)
    puppet.send(puppet.data(0, b"x", stream=8), puppet.data(1, b"y", stream=7))
    assert [message.data for message in puppet.end.messages] == [b"y"]
    kinds = dict(puppet.wait(0.03))
    assert int.from_bytes(kinds[chunks.SACK][:4], "big") == THEIR_TSN + 1
    assert kinds[chunks.ERROR] == chunks.parameter(chunks.INVALID_STREAM, b"\0\x08\0\0")


def test_acknowledgement_of_what_was_never_sent_is_a_violation() -> None:
    for blocks in ((), (1, 1)):
        puppet = Puppet(SMALL)
        cumulative = puppet.their_tsn - 1 + (0 if blocks else 1) & 0xFFFFFFFF
        puppet.send(chunks.sack(cumulative, 1000, blocks, ()))
        assert "never sent" in puppet.ended_because


def test_gap_blocks_out_of_order_are_a_violation() -> None:
    puppet = Puppet(SMALL)
    puppet.send(chunks.sack(puppet.their_tsn - 1 & 0xFFFFFFFF, 1000, (5, 4), ()))
    assert "out of order" in puppet.ended_because


def test_many_wide_gap_blocks_cost_nothing_twice() -> None:
    """Gap blocks that say the same again are not walked again; 65,535 wide ones are refused."""
    puppet = Puppet(SMALL)
    puppet.send(chunks.sack(puppet.their_tsn - 1 & 0xFFFFFFFF, 1000, (1, 65_535) * 290, ()))
    assert puppet.association.state is AssociationState.ENDED


@pytest.mark.parametrize("count", [511, 512, 513])
def test_gap_blocks_beyond_the_limit_are_ignored(count: int) -> None:
    puppet = Puppet(SctpSettings(max_gap_blocks=512))
    for _ in range(3000):
        puppet.association.send(puppet.now, 0, 53, b"z")
    puppet.association._sender._congestion._window = 10**9  # type: ignore[attr-defined]
    puppet.answers()
    blocks = [offset for index in range(count) for offset in (2 + 2 * index, 2 + 2 * index)]
    puppet.send(chunks.sack(puppet.their_tsn - 1 & 0xFFFFFFFF, 1 << 20, blocks, ()))
    assert puppet.association.state is AssociationState.ESTABLISHED
    assert len(puppet.association._sender.flight._gaps) == min(count, 512)


@pytest.mark.parametrize(
    "fragments",
    [
        [(0, BEGINS, 0), (1, BEGINS, 0)],
        [(0, BEGINS, 0), (1, BEGINS | ENDS, 0)],
        [(2, ENDS, 0), (3, ENDS, 0)],
        [(3, BEGINS, 1), (2, ENDS, 1)],
    ],
)
def test_fragments_that_contradict_each_other_are_a_violation(fragments: list[tuple[int, int, int]]) -> None:
    puppet = Puppet(SMALL)
    for tsn, flags, sequence in fragments:
        puppet.send(puppet.data(tsn, b"abcd", flags=flags, sequence=sequence))
    assert puppet.end.ended is not None
    assert puppet.end.ended.code == "violation"


def test_data_where_interleaving_was_agreed_is_a_violation() -> None:
    puppet = Puppet(SMALL, interleaving=True)
    puppet.send(puppet.data(0))
    assert "DATA where I-DATA was agreed" in puppet.ended_because


def test_unknown_chunks_are_skipped_or_stop_the_packet_as_their_bits_say() -> None:
    """RFC 9260 section 3.2: the highest bit says whether to go on, the next one whether to report."""
    for kind, goes_on, reports in ((0x3F, False, False), (0x7F, False, True), (0xBF, True, False), (0xFF, True, True)):
        puppet = Puppet(SMALL)
        puppet.send(chunks.chunk(kind, b"1234"), puppet.data(0))
        assert len(puppet.end.messages) == goes_on
        assert (chunks.ERROR in dict(puppet.answers())) == reports


def test_forward_tsn_to_far_away_costs_nothing_and_loses_only_what_it_skips() -> None:
    puppet = Puppet(SMALL)
    for tsn in range(1, 100, 2):
        puppet.send(puppet.data(tsn, b"q", flags=BEGINS | UNORDERED))
    puppet.send(chunks.forward_tsn(THEIR_TSN + 2**30, [(0, 5), (9, 1)]))
    assert puppet.held == 0
    puppet.send(puppet.data(2**30 + 1, b"next", sequence=6))
    assert [message.data for message in puppet.end.messages] == [b"next"]


def test_wrong_tag_port_and_checksum_are_dropped() -> None:
    puppet = Puppet(SctpSettings(zero_checksum=False))
    good = puppet._writer.write([puppet.data(0)])
    for index in (1, 3, 7, 9, 20):
        puppet.raw(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
    assert puppet.association.dropped == {"port": 2, "checksum": 3}
    puppet.raw(good)
    assert len(puppet.end.messages) == 1


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_any_chunks_are_taken_or_refused(bodies: list[bytes], interleaving: bool) -> None:
    """Whatever is in a packet, nothing is raised, and the association stays usable or says why it ended."""
    puppet = Puppet(SMALL, interleaving=interleaving)
    puppet.association.send(puppet.now, 0, 53, bytes(5000))
    puppet.answers()
    for body in bodies:
        puppet.raw(body)
        puppet.send(body)
        puppet.answers()
    assert puppet.association.state is not AssociationState.ENDED or puppet.ended_because


KINDS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 132, 192, 194, 255])


@settings(max_examples=examples(400), deadline=None)
@given(
    st.lists(
        st.tuples(KINDS, st.integers(0, 15), st.integers(-3, 40), st.binary(max_size=40), st.booleans()), max_size=12
    ),
    st.booleans(),
)
def test_any_well_formed_chunks_are_taken_or_refused(
    pieces: list[tuple[int, int, int, bytes, bool]], interleaving: bool
) -> None:
    """Chunks of known kinds with TSNs near the present ones reach deeper than random bytes do."""
    puppet = Puppet(SMALL, interleaving=interleaving)
    puppet.association.send(puppet.now, 0, 53, bytes(5000))
    puppet.answers()
    for kind, flags, offset, body, ours in pieces:
        tsn = (puppet.their_tsn if ours else THEIR_TSN) + offset & 0xFFFFFFFF
        puppet.send(chunks.chunk(kind, tsn.to_bytes(4, "big") + body, flags))
        puppet.wait(0.3)
    receiver = puppet.association._receiver
    assert receiver is not None
    assert receiver.reassembly.held >= 0
    assert receiver.reassembly.fragments >= 0


def test_streams_that_are_used_and_not_reset_are_bounded() -> None:
    """Those that are reset cost nothing any more."""
    puppet = Puppet(SctpSettings(max_used_streams=6))
    for number in range(6):
        puppet.send(puppet.data(number, stream=10_000 * number))
    reset = b"\0\x0d\0\x12" + (THEIR_TSN).to_bytes(4, "big") + bytes(4) + (THEIR_TSN + 5).to_bytes(4, "big")
    puppet.send(chunks.chunk(chunks.RE_CONFIG, reset + (10_000).to_bytes(2, "big")))
    puppet.send(puppet.data(6, stream=65_534))
    assert len(puppet.end.messages) == 7
    assert not puppet.ended_because
    puppet.send(puppet.data(7, stream=10_000))
    assert "more than 6 streams" in puppet.ended_because
