"""The Data Channel Establishment Protocol (RFC 8832): its two messages as values. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mxrtc_bridge.core.errors import WireError

ACK = b"\x02"
_OPEN = 3
_HEADER = struct.Struct("!BBHLHH")
_RELIABLE_ORDERED = 0x00


@dataclass(frozen=True, slots=True)
class Open:
    """DATA_CHANNEL_OPEN (RFC 8832 section 5.1)."""

    label: str
    protocol: str
    reliable_ordered: bool = True
    """False for every other channel type; we do not serve those."""


def format_open(message: Open) -> bytes:
    """Write an OPEN for a reliable, ordered channel."""
    label, protocol = message.label.encode(), message.protocol.encode()
    return _HEADER.pack(_OPEN, _RELIABLE_ORDERED, 0, 0, len(label), len(protocol)) + label + protocol


def parse_message(data: bytes, max_name: int) -> Open | None:
    """Read a DCEP message; None is an ACK.

    Args:
        data: the message.
        max_name: limit for label and protocol together, in bytes.

    Raises:
        WireError: it is neither, or breaks the format or the limit.
    """
    if data[:1] == ACK:
        return None
    if len(data) < _HEADER.size or data[0] != _OPEN:
        raise WireError("bad_dcep", "a control message of a data channel is neither OPEN nor ACK")
    _, kind, _, _, label_size, protocol_size = _HEADER.unpack_from(data)
    if label_size + protocol_size > max_name:
        text = f"label and protocol of a channel take {label_size + protocol_size} bytes; the limit is {max_name}"
        raise WireError("bad_dcep", text)
    if len(data) != _HEADER.size + label_size + protocol_size:
        raise WireError("bad_dcep", "the lengths in a channel's OPEN do not add up")
    label, protocol = data[_HEADER.size : _HEADER.size + label_size], data[_HEADER.size + label_size :]
    try:
        return Open(label.decode(), protocol.decode(), kind == _RELIABLE_ORDERED)
    except UnicodeDecodeError as error:
        raise WireError("bad_dcep", "label or protocol of a channel is not UTF-8") from error
