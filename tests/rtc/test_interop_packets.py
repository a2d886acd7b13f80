"""Packets to other implementations become as large as to our own: each of them answers some probe."""

from __future__ import annotations

import asyncio

import pytest

from tests.rtc.implementations import OtherPeer
from tests.rtc.interop_fixtures import node, other, start
from tests.rtc.peers import RecordingPeer, make_peer

__all__ = ["node", "other", "start"]

USUAL = 1200
"""Bytes of an IP packet; small ones have 576."""

pytestmark = [pytest.mark.real, pytest.mark.parametrize("implementation", ["pion", "libdatachannel"])]


async def test_packets_become_as_large_as_is_usual(other: OtherPeer) -> None:
    """pion drops the probes that have a chunk for their padding."""
    ours = RecordingPeer(make_peer())
    try:
        await other.call(ours)
        channel = await ours.offered_channel()
        await other.until("open", label="first")
        async with asyncio.timeout(20):
            while (ours.peer.packet_bytes() or 0) < USUAL:
                before = len(channel.events)
                channel.channel.send("again")
                await channel.until(lambda channel, before=before: len(channel.events) > before)
    finally:
        await ours.peer.close()
