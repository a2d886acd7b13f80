"""Associations with other implementations, recorded after DTLS, are lived through again."""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.handshake import read_greeting
from mxrtc_bridge.sctp.packets import PacketWriter, checksum_matches
from tests.sctp.recorded import Recording, Replay, recordings

ALL = recordings()
DATA, DCEP, TEXT, BINARY, EMPTY_TEXT, EMPTY_BINARY = 0, 50, 51, 53, 56, 57
MARKS = {"BufferedLow", "SendSpace"}
"""These events came at marks that a recording does not hold; one of them is no more."""

pytestmark = pytest.mark.parametrize("recording", ALL, ids=[recording.name for recording in ALL])


def split(packet: bytes) -> list[tuple[int, int, bytes]]:
    """Return type, flags and body of each chunk."""
    found, position = [], 12
    while position < len(packet):
        kind, flags, length = chunks.CHUNK.unpack_from(packet, position)
        assert 4 <= length <= len(packet) - position
        found.append((kind, flags, packet[position + 4 : position + length]))
        position += length + (-length & 3)
    return found


def test_its_packets_are_read_and_written_again_byte_by_byte(recording: Recording) -> None:
    kinds = set()
    for packet in recording.theirs:
        source, destination, tag, checksum = chunks.HEADER.unpack_from(packet)
        parts = split(packet)
        kinds |= {kind for kind, _, _ in parts}
        writer = PacketWriter(source, destination, tag, zero_checksum=not checksum)
        assert writer.write(chunks.chunk(kind, body, flags) for kind, flags, body in parts) == packet
        assert checksum == 0 or checksum_matches(packet)
        assert not checksum_matches(packet[:-1] + bytes([packet[-1] ^ 1])) or checksum == 0
    assert {chunks.INIT, chunks.SACK, chunks.RE_CONFIG, chunks.COOKIE_ECHO, chunks.COOKIE_ACK} <= kinds | {chunks.INIT}
    assert kinds & {chunks.DATA, chunks.I_DATA}


def test_its_sacks_and_greetings_are_written_as_it_wrote_them(recording: Recording) -> None:
    sacks = greetings = 0
    for packet in recording.theirs:
        for kind, _, body in split(packet):
            if kind == chunks.SACK:
                whole = chunks.chunk(kind, body)
                cumulative, window, blocks, duplicates = chunks.read_sack(whole, 0, len(whole), 512)
                assert chunks.sack(cumulative, window, blocks, duplicates) == whole
                sacks += 1
            elif kind in (chunks.INIT, chunks.INIT_ACK):
                proposal = read_greeting(body).proposal
                assert proposal.reconfiguration
                assert proposal.partial
                assert proposal.tag
                greetings += 1
    assert sacks > 3
    assert greetings


def test_everything_it_sent_arrives_again(recording: Recording) -> None:
    replay = Replay(recording).run()
    assert replay.messages == recording.messages
    happened = [line["kind"] for line in recording.lines if line["call"] == "event"]
    assert [kind for kind in replay.events if kind not in MARKS] == [kind for kind in happened if kind not in MARKS]
    assert {"Established", "StreamReset", "ResetDone", "Ended"} <= set(replay.events)
    assert {ppid for _, ppid, _ in replay.messages} == {DCEP, TEXT, BINARY, EMPTY_TEXT, EMPTY_BINARY}
    assert replay.ended is not None
    assert replay.ended.code in ("aborted", "closed")
    assert not set(replay.association.dropped) - {"duplicate"}


def test_what_we_sent_is_acknowledged_again(recording: Recording) -> None:
    """All of it, before the end: so it took our packets for what they are, and we its acknowledgements."""
    ends = next(n for n, line in enumerate(recording.lines) if line.get("kind") == "Ended")
    resets = [line["stream"] for line in recording.lines if line["call"] == "reset"]
    assert len(resets) >= 3
    replay = Replay(recording).run(ends - 1)
    assert replay.events.count("ResetDone") == len(resets)
    assert replay.association.buffered() == 0
    assert not replay.association._sender.flight.outstanding


def test_it_survives_that_every_packet_comes_twice_and_late(recording: Recording) -> None:
    """As a path may do it: nothing is delivered twice, and nothing ends."""
    plain = Replay(recording)
    for line in recording.lines:
        plain._do(**line)
        if line["call"] == "receive":
            plain._do(**line)
        plain.drain()
    assert plain.messages == recording.messages
    assert plain.ended is not None
    assert plain.ended.code in ("aborted", "closed")
