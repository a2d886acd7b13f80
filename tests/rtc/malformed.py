"""SCTP chunks that break their format, each in another way; :func:`seal` makes otherwise good packets of them."""

from __future__ import annotations

import struct

from google_crc32c import value as crc32c

DATA, INIT, SACK, HEARTBEAT, ABORT, SHUTDOWN, ERROR, COOKIE_ECHO, RECONFIG = 0, 1, 3, 4, 6, 7, 9, 10, 130


def join(*chunks: bytes) -> bytes:
    return b"".join(chunks)


def chunk(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    size = 4 + len(body) if length is None else length
    return struct.pack("!BBH", kind, 0, size) + body + bytes(-len(body) % 4)


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HH", kind, 4 + len(value) if length is None else length) + value + bytes(-len(value) % 4)


def init_body(tag: int = 1, window: int = 65536, outbound: int = 1, inbound: int = 1) -> bytes:
    return struct.pack("!LLHHL", tag, window, outbound, inbound, 7)


def sack_body(gaps: list[tuple[int, int]], duplicates: int = 0) -> bytes:
    body = struct.pack("!LLHH", 1, 65536, len(gaps), duplicates)
    return body + b"".join(struct.pack("!HH", *gap) for gap in gaps) + bytes(4 * duplicates)


HOSTILE = {
    "header only": join(),
    "chunk of length 0": join(chunk(DATA, length=0)),
    "chunk of length 3": join(chunk(DATA, length=3)),
    "chunk beyond the packet": join(chunk(HEARTBEAT, b"abcd", length=9)),
    "data without user data": join(chunk(DATA, bytes(12))),
    "data cut short": join(chunk(DATA, bytes(4))),
    "hundreds of chunks": join(*[chunk(11)] * 280),
    "init with company": join(chunk(INIT, init_body()), chunk(11)),
    "init behind company": join(chunk(11), chunk(INIT, init_body())),
    "init without tag": join(chunk(INIT, init_body(tag=0))),
    "init without outbound streams": join(chunk(INIT, init_body(outbound=0))),
    "init without inbound streams": join(chunk(INIT, init_body(inbound=0))),
    "init with a tiny window": join(chunk(INIT, init_body(window=1499))),
    "init cut short": join(chunk(INIT, init_body()[:-1])),
    "init ack with a parameter of length 0": join(chunk(2, init_body() + parameter(7, b"", 0))),
    "init with a parameter of length 0": join(chunk(INIT, init_body() + parameter(0x8008, b"", 0))),
    "heartbeat with a parameter of length 0": join(chunk(HEARTBEAT, parameter(1, b"abcd", 0))),
    "heartbeat ack with a parameter of length 3": join(chunk(5, parameter(1, b"abcd", 3))),
    "heartbeat with a parameter beyond the chunk": join(chunk(HEARTBEAT, parameter(1, b"abcd", 9))),
    "abort with a cause of length 0": join(chunk(ABORT, parameter(1, b"", 0))),
    "error with a cause of length 1": join(chunk(ERROR, parameter(1, b"", 1))),
    "reconfig with a parameter of length 0": join(chunk(RECONFIG, parameter(13, b"", 0))),
    "reset cut short": join(chunk(RECONFIG, parameter(13, bytes(11)))),
    "reset with half a stream": join(chunk(RECONFIG, parameter(13, bytes(13)))),
    "reset response cut short": join(chunk(RECONFIG, parameter(16, bytes(7)))),
    "added streams cut short": join(chunk(RECONFIG, parameter(17, bytes(7)))),
    "too many parameters": join(chunk(HEARTBEAT, parameter(1, b"") * (33))),
    "sack cut short": join(chunk(SACK, bytes(11))),
    "sack with missing gap blocks": join(chunk(SACK, struct.pack("!LLHH", 1, 1, 1, 0))),
    "sack with missing duplicates": join(chunk(SACK, struct.pack("!LLHH", 1, 1, 0, 65535))),
    "sack with too much in it": join(chunk(SACK, sack_body([]) + bytes(4))),
    "sack with too many gap blocks": join(chunk(SACK, sack_body([(1, 1)] * (321)))),
    "sack with a gap block from 0": join(chunk(SACK, sack_body([(0, 5)]))),
    "sack with a gap block backwards": join(chunk(SACK, sack_body([(5, 4)]))),
    "shutdown cut short": join(chunk(SHUTDOWN, bytes(3))),
    "huge cookie": join(chunk(COOKIE_ECHO, bytes(1025))),
    "forward tsn with half a stream": join(chunk(192, bytes(6))),
}

DROPPED = {
    "header only",
    "chunk of length 0",
    "chunk of length 3",
    "chunk beyond the packet",
    "hundreds of chunks",
    "init with company",
    "init behind company",
    "init without tag",
    "init without outbound streams",
    "init without inbound streams",
    "init with a tiny window",
    "init cut short",
    "init ack with a parameter of length 0",
    "init with a parameter of length 0",
    "heartbeat with a parameter of length 0",
    "heartbeat with a parameter beyond the chunk",
    "error with a cause of length 1",
    "added streams cut short",
    "too many parameters",
    "huge cookie",
}
"""Those that are dropped and counted; the others end the association of their sender."""


def seal(chunks: bytes, tag: int) -> bytes:
    """Put a header with a good checksum before chunks."""
    header = struct.pack("!HHL", 5000, 5000, tag)
    return header + crc32c(header + bytes(4) + chunks).to_bytes(4, "little") + chunks
