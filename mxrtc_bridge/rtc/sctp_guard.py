"""Looks at an SCTP packet before the library does. Pure, and linear in the length of the packet.

Must never let a packet pass on which the parser behind it would loop, allocate without bound or raise: parameters of
length zero, lengths beyond their container, gap blocks by the hundred. It does not judge whether a chunk makes sense
in the present state; the association does.

Chunk formats: RFC 9260 section 3, RFC 6525 section 4 (re-configuration).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mxrtc_bridge.core.errors import WireError

COMMON_HEADER = 12
CHUNK_HEADER = 4

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN = range(8)
ERROR, COOKIE_ECHO = 9, 10
RECONFIG = 130
FORWARD_TSN = 192

_INIT_FIXED = 16
_SACK_FIXED = 12
_MIN_BODY = {DATA: 13, INIT: _INIT_FIXED, INIT_ACK: _INIT_FIXED, SACK: _SACK_FIXED, SHUTDOWN: 4, FORWARD_TSN: 4}
"""Smallest body of a chunk; DATA without user data is an error of its own (RFC 9260 section 6.2)."""
_WITH_PARAMETERS = {INIT, INIT_ACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, ERROR, RECONFIG}
_MIN_RECONFIG = {13: 12, 16: 8, 17: 8}
"""Smallest value of the re-configuration parameters that the library reads."""
_MIN_WINDOW = 1500
"""RFC 9260 section 3.3.2: an INIT with a smaller window is answered with ABORT."""


@dataclass(frozen=True, slots=True)
class PacketLimits:
    """What one packet may hold."""

    size: int = 2048
    chunks: int = 128
    """A full packet of the smallest DATA chunks has 75."""
    parameters: int = 32
    gap_blocks: int = 320
    """A full packet has room for about 290."""
    duplicates: int = 320
    cookie: int = 1024


DEFAULT_LIMITS = PacketLimits()


def _malformed(text: str) -> WireError:
    return WireError("bad_sctp", f"malformed SCTP packet: {text}")


def check_packet(data: bytes, limits: PacketLimits = DEFAULT_LIMITS) -> None:
    """Check the structure of a packet.

    Raises:
        WireError: it must not reach the parser.
    """
    size = len(data)
    if not COMMON_HEADER + CHUNK_HEADER <= size <= limits.size:
        raise _malformed(f"{size} bytes; the limits are {COMMON_HEADER + CHUNK_HEADER} and {limits.size}")
    position = COMMON_HEADER
    count = 0
    alone = True
    while position + CHUNK_HEADER <= size:
        kind, _, length = struct.unpack_from("!BBH", data, position)
        if length < CHUNK_HEADER or position + length > size:
            raise _malformed(f"a chunk of type {kind} claims {length} bytes")
        count += 1
        if count > limits.chunks:
            raise _malformed(f"more than {limits.chunks} chunks")
        if kind in (INIT, INIT_ACK):
            alone = False
        if kind != DATA or length < CHUNK_HEADER + _MIN_BODY[DATA]:
            _check_chunk(kind, data[position + CHUNK_HEADER : position + length], limits)
        position += length + -length % 4
    if not alone and count > 1:
        raise _malformed("an INIT must be alone in its packet")


def _check_chunk(kind: int, body: bytes, limits: PacketLimits) -> None:
    if len(body) < _MIN_BODY.get(kind, 0):
        raise _malformed(f"a chunk of type {kind} has a body of {len(body)} bytes")
    if kind == SACK:
        _check_sack(body, limits)
    elif kind in (INIT, INIT_ACK):
        _check_init(body)
    elif kind == FORWARD_TSN and len(body) % 4:
        raise _malformed("a FORWARD-TSN has a broken list of streams")
    elif kind == COOKIE_ECHO and len(body) > limits.cookie:
        raise _malformed(f"a cookie of {len(body)} bytes; the limit is {limits.cookie}")
    if kind in _WITH_PARAMETERS:
        _check_parameters(kind, body[_INIT_FIXED:] if kind in (INIT, INIT_ACK) else body, limits)


def _check_init(body: bytes) -> None:
    tag, window, outbound, inbound = struct.unpack_from("!LLHH", body)
    if not tag or not outbound or not inbound or window < _MIN_WINDOW:
        raise _malformed("an INIT without tag, streams or window")


def _check_sack(body: bytes, limits: PacketLimits) -> None:
    gaps, duplicates = struct.unpack_from("!HH", body, 8)
    if gaps > limits.gap_blocks or duplicates > limits.duplicates:
        raise _malformed(f"a SACK with {gaps} gap blocks and {duplicates} duplicates")
    if len(body) != _SACK_FIXED + 4 * (gaps + duplicates):
        raise _malformed("the lists of a SACK do not fill it")
    if gaps:
        values = struct.unpack_from(f"!{2 * gaps}H", body, _SACK_FIXED)
        if any(not 0 < first <= last for first, last in zip(values[::2], values[1::2], strict=True)):
            raise _malformed("a gap block ends before it starts")


def _check_parameters(chunk: int, body: bytes, limits: PacketLimits) -> None:
    position = 0
    count = 0
    while position + 4 <= len(body):
        kind, length = struct.unpack_from("!HH", body, position)
        if length < 4 or position + length > len(body):
            raise _malformed(f"a parameter of type {kind} claims {length} bytes")
        if chunk == RECONFIG and length - 4 < _MIN_RECONFIG.get(kind, 0):
            raise _malformed(f"a re-configuration of type {kind} has {length} bytes")
        if chunk == RECONFIG and kind == 13 and length % 2:
            raise _malformed("a stream reset has a broken list of streams")
        count += 1
        if count > limits.parameters:
            raise _malformed(f"more than {limits.parameters} parameters")
        position += length + -length % 4
