"""The guard in front of the SCTP parser: every malformation is refused, every honest packet passes, in linear time."""

from __future__ import annotations

import struct
import time
from contextlib import suppress

import pytest
from aiortc.rtcsctptransport import (
    AbortChunk,
    Chunk,
    CookieAckChunk,
    CookieEchoChunk,
    DataChunk,
    ErrorChunk,
    HeartbeatAckChunk,
    HeartbeatChunk,
    InitAckChunk,
    InitChunk,
    ReconfigChunk,
    SackChunk,
    ShutdownChunk,
    parse_packet,
    serialize_packet,
)
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.rtc.sctp_guard import DEFAULT_LIMITS, check_packet

DATA, INIT, SACK, HEARTBEAT, ABORT, SHUTDOWN, ERROR, COOKIE_ECHO, RECONFIG = 0, 1, 3, 4, 6, 7, 9, 10, 130


def packet(*chunks: bytes) -> bytes:
    return struct.pack("!HHLL", 5000, 5000, 1, 0) + b"".join(chunks)


def chunk(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    size = 4 + len(body) if length is None else length
    return struct.pack("!BBH", kind, 0, size) + body + bytes(-len(body) % 4)


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HH", kind, 4 + len(value) if length is None else length) + value + bytes(-len(value) % 4)


def data_chunk(size: int = 1) -> bytes:
    return chunk(DATA, struct.pack("!LHHL", 1, 2, 3, 53) + b"x" * size)


def init_body(tag: int = 1, window: int = 65536, outbound: int = 1, inbound: int = 1) -> bytes:
    return struct.pack("!LLHHL", tag, window, outbound, inbound, 7)


def sack_body(gaps: list[tuple[int, int]], duplicates: int = 0) -> bytes:
    body = struct.pack("!LLHH", 1, 65536, len(gaps), duplicates)
    return body + b"".join(struct.pack("!HH", *gap) for gap in gaps) + bytes(4 * duplicates)


HOSTILE = {
    "empty": b"",
    "header only": packet(),
    "oversized": packet(chunk(HEARTBEAT, bytes(DEFAULT_LIMITS.size))),
    "chunk of length 0": packet(chunk(DATA, length=0)),
    "chunk of length 3": packet(chunk(DATA, length=3)),
    "chunk beyond the packet": packet(chunk(HEARTBEAT, b"abcd", length=9)),
    "data without user data": packet(chunk(DATA, bytes(12))),
    "data cut short": packet(chunk(DATA, bytes(4))),
    "too many chunks": packet(*[chunk(11)] * (DEFAULT_LIMITS.chunks + 1)),
    "init with company": packet(chunk(INIT, init_body()), chunk(11)),
    "init behind company": packet(chunk(11), chunk(INIT, init_body())),
    "init without tag": packet(chunk(INIT, init_body(tag=0))),
    "init without outbound streams": packet(chunk(INIT, init_body(outbound=0))),
    "init without inbound streams": packet(chunk(INIT, init_body(inbound=0))),
    "init with a tiny window": packet(chunk(INIT, init_body(window=1499))),
    "init cut short": packet(chunk(INIT, init_body()[:-1])),
    "init ack with a parameter of length 0": packet(chunk(2, init_body() + parameter(7, b"", 0))),
    "init with a parameter of length 0": packet(chunk(INIT, init_body() + parameter(0x8008, b"", 0))),
    "heartbeat with a parameter of length 0": packet(chunk(HEARTBEAT, parameter(1, b"abcd", 0))),
    "heartbeat ack with a parameter of length 3": packet(chunk(5, parameter(1, b"abcd", 3))),
    "heartbeat with a parameter beyond the chunk": packet(chunk(HEARTBEAT, parameter(1, b"abcd", 9))),
    "abort with a cause of length 0": packet(chunk(ABORT, parameter(1, b"", 0))),
    "error with a cause of length 1": packet(chunk(ERROR, parameter(1, b"", 1))),
    "reconfig with a parameter of length 0": packet(chunk(RECONFIG, parameter(13, b"", 0))),
    "reset cut short": packet(chunk(RECONFIG, parameter(13, bytes(11)))),
    "reset with half a stream": packet(chunk(RECONFIG, parameter(13, bytes(13)))),
    "reset response cut short": packet(chunk(RECONFIG, parameter(16, bytes(7)))),
    "added streams cut short": packet(chunk(RECONFIG, parameter(17, bytes(7)))),
    "too many parameters": packet(chunk(HEARTBEAT, parameter(1, b"") * (DEFAULT_LIMITS.parameters + 1))),
    "sack cut short": packet(chunk(SACK, bytes(11))),
    "sack with missing gap blocks": packet(chunk(SACK, struct.pack("!LLHH", 1, 1, 1, 0))),
    "sack with missing duplicates": packet(chunk(SACK, struct.pack("!LLHH", 1, 1, 0, 65535))),
    "sack with too much in it": packet(chunk(SACK, sack_body([]) + bytes(4))),
    "sack with too many gap blocks": packet(chunk(SACK, sack_body([(1, 1)] * (DEFAULT_LIMITS.gap_blocks + 1)))),
    "sack with a gap block from 0": packet(chunk(SACK, sack_body([(0, 5)]))),
    "sack with a gap block backwards": packet(chunk(SACK, sack_body([(5, 4)]))),
    "shutdown cut short": packet(chunk(SHUTDOWN, bytes(3))),
    "huge cookie": packet(chunk(COOKIE_ECHO, bytes(DEFAULT_LIMITS.cookie + 1))),
    "forward tsn with half a stream": packet(chunk(192, bytes(6))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_packet_is_refused(name: str) -> None:
    with pytest.raises(WireError) as caught:
        check_packet(HOSTILE[name])
    assert caught.value.code == "bad_sctp"
    assert str(caught.value).startswith("malformed SCTP packet: ")


def honest_chunks() -> list[Chunk]:
    data = DataChunk(flags=3)
    data.user_data = b"x" * 1160
    init, init_ack = InitChunk(), InitAckChunk()
    for item in (init, init_ack):
        item.initiate_tag, item.advertised_rwnd, item.outbound_streams, item.inbound_streams = 9, 1048576, 65535, 65535
        item.params = [(0xC000, b""), (0x8008, bytes([192, 130])), (7, bytes(24))]
    sack = SackChunk()
    sack.gaps = [(2, 5), (7, 7), (9, 900)]
    sack.duplicates = [1, 2, 3]
    heartbeat, heartbeat_ack, reset = HeartbeatChunk(), HeartbeatAckChunk(), ReconfigChunk()
    heartbeat.params = heartbeat_ack.params = [(1, b"some information")]
    reset.params = [(13, bytes(12) + struct.pack("!HHH", 1, 3, 5)), (16, bytes(8))]
    shutdown = ShutdownChunk()
    cookie = CookieEchoChunk(body=bytes(500))
    return [
        data,
        init,
        init_ack,
        sack,
        heartbeat,
        heartbeat_ack,
        reset,
        shutdown,
        cookie,
        AbortChunk(),
        ErrorChunk(),
        CookieAckChunk(),
    ]


@pytest.mark.parametrize("item", honest_chunks(), ids=lambda item: type(item).__name__)
def test_honest_packet_passes(item: Chunk) -> None:
    check_packet(serialize_packet(5000, 5000, 1, item))


def test_limits_are_inclusive() -> None:
    check_packet(packet(*[data_chunk()] * 60))
    check_packet(packet(*[chunk(11)] * DEFAULT_LIMITS.chunks))
    check_packet(packet(chunk(SACK, sack_body([(1, 1)] * DEFAULT_LIMITS.gap_blocks))))
    check_packet(packet(chunk(HEARTBEAT, parameter(1, b"") * DEFAULT_LIMITS.parameters)))
    check_packet(packet(chunk(COOKIE_ECHO, bytes(DEFAULT_LIMITS.cookie))))


def test_unknown_chunks_are_left_to_the_parser() -> None:
    check_packet(packet(chunk(64, b"?"), chunk(255), data_chunk()))


chunk_bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda head, kind, value, length: head + parameter(kind, value, length),
        st.sampled_from([b"", init_body()]),
        st.sampled_from([1, 7, 13, 16, 17, 0x8008]),
        st.binary(max_size=14),
        st.sampled_from([None, 0, 1, 3, 4, 5, 65535]),
    ),
)
chunks = st.builds(
    chunk,
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 130, 192, 77]),
    chunk_bodies,
    st.sampled_from([None, None, None, 0, 4, 16, 65535]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(chunks, max_size=5))
def test_packet_is_refused_or_the_parser_takes_it(parts: list[bytes]) -> None:
    """The law of the guard: behind it the library neither raises nor hangs."""
    raw = packet(*parts)
    try:
        check_packet(raw)
    except WireError:
        return
    whole = raw[:8] + struct.pack("<L", crc32c(raw[:8] + bytes(4) + raw[12:])) + raw[12:]
    parse_packet(whole)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_pass(raw: bytes) -> None:
    with suppress(WireError):
        check_packet(raw)


def test_worst_packet_costs_little() -> None:
    """Two thousand of the most expensive packets take less than a second even on a slow machine."""
    worst = packet(chunk(SACK, sack_body([(1, 65535)] * DEFAULT_LIMITS.gap_blocks)))
    start = time.process_time()
    for _ in range(2000):
        check_packet(worst)
    assert time.process_time() - start < 1.0
