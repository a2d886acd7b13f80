"""The common header of a packet and its checksum (RFC 9260 section 3.1 and appendix A, RFC 9653).

All packets of one direction have the same ports and tag, so the checksum over the header is computed once, and that of
a packet goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from google_crc32c import extend

_START = Struct("!HHL")
_NO_CHECKSUM = bytes(4)


class PacketWriter:
    """Puts the common header before chunks.

    Args:
        source: SCTP port.
        destination: SCTP port.
        tag: what the receiver expects (its initiate tag).
        zero_checksum: write zero where the checksum would be.
    """

    __slots__ = ("_seed", "_start", "_zero")

    def __init__(self, source: int, destination: int, tag: int, *, zero_checksum: bool = False) -> None:
        self._start = _START.pack(source, destination, tag)
        self._zero: bytes | None = self._start + _NO_CHECKSUM if zero_checksum else None
        self._seed = int(extend(0, self._start + _NO_CHECKSUM))

    def write(self, chunks: Iterable[bytes]) -> bytes:
        """Return a packet of padded chunks."""
        body = b"".join(chunks)
        if self._zero is not None:
            return self._zero + body
        return b"".join((self._start, extend(self._seed, body).to_bytes(4, "little"), body))


def checksum_matches(packet: bytes) -> bool:
    """Whether the checksum of a packet of at least 12 bytes is the CRC32c of it."""
    computed = extend(extend(0, packet[:8] + _NO_CHECKSUM), packet[12:])
    return bool(computed == int.from_bytes(packet[8:12], "little"))
