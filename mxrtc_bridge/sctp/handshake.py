"""INIT, INIT-ACK and the state cookie (RFC 9260 sections 3.3.2, 3.3.3, 5.1 and 5.2).

The side that answers an INIT keeps nothing: all it needs comes back in the cookie, under a MAC. Both sides of a data
channel connection send an INIT at once (RFC 8841 section 9.3), so every set-up is a collision (section 5.2.1); it works
because an association has one tag and one initial TSN for its whole life, whichever chunk they go out in.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import MalformedError

_FIXED = Struct("!LLHHL")
_COOKIE = Struct("!dLLLHHLB")
_MAC_SIZE = 32

_STATE_COOKIE = 0x0007
_UNRECOGNIZED = 0x0008
_ZERO_CHECKSUM = 0x8001
_SUPPORTED_EXTENSIONS = 0x8008
_FORWARD_TSN_SUPPORTED = 0xC000
_OVER_DTLS = (1).to_bytes(4, "big")
"""The error detection method of RFC 9653 section 8: DTLS."""

MAX_COOKIE = 1024
"""Of the other side; it goes back in one packet."""


class RandomValues(NamedTuple):
    """What one side draws for one association.

    Attributes:
        tag: our verification tag; not 0.
        initial_tsn: 32 bits.
        cookie_key: at least 16 bytes.
    """

    tag: int
    initial_tsn: int
    cookie_key: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one side says of itself in its INIT or INIT-ACK.

    Attributes:
        skips_unknown: it names extensions that most do without, so it can be trusted to skip a chunk that it does not
            know (RFC 9260 section 3.2). Small implementations name the two that browsers need, and werift 0.24 throws
            an exception at any other chunk, PAD among them.
        pieces: it takes chunks in pieces (:mod:`mxrtc_bridge.sctp.pieces`).
    """

    tag: int
    window: int
    outbound_streams: int
    inbound_streams: int
    initial_tsn: int
    interleaving: bool = False
    partial: bool = False
    reconfiguration: bool = False
    zero_checksum: bool = False
    skips_unknown: bool = False
    pieces: bool = False


@dataclass(frozen=True, slots=True)
class Greeting:
    """A received INIT or INIT-ACK.

    Attributes:
        proposal: what the other side says.
        cookie: the state cookie, empty in an INIT.
        unrecognized: parameters to report, as they came.
    """

    proposal: Proposal
    cookie: bytes
    unrecognized: tuple[bytes, ...]


def format_greeting(kind: int, ours: Proposal, cookie: bytes = b"", unrecognized: tuple[bytes, ...] = ()) -> bytes:
    """Return an INIT (no cookie) or an INIT-ACK."""
    extensions = [chunks.RE_CONFIG, chunks.FORWARD_TSN]
    if ours.skips_unknown:
        extensions.append(chunks.PAD)
    if ours.interleaving:
        extensions += [chunks.I_DATA, chunks.I_FORWARD_TSN]
    if ours.pieces:
        extensions.append(chunks.PIECE)
    body = [
        _FIXED.pack(ours.tag, ours.window, ours.outbound_streams, ours.inbound_streams, ours.initial_tsn),
        chunks.parameter(_FORWARD_TSN_SUPPORTED, b""),
        chunks.parameter(_SUPPORTED_EXTENSIONS, bytes(extensions)),
    ]
    if ours.zero_checksum:
        body.append(chunks.parameter(_ZERO_CHECKSUM, _OVER_DTLS))
    body += [chunks.parameter(_UNRECOGNIZED, whole) for whole in unrecognized]
    if cookie:
        body.append(chunks.parameter(_STATE_COOKIE, cookie))
    return chunks.chunk(kind, b"".join(body))


def read_greeting(body: bytes) -> Greeting:  # noqa: C901 - one pass
    """Return what an INIT or INIT-ACK says.

    Raises:
        MalformedError: no tag, no streams, a cookie that is too long, or parameters that cannot be read.
    """
    if len(body) < _FIXED.size:
        raise MalformedError(f"an INIT of {len(body)} bytes")
    tag, window, outbound, inbound, tsn = _FIXED.unpack_from(body)
    if not tag or not outbound or not inbound:
        raise MalformedError("an INIT without a tag or without streams")
    cookie, unrecognized, extensions = b"", [], b""
    partial = zero = False
    for kind, value in chunks.parameters(body[_FIXED.size :]):
        if kind == _STATE_COOKIE:
            cookie = value
        elif kind == _SUPPORTED_EXTENSIONS:
            extensions = value
        elif kind == _FORWARD_TSN_SUPPORTED:
            partial = True
        elif kind == _ZERO_CHECKSUM:
            zero = value == _OVER_DTLS
        elif kind not in _IGNORED:
            if kind & 0x4000:
                unrecognized.append(chunks.parameter(kind, value[:64]))
            if not kind & 0x8000:
                break  # section 3.2.1: the rest must not be looked at
    if len(cookie) > MAX_COOKIE:
        raise MalformedError(f"a cookie of {len(cookie)} bytes; the limit is {MAX_COOKIE}")
    proposal = Proposal(
        tag,
        window,
        outbound,
        inbound,
        tsn,
        interleaving=chunks.I_DATA in extensions,
        partial=partial or chunks.FORWARD_TSN in extensions,
        reconfiguration=chunks.RE_CONFIG in extensions,
        zero_checksum=zero,
        skips_unknown=not _COMMON.issuperset(extensions),
        pieces=chunks.PIECE in extensions,
    )
    return Greeting(proposal, cookie, tuple(unrecognized[:8]))


_COMMON = frozenset({chunks.RE_CONFIG, chunks.FORWARD_TSN})
_IGNORED = frozenset({5, 6, 9, 11, 12, 13, _UNRECOGNIZED, 0x8000, 0x8002, 0x8003, 0x8004, 0xC004, 0xC006})
"""Known parameters that mean nothing over DTLS: addresses, cookie preservation, ECN, AUTH, address reconfiguration."""


def make_cookie(key: bytes, now: float, ours: int, theirs: Proposal) -> bytes:
    """Return a cookie that :func:`open_cookie` turns back into ``theirs``.

    Args:
        key: secret of this association.
        now: seconds.
        ours: our tag.
        theirs: from the INIT.
    """
    flags = theirs.interleaving | theirs.partial << 1 | theirs.reconfiguration << 2 | theirs.zero_checksum << 3
    flags |= theirs.skips_unknown << 4 | theirs.pieces << 5
    streams = (theirs.outbound_streams, theirs.inbound_streams)
    state = _COOKIE.pack(now, ours, theirs.tag, theirs.window, *streams, theirs.initial_tsn, flags)
    return state + hmac.digest(key, state, hashlib.sha256)


def open_cookie(key: bytes, ours: int, cookie: bytes) -> tuple[float, Proposal] | None:
    """Return when a cookie was made and what is in it, or None if we did not make it for the tag ``ours``."""
    if len(cookie) != _COOKIE.size + _MAC_SIZE:
        return None
    state = cookie[: _COOKIE.size]
    if not hmac.compare_digest(hmac.digest(key, state, hashlib.sha256), cookie[_COOKIE.size :]):
        return None
    made_at, tag, their_tag, window, outbound, inbound, tsn, flags = _COOKIE.unpack(state)
    if tag != ours:
        return None
    proposal = Proposal(
        their_tag,
        window,
        outbound,
        inbound,
        tsn,
        interleaving=bool(flags & 1),
        partial=bool(flags & 2),
        reconfiguration=bool(flags & 4),
        zero_checksum=bool(flags & 8),
        skips_unknown=bool(flags & 16),
        pieces=bool(flags & 32),
    )
    return made_at, proposal
