"""What one packet can cost at worst, in lines of the association that run for it, whoever writes the packet.

Counted and not timed, so that the same code gives the same number everywhere. What is done once for each chunk that was
sent or received before (its acknowledgement, its delivery) is not the packet's own: it is bounded by the flight and by
the window, and is told apart here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import BEGINS, ENDS, UNORDERED
from mxrtc_bridge.sctp.flight import MAX_TAKEN_BACK
from mxrtc_bridge.sctp.lifecycle import AssociationState
from mxrtc_bridge.sctp.pieces import MAX_PIECES, MAX_WHOLE
from mxrtc_bridge.sctp.receiver import MAX_REPEATED
from tests import counted_lines
from tests.long import size
from tests.sctp.hostile import THEIR_TSN, Puppet

ROOM = 2048 - 12
"""Of the largest packet that DTLS hands on, without the common header."""
FLIGHT = size(20_000, 5_000)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "sctp.md"


def lines(work: Callable[[], object]) -> int:
    """Run ``work``; return how many lines of the association ran."""
    return counted_lines.lines(work, "sctp")


def repeated(chunk: bytes) -> list[bytes]:
    return [chunk] * (ROOM // len(chunk))


def sending(count: int = FLIGHT) -> Puppet:
    """An association that has so many chunks in flight."""
    puppet = Puppet(window=1 << 30)
    first = puppet.their_tsn
    for _ in range(count):
        puppet.association.send(puppet.now, 0, 53, b"x" * 1100)
    sent = 0
    while sent < count:
        puppet.wait(0.05)
        flight = puppet.flight
        sent = flight.next_tsn - first
        # Arrives, and the cumulative acknowledgement stays behind by one.
        if sent > 1:
            puppet.send(sack(puppet, 0, [2, min(sent, 60_000)]))
    return puppet


def sack(puppet: Puppet, acknowledged: int, blocks: list[int], duplicates: list[int] | None = None) -> bytes:
    """A SACK for so many chunks and for the blocks behind them."""
    return chunks.sack(puppet.their_tsn - 1 + acknowledged & 0xFFFFFFFF, 1 << 30, blocks, duplicates or [])


def _data_of_one_byte() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    return puppet, [puppet.data(number, sequence=number) for number in range(ROOM // 20)]


def _data_out_of_order() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    return puppet, [puppet.data(3 * number + 1, sequence=3 * number + 1) for number in range(ROOM // 20)]


def _data_again() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    puppet.send(puppet.data(0))
    return puppet, repeated(puppet.data(0))


def _sacks() -> tuple[Puppet, list[bytes]]:
    puppet = sending()
    return puppet, repeated(sack(puppet, 0, []))


def _gap_blocks() -> tuple[Puppet, list[bytes]]:
    puppet = sending()
    return puppet, [sack(puppet, 0, [each for number in range(500) for each in (3 * number + 2, 3 * number + 3)])]


def _duplicates() -> tuple[Puppet, list[bytes]]:
    puppet = sending()
    return puppet, [sack(puppet, 0, [2, FLIGHT], [puppet.their_tsn] * 500)]


def _forward_tsn() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    for number in range(900):
        puppet.send(puppet.data(60 * number + 5, sequence=2000 + number))
    skipped = [(0, number & 0xFFFF) for number in range(ROOM // 4 - 2)]
    return puppet, [chunks.forward_tsn(THEIR_TSN + 3, skipped)]


def _stream_resets() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    streams = b"".join([number.to_bytes(2, "big") for number in range(ROOM // 2 - 10)])
    head = struct.pack("!HHLLL", 13, 16 + len(streams), THEIR_TSN, 0, THEIR_TSN - 1)
    return puppet, [chunks.chunk(chunks.RE_CONFIG, head + streams)]


def _heartbeats() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    return puppet, repeated(chunks.chunk(chunks.HEARTBEAT))


def _errors() -> tuple[Puppet, list[bytes]]:
    return Puppet(), repeated(chunks.chunk(chunks.ERROR))


def _unknown() -> tuple[Puppet, list[bytes]]:
    return Puppet(), repeated(chunks.chunk(0xFE))


def _cookies() -> tuple[Puppet, list[bytes]]:
    return Puppet(), repeated(chunks.chunk(chunks.COOKIE_ECHO, bytes(20)))


def _i_data_of_many_messages() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet(interleaving=True)
    return puppet, [
        puppet.i_data(number, b"x", message=number + 1, last=3, flags=0, stream=number) for number in range(ROOM // 24)
    ]


def _loose_fragments() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    return puppet, [puppet.data(2 * number + 1, flags=UNORDERED) for number in range(ROOM // 20)]


def _small_steps() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    puppet.send(*[puppet.data(2 * number + 1, flags=UNORDERED) for number in range(100)])
    return puppet, [chunks.forward_tsn(THEIR_TSN + number, []) for number in range(ROOM // 8)]


def _all_streams_after_use() -> tuple[Puppet, list[bytes]]:
    """What was reset once is not looked at again, however often all streams are."""
    puppet = Puppet()
    for first in range(0, 2000, 100):
        puppet.send(*[puppet.data(number, stream=number) for number in range(first, first + 100)])
    puppet.send(_reset_of_all(0))
    return puppet, [_reset_of_all(number) for number in range(1, ROOM // 20)]


def _reset_of_all(number: int) -> bytes:
    return chunks.chunk(chunks.RE_CONFIG, struct.pack("!HHLLL", 13, 16, THEIR_TSN + number, 0, THEIR_TSN - 1))


def _resets_again() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    puppet.send(_reset_of_all(0))
    return puppet, repeated(_reset_of_all(0))


def _requests_that_are_denied() -> tuple[Puppet, list[bytes]]:
    body = [struct.pack("!HHL", 14, 8, THEIR_TSN + number) for number in range(ROOM // 12)]
    return Puppet(), [chunks.chunk(chunks.RE_CONFIG, each) for each in body]


def _shutdowns() -> tuple[Puppet, list[bytes]]:
    puppet = sending()
    return puppet, repeated(chunks.tsn_chunk(chunks.SHUTDOWN, puppet.their_tsn - 1 & 0xFFFFFFFF))


def _shutdowns_are_complete() -> tuple[Puppet, list[bytes]]:
    return Puppet(), repeated(chunks.chunk(chunks.SHUTDOWN_COMPLETE))


def _heartbeat_answers() -> tuple[Puppet, list[bytes]]:
    return Puppet(), [chunks.chunk(chunks.HEARTBEAT_ACK, chunks.parameter(1, b"x" * 4) * 64)] * 3


def _mixed_acknowledgements() -> tuple[Puppet, list[bytes]]:
    """Both SACKs of a packet speak of other blocks, and SHUTDOWNs fill the rest."""
    puppet = sending()
    first, second = (
        sack(puppet, 0, [4 * number + shift for number in range(160) for _ in range(2)]) for shift in (2, 4)
    )
    rest = (ROOM - len(first) - len(second)) // 8
    return puppet, [first, second, *[chunks.tsn_chunk(chunks.SHUTDOWN, puppet.their_tsn - 1 & 0xFFFFFFFF)] * rest]


def _piece(tsn: int, size: int, start: int, data: bytes) -> bytes:
    return chunks.chunk(chunks.PIECE, struct.pack("!LHH", tsn, size, start) + data)


def _pieces_of_many_chunks() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    return puppet, [_piece(THEIR_TSN + number, MAX_WHOLE, 0, b"x") for number in range(ROOM // 16)]


def _pieces_of_one_chunk() -> tuple[Puppet, list[bytes]]:
    """As many as are taken, and the last of them over and over."""
    puppet = Puppet()
    starts = [min(number, MAX_PIECES - 2) for number in range(ROOM // 16)]
    return puppet, [_piece(THEIR_TSN, MAX_WHOLE, 1 + 100 * start, b"x") for start in starts]


def _data_in_pieces() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    whole = (puppet.data(number, sequence=number)[:17] for number in range(ROOM // 32))
    return puppet, [_piece(THEIR_TSN + number, 17, 0, each) for number, each in enumerate(whole)]


CASES: dict[str, tuple[Callable[[], tuple[Puppet, list[bytes]]], int]] = {
    "DATA of one byte each": (_data_of_one_byte, 9_000),
    "DATA, each behind a gap": (_data_out_of_order, 12_000),
    "DATA that came before": (_data_again, 4_500),
    "SACK without news": (_sacks, 2_000),
    "SACK with 500 gap blocks": (_gap_blocks, 15_000),
    "SACK with 500 duplicates": (_duplicates, 5_500),
    "FORWARD-TSN for one stream, over and over": (_forward_tsn, 16_000),
    "RE-CONFIG with 1,000 streams": (_stream_resets, 17_000),
    "HEARTBEAT": (_heartbeats, 13_000),
    "ERROR": (_errors, 13_000),
    "unknown chunk": (_unknown, 22_000),
    "COOKIE-ECHO that is not ours": (_cookies, 12_000),
    "I-DATA, each of a message of its own": (_i_data_of_many_messages, 9_000),
    "DATA, loose fragments": (_loose_fragments, 9_000),
    "FORWARD-TSN in steps of one": (_small_steps, 14_000),
    "RE-CONFIG for all streams, after one": (_all_streams_after_use, 17_000),
    "RE-CONFIG that came before": (_resets_again, 7_000),
    "RE-CONFIG that is denied": (_requests_that_are_denied, 12_000),
    "SHUTDOWN": (_shutdowns, 23_000),
    "SHUTDOWN-COMPLETE that nobody waits for": (_shutdowns_are_complete, 13_000),
    "HEARTBEAT-ACK": (_heartbeat_answers, 3_000),
    "SACK with other blocks twice, and SHUTDOWN": (_mixed_acknowledgements, 20_000),
    "pieces of chunks that are never whole": (_pieces_of_many_chunks, 6_000),
    "pieces of one chunk, over and over": (_pieces_of_one_chunk, 5_500),
    "DATA in pieces, of which one is enough": (_data_in_pieces, 8_500),
}
"""How the packet is made, and how many lines may run for it."""


@pytest.mark.parametrize("name", CASES)
def test_a_packet_costs_no_more_than_its_bytes_allow(name: str) -> None:
    make, budget = CASES[name]
    puppet, parts = make()
    spent = lines(lambda: puppet.send(*parts))
    print(name, spent)
    assert spent <= budget
    # It does not get worse when it comes again.
    assert lines(lambda: puppet.send(*parts)) <= budget


def test_the_page_names_the_budgets() -> None:
    said = dict(re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE))
    assert {name: f"{budget:,}" for name, (_, budget) in CASES.items()}.items() <= said.items()


def test_acknowledgements_that_are_taken_back_end_the_association_and_cost_no_memory() -> None:
    puppet = sending()
    flight = puppet.flight
    for number in range(1, 200):
        # Everything has arrived, and then only the next one has.
        puppet.send(sack(puppet, number, []))
        puppet.send(sack(puppet, number, [2, FLIGHT - number]))
        assert len(flight.lost) <= FLIGHT
        if puppet.association.state is AssociationState.ENDED:
            break
    assert "taken back" in puppet.ended_because
    assert flight.taken_back <= MAX_TAKEN_BACK + FLIGHT + number


def test_a_block_that_begins_at_the_next_chunk_acknowledges_it_not() -> None:
    puppet = sending(100)
    flight = puppet.flight
    for _ in range(1000):
        puppet.send(sack(puppet, 0, [1, 100]))
    assert flight.taken_back == 0
    assert puppet.association.state is AssociationState.ESTABLISHED
    # The first one comes again, until it is acknowledged.
    found = puppet.wait(5)
    assert any(kind == chunks.DATA and int.from_bytes(body[:4], "big") == puppet.their_tsn for kind, body in found)


def test_chunks_that_come_again_and_again_end_the_association() -> None:
    puppet = Puppet()
    puppet.send(puppet.data(0))
    for _ in range(MAX_REPEATED // 100):
        puppet.send(*repeated(puppet.data(0)))
    puppet.send(*repeated(puppet.data(0)) * 100)
    assert "came again" in puppet.ended_because


WAITING = size(40_000, 4_000)
"""Pieces that wait for one packet; each is counted once when it comes, and once when it goes."""


def _fill(puppet: Puppet, make: Callable[[int], bytes]) -> Puppet:
    for first in range(1, WAITING, 80):
        puppet.send(*[make(number) for number in range(first, first + 80)])
    assert not puppet.ended_because
    return puppet


def _messages_of_four_streams() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    _fill(puppet, lambda number: puppet.data(number + 3, stream=number % 4, sequence=(number - 1) // 4 + 1))
    return puppet, [puppet.data(stream, stream=stream) for stream in range(4)]


def _one_message() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    last = 256 * 64 - 2
    for first in range(1, last, 60):
        numbers = range(first, min(first + 60, last + 1))
        puppet.send(*[puppet.data(number, b"x" * 16, flags=ENDS if number == last else 0) for number in numbers])
    return puppet, [puppet.data(0, b"x" * 16, flags=BEGINS)]


def _messages_that_are_given_up() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    _fill(puppet, lambda number: puppet.data(number, stream=number % 2, sequence=number // 2 + 1, flags=BEGINS))
    return puppet, [chunks.forward_tsn(THEIR_TSN + WAITING, [(stream, WAITING // 2 + 2) for stream in range(2)])]


def _loose_ones_that_are_given_up() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    _fill(puppet, lambda number: puppet.data(number, stream=number % 2, flags=UNORDERED))
    return puppet, [chunks.forward_tsn(THEIR_TSN + WAITING, [])]


def _loose_message_that_is_given_up() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet()
    _fill(puppet, lambda number: puppet.data(number, flags=UNORDERED))
    return puppet, [chunks.forward_tsn(THEIR_TSN + WAITING // 2, [])]


def _streams_with_much_that_waits() -> tuple[Puppet, list[bytes]]:
    puppet = Puppet(interleaving=True)
    puppet.send(puppet.i_data(0, b"x", message=0, last=53, flags=BEGINS | ENDS))

    def piece(number: int) -> bytes:
        flags = BEGINS | (UNORDERED if number % 2 else 0)
        return puppet.i_data(number, b"x", message=number, last=53, flags=flags, stream=number % 4)

    _fill(puppet, piece)
    return puppet, [_reset_of_all(0)]


ONCE: dict[str, tuple[Callable[[], tuple[Puppet, list[bytes]]], int]] = {
    "the first of many messages, on four streams": (_messages_of_four_streams, 500),
    "the beginning of a message in 16,000 fragments": (_one_message, 300),
    "FORWARD-TSN over many messages": (_messages_that_are_given_up, 8_000),
    "FORWARD-TSN over many loose fragments": (_loose_ones_that_are_given_up, 8_000),
    "FORWARD-TSN over a loose message in many fragments": (_loose_message_that_is_given_up, 8_000),
    "RE-CONFIG for streams on which much waits": (_streams_with_much_that_waits, 8_000),
}
"""What completes, or gives up, what very many packets have brought; and the lines that may run for it at once."""


@pytest.mark.parametrize("name", ONCE)
def test_what_many_packets_brought_is_dealt_with_in_pieces(name: str) -> None:
    """Neither the packet nor one question for what has happened does it all, and nothing is left in the end."""
    make, budget = ONCE[name]
    puppet, parts = make()
    packet = puppet.packet(*parts)
    spent = [lines(lambda: puppet.association.receive(puppet.now, packet))]
    events: list[object] = []

    def poll() -> None:
        if (event := puppet.association.poll_event()) is not None:
            events.append(event)
            puppet.association.consumed(len(getattr(event, "data", b"")))

    while True:
        known = len(events)
        spent.append(lines(poll))
        if len(events) == known:
            break
    print(name, spent[0], max(spent[1:]))
    assert not puppet.ended_because
    assert spent[0] <= budget
    # A message is handed out as a whole, with some lines for each of its fragments.
    assert max(spent[1:]) <= (100_000 if name.startswith("the beginning") else 100)
    # Also if no packet comes any more.
    puppet.answers()
    for _ in range(WAITING // 50):
        if puppet.association.next_deadline() == -1.0:
            assert lines(lambda: puppet.association.handle_timeout(puppet.now)) <= 6_000
    assert puppet.held == 0


def test_a_message_in_crumbs_ends_the_association() -> None:
    puppet = Puppet()
    for number in range(2000):
        puppet.send(puppet.data(number, b"x", flags=BEGINS if not number else 0))
    assert "fragments" in puppet.ended_because


def test_a_message_in_small_pieces_does_not() -> None:
    puppet = Puppet()
    for number in range(2000):
        puppet.send(puppet.data(number, b"x" * 16, flags=BEGINS if not number else 0))
    puppet.send(puppet.data(2000, b"x", flags=ENDS))
    assert not puppet.ended_because
