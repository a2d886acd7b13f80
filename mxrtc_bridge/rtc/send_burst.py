"""How much one turn of an association sends before others get theirs.

Long turns are cheap: the kernel, OpenSSL and the other side's receive path take many packets for little more than one.
But whatever comes in the meantime, a keystroke or its echo, waits for the end of the turn, on both sides. So turns are
long while all that moves is bulk, and short while somebody exchanges small messages beside it.
"""

from __future__ import annotations

from mxrtc_bridge.rtc.channel import DataChannel

LONG_TURN = 45
"""Packets: what fits into one call of the kernel at the size that Ethernet carries; 64 KB, 0.4 ms of work."""
SHORT_TURN = 8
"""A tenth of a millisecond. A bulk stream that the processor limits gets about two thirds of its rate meanwhile."""
SMALL_MESSAGE = 1024
SHORT_FOR_S = 0.1
"""After a small message: most answers that a person waits for come within this time."""
BULKY_FOR_S = 1.0
"""After a large message on a channel its small ones are about the large ones: acknowledgements, ends."""


class SendBurst:
    """Chooses the length of turns from the messages that pass."""

    __slots__ = ("_short_until",)

    def __init__(self) -> None:
        self._short_until = 0.0

    def passed(self, now: float, channel: DataChannel, size: int, *, beside_bulk: bool) -> None:
        """Note a message.

        Args:
            now: seconds.
            channel: that it was sent on, or came from.
            size: bytes.
            beside_bulk: whether other messages wait for sending.
        """
        if size > SMALL_MESSAGE:
            channel.bulky_until = now + BULKY_FOR_S
        elif beside_bulk and channel.bulky_until <= now:
            self._short_until = now + SHORT_FOR_S

    def packets(self, now: float) -> int:
        """Return how many packets this turn may send."""
        return SHORT_TURN if now < self._short_until else LONG_TURN
