"""The wire formats of RFC 9260 section 3 and its extensions: numbers, structures, and how chunks are written.

Reading a control chunk is done by functions that return a value or raise :class:`MalformedError`; DATA is read in place
by those who handle it, with the structures defined here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct, error
from typing import Any

# Chunk types (RFC 9260 section 3.2, RFC 3758, RFC 4820, RFC 6525, RFC 8260).
DATA = 0
INIT = 1
INIT_ACK = 2
SACK = 3
HEARTBEAT = 4
HEARTBEAT_ACK = 5
ABORT = 6
SHUTDOWN = 7
SHUTDOWN_ACK = 8
ERROR = 9
COOKIE_ECHO = 10
COOKIE_ACK = 11
SHUTDOWN_COMPLETE = 14
I_DATA = 64
RE_CONFIG = 130
PAD = 132
PIECE = 183
"""Ours: see :mod:`mxrtc_bridge.sctp.pieces`."""
FORWARD_TSN = 192
I_FORWARD_TSN = 194

# Flags of DATA and I-DATA.
ENDS = 0x01
BEGINS = 0x02
UNORDERED = 0x04
IMMEDIATE = 0x08

# Flag of ABORT and SHUTDOWN-COMPLETE: the tag is the one that the sender uses, not the one it was told.
REFLECTED_TAG = 0x01

# Error causes (RFC 9260 section 3.3.10).
INVALID_STREAM = 1
STALE_COOKIE = 3
UNRECOGNIZED_CHUNK = 6
USER_ABORT = 12
PROTOCOL_VIOLATION = 13

MAX_PARAMETERS = 64
"""Parameters or causes in one chunk that are looked at; more is malformed."""

HEADER = Struct("!HHLL")
CHUNK = Struct("!BBH")
DATA_HEADER = Struct("!BBHLHHL")
I_DATA_HEADER = Struct("!BBHLHHLL")
SACK_HEADER = Struct("!BBHLLHH")
PAIR = Struct("!HH")
_TSN_CHUNK = Struct("!BBHL")
_TRIPLE = Struct("!HHL")

HEADER_SIZE = 12
_ZEROS = bytes(4)


class MalformedError(Exception):
    """A chunk that the other side should not have written; the text says what is wrong with it."""


def padding(size: int) -> bytes:
    """Return the zeros that follow ``size`` bytes, up to a multiple of four."""
    return _ZEROS[: -size & 3]


def chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Return a chunk, padded."""
    return b"".join((CHUNK.pack(kind, flags, 4 + len(body)), body, padding(len(body))))


def parameter(kind: int, value: bytes) -> bytes:
    """Return a parameter or an error cause, padded: a chunk may hold several."""
    return b"".join((PAIR.pack(kind, 4 + len(value)), value, padding(len(value))))


def parameters(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each parameter.

    Raises:
        MalformedError: a length that does not fit, or more than 64 parameters.
    """
    position, size, count = 0, len(body), 0
    while size - position >= 4:
        kind, length = PAIR.unpack_from(body, position)
        if length < 4 or position + length > size:
            raise MalformedError(f"a parameter of {length} bytes in the {size - position} that remain")
        count += 1
        if count > MAX_PARAMETERS:
            raise MalformedError(f"more than {MAX_PARAMETERS} parameters")
        yield kind, body[position + 4 : position + length]
        position += length + (-length & 3)


def sack(cumulative: int, window: int, blocks: Sequence[int], duplicates: Sequence[int]) -> bytes:
    """Return a SACK (RFC 9260 section 3.3.4).

    Args:
        cumulative: TSN, 32 bits.
        window: a_rwnd.
        blocks: start and end of each gap block in turn, as offsets of 16 bits.
        duplicates: TSNs, 32 bits.
    """
    size = 16 + 2 * len(blocks) + 4 * len(duplicates)
    head = SACK_HEADER.pack(SACK, 0, size, cumulative, window, len(blocks) // 2, len(duplicates))
    if not blocks and not duplicates:
        return head
    return head + Struct(f"!{len(blocks)}H{len(duplicates)}L").pack(*blocks, *duplicates)


def read_sack(
    packet: bytes, position: int, length: int, limit: int
) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Return cumulative TSN, a_rwnd, at most ``limit`` gap blocks (as :func:`sack` takes them) and duplicate TSNs."""
    if length < 16:
        raise MalformedError(f"a SACK of {length} bytes")
    _, _, _, cumulative, window, blocks, duplicates = SACK_HEADER.unpack_from(packet, position)
    if 16 + 4 * (blocks + duplicates) != length:
        raise MalformedError(f"{blocks} gap blocks and {duplicates} duplicates in a SACK of {length} bytes")
    if not blocks and not duplicates:
        return cumulative, window, (), ()
    offsets = Struct(f"!{2 * min(blocks, limit)}H").unpack_from(packet, position + 16)
    repeated = Struct(f"!{min(duplicates, limit)}L").unpack_from(packet, position + 16 + 4 * blocks)
    return cumulative, window, offsets, repeated


def tsn_chunk(kind: int, tsn: int, rest: bytes = b"") -> bytes:
    """Return a chunk that begins with a TSN: SHUTDOWN, FORWARD-TSN, I-FORWARD-TSN."""
    return _TSN_CHUNK.pack(kind, 0, 8 + len(rest), tsn) + rest


def forward_tsn(tsn: int, skipped: Sequence[tuple[int, int]]) -> bytes:
    """Return a FORWARD-TSN (RFC 3758 section 3.2) with (stream, sequence number) of each ordered stream skipped."""
    return tsn_chunk(FORWARD_TSN, tsn, b"".join([PAIR.pack(*pair) for pair in skipped]))


def i_forward_tsn(tsn: int, skipped: Sequence[tuple[int, int, int]]) -> bytes:
    """Return an I-FORWARD-TSN (RFC 8260 section 2.3.1) with (stream, 1 if unordered, message id) of each skipped."""
    return tsn_chunk(I_FORWARD_TSN, tsn, b"".join([_TRIPLE.pack(*triple) for triple in skipped]))


def read_forward_tsn(body: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Return what :func:`forward_tsn` takes.

    Raises:
        MalformedError: a size that does not fit.
    """
    return _read_skipped("a FORWARD-TSN", PAIR, body)


def read_i_forward_tsn(body: bytes) -> tuple[int, list[tuple[int, int, int]]]:
    """Return what :func:`i_forward_tsn` takes.

    Raises:
        MalformedError: a size that does not fit.
    """
    tsn, skipped = _read_skipped("an I-FORWARD-TSN", _TRIPLE, body)
    return tsn, [(stream, flags & 1, message) for stream, flags, message in skipped]


def _read_skipped(name: str, each: Struct, body: bytes) -> tuple[int, list[Any]]:
    if len(body) < 4:
        raise MalformedError(f"{name} without a TSN")
    try:
        return int.from_bytes(body[:4], "big"), list(each.iter_unpack(body[4:]))
    except error:
        raise MalformedError(f"{name} of {len(body)} bytes") from None


def abort(cause: int, text: str) -> bytes:
    """Return an ABORT with one cause and a sentence."""
    return chunk(ABORT, parameter(cause, text.encode("ascii", "backslashreplace")[:256]))


def read_causes(body: bytes) -> str:
    """Return the error causes of an ABORT or ERROR in words, whatever was written there."""
    said = []
    try:
        for kind, value in parameters(body):
            text = value.decode("ascii", "backslashreplace")[:200] if kind in (USER_ABORT, PROTOCOL_VIOLATION) else ""
            said.append(f"cause {kind} {text!a}" if text else f"cause {kind}")
    except MalformedError:
        said.append("a malformed cause")
    return ", ".join(said[:4]) or "no cause given"
