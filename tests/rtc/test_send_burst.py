"""How long the turns of an association are: small exchanges beside bulk make them short, and only they do."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.rtc.channel import DataChannel
from mxrtc_bridge.rtc.send_burst import BULKY_FOR_S, LONG_TURN, SHORT_FOR_S, SHORT_TURN, SMALL_MESSAGE, SendBurst
from tests.rtc.peers import Pair

KIB = 1024


class _Owner:
    def send_message(self, channel: DataChannel, message: str | bytes) -> None: ...

    def close_channel(self, channel: DataChannel) -> None: ...

    def credit(self, channel: DataChannel, size: int) -> None: ...


def channel() -> DataChannel:
    return DataChannel(_Owner(), "label", "protocol")


def test_turns_are_long_until_a_small_message_passes_beside_bulk() -> None:
    turns = SendBurst()
    assert turns.packets(0.0) == LONG_TURN
    turns.passed(1.0, channel(), 1, beside_bulk=False)
    assert turns.packets(1.0) == LONG_TURN, "nothing else waits: there is nothing to shorten"
    turns.passed(1.0, channel(), SMALL_MESSAGE, beside_bulk=True)
    assert turns.packets(1.0) == SHORT_TURN
    assert turns.packets(1.0 + SHORT_FOR_S) == LONG_TURN


def test_large_messages_leave_turns_long() -> None:
    turns = SendBurst()
    turns.passed(1.0, channel(), SMALL_MESSAGE + 1, beside_bulk=True)
    assert turns.packets(1.0) == LONG_TURN


def test_small_messages_of_a_bulk_stream_leave_turns_long_until_it_has_been_quiet() -> None:
    """The credits of a transfer are as small as keystrokes, and nobody waits for them."""
    turns, bulk = SendBurst(), channel()
    turns.passed(1.0, bulk, 16 * KIB, beside_bulk=False)
    turns.passed(1.0 + BULKY_FOR_S / 2, bulk, 10, beside_bulk=True)
    assert turns.packets(1.0 + BULKY_FOR_S / 2) == LONG_TURN
    turns.passed(1.0 + BULKY_FOR_S, bulk, 10, beside_bulk=True)
    assert turns.packets(1.0 + BULKY_FOR_S) == SHORT_TURN


@pytest.mark.alone
async def test_association_shortens_its_turns_while_bytes_go_there_and_back_beside_bulk() -> None:
    """Over real sockets: the runs that leave become short with the first exchange."""
    async with Pair() as pair:
        bulk, bulk_there = await pair.open()
        keys, keys_there = await pair.open()
        association = pair.caller.peer._association
        runs: list[int] = []
        send = association._transport.send_packets

        def count(packets: list[bytes]) -> None:
            runs.append(len(packets))
            send(packets)

        association._transport.send_packets = count  # type: ignore[method-assign]
        peer = pair.caller.peer
        keys_there.events.clear()

        async def pump(until: int) -> None:
            while bulk_there.received_bytes < until:
                while peer.can_send():
                    bulk.channel.send(bytes(16 * KIB))
                await asyncio.sleep(0)

        await pump(4096 * KIB)
        assert max(runs) > SHORT_TURN
        keys.channel.send(b"x")
        runs.clear()
        await pump(bulk_there.received_bytes + 512 * KIB)
        await keys_there.until(lambda channel: b"x" in channel.events)
        assert max(runs[:20]) <= SHORT_TURN
