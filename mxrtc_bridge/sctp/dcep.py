"""The messages that open a data channel (RFC 8832 section 5): OPEN and ACK.

Lengths count bytes of UTF-8, not characters: implementations that confuse the two cut labels, so whoever wants to be
understood by all uses ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from mxrtc_bridge.sctp.chunks import MalformedError

ACK = b"\x02"
_OPEN = 3
_HEAD = Struct("!BBHLHH")

_RETRANSMISSIONS = 1
_LIFETIME = 2
_UNORDERED = 0x80

MAX_NAME = 1024
"""Bytes of label and protocol together that are taken."""


@dataclass(frozen=True, slots=True)
class OpenMessage:
    """A DATA_CHANNEL_OPEN.

    Attributes:
        label: any text.
        protocol: a subprotocol name, or empty.
        ordered: messages arrive in the order of sending.
        lifetime: seconds after which a message is given up; None for never.
        max_retransmissions: after which a message is given up; None for never.
        priority: as in RFC 8831 section 6.4; 256 is normal.
    """

    label: str
    protocol: str
    ordered: bool = True
    lifetime: float | None = None
    max_retransmissions: int | None = None
    priority: int = 256

    @property
    def reliable(self) -> bool:
        """Whether no message is ever given up."""
        return self.lifetime is None and self.max_retransmissions is None


def format_open(opened: OpenMessage) -> bytes:
    """Return the message for a channel; of two reliability limits the number of retransmissions counts."""
    kind, limit = 0, 0
    if opened.max_retransmissions is not None:
        kind, limit = _RETRANSMISSIONS, opened.max_retransmissions
    elif opened.lifetime is not None:
        kind, limit = _LIFETIME, round(opened.lifetime * 1000)
    if not opened.ordered:
        kind |= _UNORDERED
    label, protocol = opened.label.encode(), opened.protocol.encode()
    return _HEAD.pack(_OPEN, kind, opened.priority, limit, len(label), len(protocol)) + label + protocol


def read(message: bytes) -> OpenMessage | None:
    """Return an OPEN, or None for an ACK.

    Raises:
        MalformedError: neither, or longer than the limit: the channel is to be closed (RFC 8832 section 6).
    """
    if message[:1] == ACK:
        return None
    if len(message) < _HEAD.size or message[0] != _OPEN:
        raise MalformedError(f"a channel message of {len(message)} bytes that is neither OPEN nor ACK")
    _, kind, priority, limit, label_size, protocol_size = _HEAD.unpack_from(message)
    end = _HEAD.size + label_size
    if end + protocol_size != len(message) or label_size + protocol_size > MAX_NAME:
        raise MalformedError(f"a channel with names of {label_size} and {protocol_size} bytes in {len(message)}")
    reliability = kind & ~_UNORDERED
    if reliability > _LIFETIME:
        raise MalformedError(f"a channel of the unknown type {kind}")
    try:
        label, protocol = message[_HEAD.size : end].decode(), message[end:].decode()
    except UnicodeDecodeError:
        raise MalformedError("a channel name that is not UTF-8") from None
    return OpenMessage(
        label,
        protocol,
        ordered=not kind & _UNORDERED,
        lifetime=limit / 1000 if reliability == _LIFETIME else None,
        max_retransmissions=limit if reliability == _RETRANSMISSIONS else None,
        priority=priority,
    )
