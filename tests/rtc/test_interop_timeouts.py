"""Other implementations as senders and receivers at once, on a path that loses packets.

How long that may take follows from the path and from the timers of the other side: most of what is lost is repeated
within a round trip; what is lost again waits for a timeout.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.long import LONG
from tests.rtc.implementations import OtherPeer
from tests.rtc.interop_fixtures import node, other, start
from tests.rtc.lossy import LossyPath
from tests.rtc.peers import RecordingChannel, RecordingPeer, make_peer
from tests.rtc.test_interop_loss import send

__all__ = ["node", "other", "start"]

MIB = 1024 * 1024
TOTAL = 8 * MIB if LONG else 4 * MIB
MESSAGE = 16 * 1024
LOSS = 0.05
PACKET = 1100
"""Bytes of a message in most packets."""
UNHURRIED_S = 3.0
"""For what is not lost, on a busy machine."""
TIMEOUTS_S = {"chromium": 0.4, "firefox": 0.4, "libdatachannel": 0.2, "libwebrtc": 0.4, "pion": 1.0}
"""The least that each waits before it repeats what was lost twice, as recorded."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.parametrize("implementation", list(TIMEOUTS_S) if LONG else ["libdatachannel"]),
]


async def test_bulk_both_ways_at_once_waits_for_few_timeouts(other: OtherPeer, implementation: str) -> None:
    """It has to learn of each loss from our acknowledgements, whatever few packets are on their way."""
    ours = RecordingPeer(make_peer())
    try:
        await other.call(ours)
        theirs = await ours.offered_channel()
        await other.until("open", label="first")
        echo = RecordingChannel(ours.peer.open_channel("second", ""))
        await other.until("open", label="second")
        LossyPath(ours, LOSS)
        lost_twice = LOSS**2 * 2 * TOTAL / PACKET
        began = asyncio.get_running_loop().time()
        other.tell(kind="flood", label="first", total=TOTAL, size=MESSAGE)
        await asyncio.gather(
            send(ours, echo, bytes(TOTAL)),
            *(one.until(lambda one: one.received_bytes >= TOTAL, 120) for one in (theirs, echo)),
        )
        took = asyncio.get_running_loop().time() - began
        assert (theirs.received_bytes, echo.received_bytes, ours.lost) == (TOTAL, TOTAL, [])
        assert took <= UNHURRIED_S + lost_twice * TIMEOUTS_S[implementation]
    finally:
        await ours.peer.close()
