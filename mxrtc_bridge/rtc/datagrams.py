"""The border between the network and ICE: every datagram of every local socket comes through here first.

Must never let a datagram raise into the event loop, and never pass anything but STUN to the STUN parser. Payload is
told from STUN by its first byte (RFC 7983) and goes to the connection, which knows the addresses it trusts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol, cast

from aioice.ice import Connection, StunProtocol

Address = tuple[str, int]

PARSER_ERRORS = (struct.error, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError)
"""What the STUN parser and its handlers raise for malformed messages."""


@dataclass(slots=True)
class Drops:
    """Counts of datagrams that were thrown away, by reason. Counters and not log lines: strangers drive them."""

    empty: int = 0
    malformed: int = 0
    """Not STUN, although the first byte said so, or STUN that does not parse."""
    stranger: int = 0
    """Payload from an address without a successful connectivity check."""
    overflow: int = 0
    """Payload that found the receive queue full."""
    excess: int = 0
    """Checks and candidates beyond the limits for addresses and pairs."""

    def total(self) -> int:
        """All of them together."""
        return self.empty + self.malformed + self.stranger + self.overflow + self.excess


class DatagramReceiver(Protocol):
    """What a socket, or a relayed one, needs from the connection it belongs to."""

    drops: Drops

    def payload_received(self, data: bytes, address: Address) -> None:
        """Take one datagram that is not STUN."""
        ...


class GuardedStun(StunProtocol):
    """A socket of an ICE connection, or a relayed one, that survives whatever arrives."""

    def __init__(self, receiver: DatagramReceiver) -> None:
        super().__init__(cast(Connection, receiver))
        self._guard = receiver

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        if not data:
            self._guard.drops.empty += 1
        elif data[0] > 3:
            self._guard.payload_received(data, (addr[0], addr[1]))
        elif not hasattr(self, "local_candidate"):
            self._guard.drops.malformed += 1  # arrived before the socket is part of the connection
        else:
            try:
                super().datagram_received(data, addr)
            except PARSER_ERRORS:
                self._guard.drops.malformed += 1
